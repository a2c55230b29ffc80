"""A CUDA device pretended on a CPU-only build of torch, so that every path for GPUs runs where there is none.

`on_pretended_gpu(work, ...)` runs `work(gpu, ...)` in a fresh process, in which tensors on "cuda" say so and hold real
data in the CPU's memory. Values, autograd, autocast and gradient scaling follow CUDA's rules; operations on mixed
devices and `.numpy()` raise as CUDA would; what makes the host wait is recorded with its place in `gpu.waits`, and
operations that start a kernel are counted in `gpu.launches`. `on_fake_gpu(work, ...)` is for sizes that fit no test
machine: tensors have no data at all. Neither sees kernels' own faults, their speed, cuDNN's choices, streams or CUDA's
allocator.

Both reach into torch's internals, as they are in the version below; where these have moved, tests are skipped, and say
so.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import json
import multiprocessing
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

KNOWN_TORCH = "2.13."
PRELOADED = [
    "pytest",
    "torch._dynamo",
    "torch._subclasses.fake_tensor",
    "autolmk.training.stages",
    "autolmk.conformance",
]
CUDA = torch.device("cuda:0")
COPIES = ("_to_copy", "copy_", "device_put")
WAITS = (  # operations whose result, or its shape, the host must see
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select"),
    *("_unique2", "unique_dim", "unique_consecutive", "repeat_interleave"),
)
INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_")
NO_KERNEL = frozenset(
    (
        *("view", "_unsafe_view", "view_as", "expand", "permute", "transpose", "t", "slice", "select", "narrow"),
        *("unsqueeze", "squeeze", "detach", "alias", "as_strided", "unbind", "split", "split_with_sizes", "unfold"),
        *("diagonal", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty", "_reshape_alias"),
        "_local_scalar_dense",
    )
)
LOW = (torch.float16, torch.bfloat16)
SLOTS, HAS_PRIMARY_CONTEXT = 60, 4  # of the table of virtual functions, of CUDAHooksInterface


class Moved(Exception):
    """torch's internals are not those that this helper knows."""


# -- a process of its own ----------------------------------------------------------------------------------------------


def on_pretended_gpu(work: Callable[..., Any], *arguments: Any, bfloat16: bool = True) -> Any:
    """What `work` returns, as JSON keeps it: a function of a module that can be imported. bfloat16: whether the card
    has it. Failures are raised here, with the place where they happened; skips the test where torch's internals have
    moved."""
    return _apart(_pretending, work, arguments, bfloat16)


def on_fake_gpu(work: Callable[..., Any], *arguments: Any) -> Any:
    """As `on_pretended_gpu`, with tensors that have no data: what is made on "cuda" takes no memory."""
    return _apart(_faking, work, arguments, True)


def _apart(how: Callable[..., Any], work: Callable[..., Any], arguments: Sequence[Any], bfloat16: bool) -> Any:
    """In a process of its own, forked from one that has loaded torch and computed nothing: autograd's engine looks for
    devices when it is first used, and nothing has to be undone."""
    if torch.backends.cuda.is_built() or not torch.__version__.startswith(KNOWN_TORCH):
        pytest.skip(f"a GPU is pretended on CPU-only torch {KNOWN_TORCH}x, this is {torch.__version__}")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sending, how, work, arguments, bfloat16))
    process.start()
    sending.close()
    try:
        kind, value = json.loads(receiving.recv_bytes())
    except EOFError:
        kind, value = "failed", "the process with the pretended GPU ended amid its work"
    process.join()
    receiving.close()
    process.close()
    if kind == "moved":
        pytest.skip(f"torch's internals have moved: {value}")
    if kind == "failed":
        pytest.fail(value, pytrace=False)
    return value


def _answer(
    sending: Connection, how: Callable[..., Any], work: Callable[..., Any], arguments: Sequence[Any], bfloat16: bool
) -> None:
    torch.set_num_threads(1)
    try:
        answer: tuple[str, Any] = ("done", how(work, arguments, bfloat16))
    except Moved as error:
        answer = ("moved", str(error))
    except BaseException:
        answer = ("failed", traceback.format_exc())
    sending.send_bytes(json.dumps(answer).encode())


def _pretending(work: Callable[..., Any], arguments: Sequence[Any], bfloat16: bool) -> Any:
    _let_autograd_know()
    gpu = PretendedGpu()
    _patch_torch(bfloat16)
    torch._C._set_only_lift_cpu_tensors(True)
    OnGpu.gpu = gpu
    with gpu:
        return work(gpu, *arguments)


def _faking(work: Callable[..., Any], arguments: Sequence[Any], bfloat16: bool) -> Any:
    _let_autograd_know()
    _patch_torch(bfloat16)
    torch.cuda.is_available = lambda: False
    nn.Module.to = _moved_module  # type: ignore[assignment,method-assign]
    with FakeTensorMode(allow_non_fake_inputs=True):
        return work(*arguments)


# -- torch's own state, in that process --------------------------------------------------------------------------


