"""PlanRequest: what plans are asked for, as planners get it; and how planners of both signatures are called with it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autolmk.errors import AutolmkError
from autolmk.files.serialization import near
from autolmk.planning.presets import DEFAULT_PRESET, DEVICES, PRESETS, Preset, usable_bytes

if TYPE_CHECKING:
    from autolmk.fingerprint import Fingerprint

FINEST, LEAST_VOXELS = 10, 4  # a spacing that a user demands: at most so much finer; so many voxels an axis are left
AXES = {2: "y x", 3: "z y x"}
KEYWORDS = ("preset", "device", "memory_target_gb", "spacing")  # of `plan` before it took a request


@dataclass(frozen=True)
class PlanRequest:
    """A request for plans; `PlanRequest.of` fills in what a user leaves open, and checks it.

    fingerprint: of the dataset. preset: a key of PRESETS. device: cpu or cuda. memory_target_gb: GiB that training may
    take. spacing: (D,) mm of canonical array axes that overrides the planned one. why: name -> who chose it.
    """

    fingerprint: Fingerprint
    preset: str
    device: str
    memory_target_gb: float
    spacing: tuple[float, ...] | None = None
    why: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if self.spacing is not None:
            object.__setattr__(self, "spacing", tuple(float(s) for s in self.spacing))

    @classmethod
    def of(
        cls,
        fingerprint: Fingerprint,
        device: str,
        *,
        preset: str | None = None,
        memory_target_gb: float | None = None,
        spacing: Sequence[float] | None = None,
    ) -> PlanRequest:
        """A request as a user makes it: preset None is XS on a CPU and M on CUDA, memory_target_gb None the preset's.

        AutolmkError for an unknown preset or device, and for a spacing that does not fit the images.
        """
        chosen, target = _demanded(device, preset, memory_target_gb)
        _check(fingerprint, spacing)
        default = {"cpu": "the default without CUDA", "cuda": "the default with CUDA"}[device]
        why = {
            "preset": default if preset is None else "as demanded",
            "memory_target_gb": "the preset's" if memory_target_gb is None else "as demanded",
        }
        return cls(fingerprint, chosen, device, target, None if spacing is None else tuple(spacing), why)

    @property
    def size(self) -> Preset:
        """The numbers behind the preset's name."""
        return PRESETS[self.preset]

    @property
    def budget(self) -> float:
        """Bytes of the memory target that plans may fill."""
        return usable_bytes(self.device, self.memory_target_gb)


def accepting_both(plan: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a planner's `plan` so that it can be written and called in both ways.

    `plan(self, request)`, and as planners were written before there were requests: `plan(self, fingerprint, *, preset,
    device, memory_target_gb, spacing=None)`. AutolmkError when it is called, where it takes neither.
    """
    of_old = _takes(plan, None, None, **dict.fromkeys(KEYWORDS))

    @functools.wraps(plan)
    def either(self: Any, demand: Any, **keywords: Any) -> Any:
        request = demand if isinstance(demand, PlanRequest) else PlanRequest(demand, **keywords)
        if of_old:
            return plan(self, request.fingerprint, **{key: getattr(request, key) for key in KEYWORDS})
        if not _takes(plan, None, None):
            raise AutolmkError(
                f"the planner {type(self).__name__} cannot be asked for plans",
                file=inspect.getsourcefile(plan),
                found=f"plan{inspect.signature(plan)}",
                expected="plan(self, request), with a PlanRequest",
                remedy="write its plan as documentation/write_a_planner.md shows",
            )
        return plan(self, request)

    return either


def _takes(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> bool:
    """Whether the function can be called so."""
    try:
        inspect.signature(function).bind(*arguments, **keywords)
    except TypeError:
        return False
    return True


def _demanded(device: str, preset: str | None, memory_target_gb: float | None) -> tuple[str, float]:
    """(preset, memory target in GiB). AutolmkError for what there is not."""
    if device not in DEVICES:
        raise AutolmkError(
            f"plans are made for cpu or cuda, not for {device!r}",
            expected="cpu or cuda",
            remedy="choose one with -device, or leave it out",
        )
    chosen = DEFAULT_PRESET[device] if preset is None else preset
    if chosen not in PRESETS:
        raise AutolmkError(
            f"there is no preset {chosen!r}{near(chosen, PRESETS)}",
            expected=", ".join(PRESETS),
            remedy="choose one with --preset, or leave it out",
        )
    target = PRESETS[chosen].memory_gb if memory_target_gb is None else memory_target_gb
    if not target > 0:
        raise AutolmkError(
            "the memory target must be positive",
            found=f"{target} GiB",
            expected="such as 8",
            remedy="correct -gpu_memory_target, or leave it out",
        )
    return chosen, target


def _check(fingerprint: Fingerprint, spacing: Sequence[float] | None) -> None:
    if not fingerprint.landmarks or fingerprint.n_cases < 1:
        raise AutolmkError(
            "there is nothing to plan for",
            found=f"{fingerprint.n_cases} cases, {len(fingerprint.landmarks)} landmarks",
            expected="at least one of each",
            remedy="run autolmk_check on the dataset, then extract the fingerprint again",
        )
    if spacing is None:
        return
    bounds = [
        (native / FINEST, max(native, extent / LEAST_VOXELS))
        for native, extent in zip(fingerprint.median_spacing, fingerprint.median_extent, strict=True)
    ]
    if len(spacing) != len(bounds) or not all(a <= s <= b for s, (a, b) in zip(spacing, bounds, strict=True)):
        allowed = ", ".join(f"{low:.4g} to {high:.4g}" for low, high in bounds)
        raise AutolmkError(
            "the target spacing does not fit the images",
            found=", ".join(f"{s:g}" for s in spacing),
            expected=f"{len(bounds)} positive numbers, one an axis in the order {AXES[fingerprint.ndim]}: {allowed}",
            remedy="correct -overwrite_target_spacing, or leave it out",
        )
