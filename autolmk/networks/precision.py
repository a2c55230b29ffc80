"""Device, mixed precision, memory layout and compilation of training.

CUDA: autocast in bfloat16 where the card has it, else float16 with scaled gradients; what is left in float32 without
TF32; torch.compile where a trial of it works. CPU: bfloat16 in training where the processor computes in it (AVX-512
BF16 or AMX), float32 in prediction. Network outputs come back in float32, so that losses are computed in it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from autolmk import ranks
from autolmk.errors import AutolmkError
from autolmk.networks.autocast import MetaAutocast
from autolmk.networks.onednn import OneDnn

MAX_GRADIENT_NORM = 12.0  # as nnU-Net's
CHANNELS_LAST = False  # convolutions' weights on CUDA; `benchmarks/gpu.py --parts layout` measures both, not run so far
_OTHER_MAKERS = {"mps": "Apple's GPUs, which autolmk does not use", "xpu": "Intel's GPUs, which autolmk does not use"}
logger = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """auto (CUDA where there is any), cpu, cuda or cuda:N. AutolmkError where there is no such device."""
    cuda = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise AutolmkError(
            f"there is no device {name!r}",
            expected="auto, cpu, cuda or cuda:N",
            remedy="choose one with -device, or leave it out",
        ) from None
    if device.type not in ("cpu", "cuda"):
        raise AutolmkError(
            f"the device {name!r} is not supported",
            found=_OTHER_MAKERS.get(device.type),
            expected="auto, cpu, cuda or cuda:N",
            remedy="compute on the processor with -device cpu, choose another one, or leave -device out",
        )
    count = torch.cuda.device_count() if cuda else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise AutolmkError(
            f"there is no device {name!r}",
            found=f"{count} CUDA devices",
            remedy="check the driver and that this build of torch supports CUDA, or use -device cpu",
        )
    if device.type == "cuda":
        _require_kernels(device)
    return device


def _require_kernels(device: torch.device) -> None:
    """AutolmkError where this build of torch has no kernels for the card, which else shows amid the first step."""
    built = torch.cuda.get_arch_list()
    if not any(name.startswith("sm_") for name in built):  # of another maker
        return
    major, minor = torch.cuda.get_device_capability(device)
    if not has_kernels((major, minor), built):
        raise AutolmkError(
            f"this build of torch cannot use the device {str(device)!r}",
            found=f"{torch.cuda.get_device_name(device)} of compute capability {major}.{minor}",
            expected=f"one of {', '.join(built)}",
            remedy="install a build of torch for this card, or use -device cpu",
        )


def has_kernels(capability: tuple[int, int], built: Sequence[str]) -> bool:
    """Whether code that was built for some architectures runs on a card of that compute capability. built: such as
    sm_86, for cards of the same major number and as new, or compute_90, which any newer card compiles for itself."""
    for name in built:
        kind, _, number = name.partition("_")
        digits = "".join(c for c in number if c.isdigit())
        if len(digits) < 2:
            continue
        of = (int(digits[:-1]), int(digits[-1]))
        if of <= capability and (kind == "compute" or (kind == "sm" and of[0] == capability[0])):
            return True
    return False


def computes_in_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16; elsewhere torch emulates it, which is slower than float32."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.12
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class MixedPrecision(nn.Module):
    """The network under autocast, its output in float32; without a dtype the plain network."""

    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.network, self.device, self.dtype = network, device, dtype

    def forward(self, *inputs: Tensor) -> Any:
        """Apply the network to (B, C, *S) and whatever else it takes."""
        if self.dtype is None:
            with OneDnn() if self.device.type == "cpu" else contextlib.nullcontext():
                return self.network(*inputs)
        with self._autocast(self.dtype):
            output = self.network(*inputs)
        return _in_float32(output)

    def _autocast(self, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
        return MetaAutocast(dtype) if self.device.type == "meta" else torch.autocast(self.device.type, dtype=dtype)


def _in_float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _in_float32(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_in_float32(item) for item in value)
    return value


class Precision:
    """The precision in which one device computes a step."""

    def __init__(self, device: torch.device, *, training: bool = False) -> None:
        self.device = device
        self.dtype: torch.dtype | None = None
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            _leave_tf32()
            with torch.cuda.device(device):  # the question is about the current device
                native = torch.cuda.is_bf16_supported(including_emulation=False)
            self.dtype = torch.bfloat16 if native else torch.float16
        elif training and computes_in_bfloat16():
            self.dtype = torch.bfloat16
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)

    def describe(self) -> str:
        """The precision in words, such as float32 or bfloat16."""
        return str(self.dtype or torch.float32).removeprefix("torch.")

    def place(self, module: nn.Module) -> nn.Module:
        """Put a module on the device; on CUDA with convolutions' weights as CHANNELS_LAST says. On a CPU that computes
        in bfloat16, shallow 3D convolutions stay in float32, see `_leave_bfloat16`.
        """
        if self.device.type != "cuda":
            if self.dtype is not None:
                for part in module.modules():
                    if isinstance(part, nn.Conv3d):
                        part.register_forward_pre_hook(_leave_bfloat16)
                        part.register_forward_hook(_return_to_bfloat16, always_call=True)
            return module.to(self.device)
        for parameter in module.parameters() if CHANNELS_LAST else ():
            if parameter.ndim in _LAYOUTS:  # inputs follow: a convolution takes the layout of its weights
                parameter.data = parameter.data.to(self.device, memory_format=_LAYOUTS[parameter.ndim])
        return module.to(self.device)

    def tensor(self, value: Any) -> Tensor:
        """A batch's array on the device. To a GPU it goes through pinned memory, so that nothing waits for the copy."""
        tensor = torch.as_tensor(value)
        if self.device.type != "cuda" or tensor.device.type != "cpu":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def restore(self, optimizer: torch.optim.Optimizer, scaler: dict[str, Any]) -> None:
        """Bring an optimizer's loaded state into the layout of its weights, and the scaler into its saved state. A run
        that began without scaled gradients, in bfloat16 or on a CPU, starts with a fresh one.
        """
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                alike = isinstance(value, Tensor) and value.shape == parameter.shape
                if alike and value.stride() != parameter.stride():
                    state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        if scaler:
            self.scaler.load_state_dict(scaler)

    def update(self, loss: Tensor, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> None:
        """Take a training step from a scalar loss: backward, gradients averaged over the ranks and clipped to a norm of
        12, and the optimizer's step. What is not finite on one rank is so on all, and all of them skip the step.
        """
        torch.autograd.backward(self.scaler.scale(loss))
        ranks.average_gradients(parameters)
        self.scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        self.scaler.step(optimizer)
        self.scaler.update()


def _leave_bfloat16(convolution: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Before a convolution of images (B, C, D, H, W) whose depth D is below the kernel's: torch's bfloat16 gradient of
    its weight reads memory that nothing wrote (2.13; kernel 3 at depth 2, 5 at 3), so that it is NaN at times, and
    wrong."""
    assert isinstance(convolution, nn.Conv3d)
    if inputs[0].shape[2] >= convolution.kernel_size[0]:
        return None
    whole = ExitStack()
    whole.enter_context(torch.autocast("cpu", enabled=False))
    convolution.__dict__["_in_float32"] = whole
    return (inputs[0].float(),)


def _return_to_bfloat16(convolution: nn.Module, _: Any, __: Any) -> None:
    """After it."""
    whole = convolution.__dict__.pop("_in_float32", None)
    if whole is not None:
        whole.close()


def _leave_tf32() -> None:
    """Of float32 convolutions, which are the heads': TF32 keeps 10 bits of the mantissa, and rounding moves peaks."""
    convolutions: Any = getattr(torch.backends.cudnn, "conv", None)
    if hasattr(convolutions, "fp32_precision"):  # since torch 2.9
        convolutions.fp32_precision = "ieee"
    else:
        torch.backends.cudnn.allow_tf32 = False


_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def compiled(module: nn.Module, trial: Callable[[Callable[[Tensor], Any]], None], device: torch.device) -> Any:
    """The module compiled, where `trial` (a forward and backward pass) works with it; only on CUDA; else as it is.

    Compilers and drivers fail in many ways; any of them only means training without it, and the log says why.
    """
    if device.type != "cuda":
        return module
    candidate = torch.compile(module)
    try:
        trial(candidate)
        torch.cuda.synchronize(device)
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        logger.warning(
            "the GPU's memory does not suffice to try torch.compile, training goes on without it (%s)",
            str(error).split(". ")[0],
        )
        return module
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        logger.warning("torch.compile does not work here, training goes on without it (%s)", reason)
        return module
    return candidate