def _let_autograd_know() -> None:
    """Autograd's engine wants a guard of the device, and asks CUDA's hooks whether there is one.

    A CPU-only build has neither. The guard's place gets one whose every method returns 0, which torch then replaces by
    its own that does nothing; of the hooks, the virtual function that makes torch name CUDA is found by trying.
    """
    libraries = Path(torch.__file__).parent / "lib"
    try:
        core = ctypes.CDLL(str(libraries / "libc10.so"))
        guards = (ctypes.c_void_p * 32).in_dll(core, "_ZN3c104impl26device_guard_impl_registryE")
        get = ctypes.CDLL(str(libraries / "libtorch_cpu.so"))["_ZN2at6detail12getCUDAHooksEv"]
        place = torch._C._ensureCUDADeviceGuardSet
    except (OSError, ValueError, AttributeError) as error:
        raise Moved(str(error)) from None
    number = ctypes.CFUNCTYPE(ctypes.c_long)
    zero, one = number(lambda: 0), number(lambda: 1)
    table = (ctypes.c_void_p * 64)(*[ctypes.cast(zero, ctypes.c_void_p).value] * 64)
    guard = ctypes.c_void_p(ctypes.addressof(table))
    KEPT.extend([zero, one, table, guard])
    guards[1] = ctypes.addressof(guard)  # DeviceType::CUDA
    place()
    if guards[1] == ctypes.addressof(guard):
        raise Moved("the registry of device guards")
    get.restype = ctypes.c_void_p
    hooks = ctypes.c_void_p.from_address(get())
    original = (ctypes.c_void_p * SLOTS).from_address(hooks.value or 0)
    for slot in range(2, SLOTS):
        new = (ctypes.c_void_p * SLOTS)(*original)
        new[slot] = ctypes.cast(one, ctypes.c_void_p).value
        new[HAS_PRIMARY_CONTEXT] = ctypes.cast(zero, ctypes.c_void_p).value
        hooks.value = ctypes.addressof(new)
        KEPT.append(new)
        if str(torch.accelerator.current_accelerator()) == "cuda":
            return
    raise Moved("CUDAHooksInterface")


KEPT: list[Any] = []  # what C++ now points to


def _patch_torch(bfloat16: bool) -> None:
    """What asks the driver. A wrapper cannot be an inference tensor: no_grad takes its place."""
    inside: list[bool] = []

    @contextlib.contextmanager
    def inference_mode(mode: bool = True) -> Iterator[None]:
        inside.append(mode)
        try:
            with torch.no_grad():
                yield
        finally:
            inside.pop()

    state = torch.zeros(16, dtype=torch.uint8)
    replaced: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "_lazy_init": lambda: None,
        "is_initialized": lambda: True,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "is_bf16_supported": lambda including_emulation=True: bfloat16,
        "device": lambda device: contextlib.nullcontext(),
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "max_memory_allocated": lambda device=None: 0,
        "get_arch_list": list,
        "get_device_name": lambda device=None: "pretended",
        "get_rng_state": lambda device=None: state.clone(),
        "set_rng_state": lambda new, device=None: None,
    }
    modules: list[tuple[Any, dict[str, Any]]] = [
        (torch.cuda, replaced),
        (torch.cuda.amp.common, {"amp_definitely_not_available": lambda: False}),
        (torch, {"inference_mode": inference_mode, "is_inference_mode_enabled": lambda: bool(inside)}),
        (nn.Parameter, {"data": _data()}),
        (Tensor, {"pin_memory": lambda tensor: tensor}),
    ]
    for owner, attributes in modules:
        for name, value in attributes.items():
            if not hasattr(owner, name):
                raise Moved(f"{owner.__name__}.{name}")
            setattr(owner, name, value)


def _data() -> property:
    """`parameter.data` of a wrapper, whose storage cannot be set."""
    inner: Any = torch.Tensor.data

    def get(self: Tensor) -> Tensor:
        found: Tensor = self.detach() if isinstance(self, OnGpu) else inner.__get__(self)
        return found

    def set_(self: Tensor, value: Tensor) -> None:
        if isinstance(value, OnGpu) or isinstance(self, OnGpu):
            if value is not self:
                torch.utils.swap_tensors(self, nn.Parameter(value.detach(), requires_grad=self.requires_grad))
        else:
            inner.__set__(self, value)

    return property(get, set_)


def _moved_module(module: nn.Module, *arguments: Any, **named: Any) -> nn.Module:
    """`nn.Module.to` without setting data in place, which fake tensors do not allow."""
    device, dtype, *_ = torch._C._nn._parse_to(*arguments, **named)
    for part in module.modules():
        for store in (part._parameters, part._buffers):
            for name, tensor in store.items():
                if tensor is not None:
                    kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
                    new = tensor.detach().to(device or tensor.device, kind)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    store[name] = nn.Parameter(new, requires_grad=tensor.requires_grad) if is_parameter else new
    return module


# -- tensors -----------------------------------------------------------------------------------------------------------


