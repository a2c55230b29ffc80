"""Bytes that tensors hold while something is computed, at every moment: on torch's meta device, where none has data."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counter of the storages of new tensors on `device`, inside `with`, until they are freed. now, most: bytes at this
    moment, and at the worst one since `mark`. kept: of the latter, those that `keep` was told of. What is made inside
    an operation, such as cuDNN's workspaces, is not seen.
    """

    def __init__(self, device: str = "meta") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.now = self.most = self.kept = 0
        self._keeping = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def mark(self) -> None:
        """Forget the worst moment so far."""
        self.most, self.kept = self.now, self._keeping

    def keep(self, size: int) -> None:
        """Count bytes that stay to the end, such as a parameter's gradient."""
        self._keeping += size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type == self.device:
                self._note(tensor)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def gone(_: object) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        if self.now > self.most:
            self.mark()