class OnGpu(Tensor):
    """Says that it is on cuda:0; `held` is the data."""

    gpu: PretendedGpu
    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        made: OnGpu = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=CUDA,
            requires_grad=False,
        )
        made.held = held
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnGpu({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            new: Tensor = OnGpu(self.held.clone())
            if isinstance(self, nn.Parameter):
                new = nn.Parameter(new, requires_grad=self.requires_grad)
            memo[id(self)] = new
        found: Tensor = memo[id(self)]
        return found

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return cls.gpu.run(func, args, kwargs or {})


class PretendedGpu(TorchDispatchMode):
    """Records what is done on the device. launches: operations by name. waits: (kind, operation, place) -> how often
    the host had to wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.forget()

    def forget(self) -> None:
        """What was recorded so far."""
        self.launches: collections.Counter[str] = collections.Counter()
        self.waits: collections.Counter[tuple[str, str, str]] = collections.Counter()

    def waited(self) -> dict[str, int]:
        """Kind, operation and place as one text -> times."""
        return {": ".join(key): times for key, times in self.waits.items()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The operation, on the data that the wrappers hold."""
        name = func._schema.name.split("::")[1]
        flat, spec = tree_flatten((args, kwargs))
        ours = [t for t in flat if isinstance(t, OnGpu)]
        others = [t for t in flat if isinstance(t, Tensor) and not isinstance(t, OnGpu)]
        device = kwargs.get("device")
        here = bool(ours) if device is None else torch.device(device).type == "cuda"
        if name in COPIES:
            self._copying(name, args, here, kwargs)
        elif ours:
            self._checked(func, name, args, others)
        held, named = tree_unflatten([_held(t) for t in flat], spec)
        out = _on_a_cpu(func, name, held, {k: v for k, v in named.items() if k != "pin_memory"})
        if (ours or here) and name not in NO_KERNEL:
            self.launches[name] += 1
        known = {id(t.held): t for t in ours} | {id(t): t for t in others}
        found, shape = tree_flatten(out)
        return tree_unflatten([_wrapped(t, known, here) for t in found], shape)

    def _copying(self, name: str, args: Any, here: bool, kwargs: dict[str, Any]) -> None:
        source = args[1] if name == "copy_" else args[0]
        to_gpu = isinstance(args[0], OnGpu) if name == "copy_" else here
        non_blocking = kwargs.get("non_blocking", args[2] if name == "copy_" and len(args) > 2 else False)
        if isinstance(source, OnGpu) != to_gpu and not non_blocking:
            self._wait("copy to the device" if to_gpu else "copy from the device", name)

    def _checked(self, func: Any, name: str, args: Any, others: list[Tensor]) -> None:
        if name in WAITS:
            self._wait("sync", name)
        if name in INDEXED:
            indices = [t for t in args[1] if isinstance(t, Tensor)]
            if any(not isinstance(t, OnGpu) for t in indices):
                self._wait("copy of an index", name)
            if any(t.dtype in (torch.bool, torch.uint8) for t in indices):
                self._wait("sync of a mask", name)
            others = [t for t in others if not any(t is index for index in indices)]
        strict = ("gather", "scatter", "scatter_add_", "index_select", "cat", "stack", "mm", "bmm", "convolution")
        if any(t.ndim > 0 or name in strict for t in others):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, found cuda:0 and cpu: {func}, {_place()}"
            )

    def _wait(self, kind: str, name: str) -> None:
        self.waits[(kind, name, _place())] += 1


def _held(value: Any) -> Any:
    if isinstance(value, OnGpu):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == "cuda" else value


def _on_a_cpu(func: Any, name: str, arguments: Any, named: dict[str, Any]) -> Any:
    """What CPUs lack in low precision is computed in float32; CUDA's softmax turns float16 into float32 by itself."""
    if name in ("_softmax", "_log_softmax") and arguments[2]:
        return func(arguments[0].float(), arguments[1], False)
    if name in ("_softmax_backward_data", "_log_softmax_backward_data") and arguments[3] == torch.float16:
        return func(*arguments[:3], torch.float32).half()
    try:
        return func(*arguments, **named)
    except NotImplementedError:
        low = next(t.dtype for t in tree_leaves(arguments) if isinstance(t, Tensor) and t.dtype in LOW)
        whole = tree_map_only(Tensor, lambda t: t.float() if t.dtype == low else t, (arguments, named))
        out = func(*whole[0], **whole[1])
        return tree_map_only(Tensor, lambda t: t.to(low) if t.dtype == torch.float32 else t, out)


def _wrapped(value: Any, known: dict[int, Tensor], here: bool) -> Any:
    if not isinstance(value, Tensor):
        return value
    return known[id(value)] if id(value) in known else OnGpu(value) if here else value


def _place() -> str:
    """Of the package's line that is being run, else "backward"."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if "/site-packages/" not in file and ("/autolmk/" in file or "/trainers/" in file):
            return f"{'/'.join(Path(file).parts[-2:])} {frame.f_code.co_name}, line {frame.f_lineno}"
        frame = frame.f_back
    return "backward"
