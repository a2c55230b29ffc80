"""The window and the network of a stage that looks at the image itself: the search that planners share.

Context finds a landmark, sub-voxel decoding keeps the precision: so one window that holds the whole image is preferred,
coarsened within bounds; else windows are as large as memory allows, coarsened until they see half of the image.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autolmk.errors import AutolmkError
from autolmk.networks.topology import SMALLEST, Topology, topology, with_output_stride
from autolmk.planning import context_rules, rules
from autolmk.planning.memory import GIB, MemoryEstimate
from autolmk.planning.planner import Preset, memory_of
from autolmk.plans import Architecture, Augmentation, Configuration, Normalization, Schedule, Windows

if TYPE_CHECKING:
    from autolmk.fingerprint import Fingerprint

MARGIN = 1.02  # a whole image's window over its extent
VIEW = 0.5  # share of the image that a window must see along each axis, else the spacing is coarsened
FINE_STEP, SIDE_STEP = 1.03, 1.05  # factors between the spacings, and between the sides, that are tried
HEADS_SHARE = 0.3  # of the activations that the landmarks' logits may take before the decoder stops earlier
OUTPUT_STRIDES = 3  # 1, 2 and 4
FEWEST_STAGES, MOST_PADDING = 4, 2.0  # depth is given up, down to this, where strides would pad a window by more
LEAST_SIDE = 8 * SMALLEST  # voxels along the longest side of a window, and of an image that was coarsened
RESIDUAL_BLOCKS = (1, 3, 4, 6)  # of the first stages; the last number holds for all that follow
NOTHING = (Augmentation((), (1.0, 1.0), ()), Schedule(1, 1, None, 1e-3, 0.0, 0.0, 0.0))  # memory does not depend on it


@dataclass(frozen=True)
class Design:
    """A window and the network for it. least: bytes that training takes with the smallest batch."""

    spacing: tuple[float, ...]
    patch: tuple[int, ...]
    architecture: Architecture
    least: int

    @property
    def sides(self) -> tuple[float, ...]:
        """The window's sides, (D,) mm."""
        return tuple(n * s for n, s in zip(self.patch, self.spacing, strict=True))

    @property
    def output_spacing(self) -> tuple[float, ...]:
        """The spacing of the outputs, (D,) mm."""
        return tuple(s * o for s, o in zip(self.spacing, self.architecture.output_stride, strict=True))


class Search:
    """Looks for the best window and network that fit a budget of bytes. Costs of designs are remembered.

    trainer: whose network and loss are counted. fields: of the method's configuration, where they are not the default
    (`options`), for counting and in what `configuration` returns.
    """

    def __init__(
        self,
        trainer: str,
        fingerprint: Fingerprint,
        preset: Preset,
        device: str,
        budget: float,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        self.trainer, self.fields = trainer, dict(fields or {})
        self.fingerprint, self.preset, self.device, self.budget = fingerprint, preset, device, budget
        self.three_d = int(fingerprint.ndim == 3)
        self.batch_least = preset.batch_least[self.three_d]
        self.finest, self.why_finest = rules.finest_spacing(fingerprint)
        self.rotation = rules.rotation_range(fingerprint)[0]
        reach, self.why_reach = rules.extents_to_cover(fingerprint, self.rotation)
        self.reach = tuple(MARGIN * r for r in reach)
        self.nearest = rules.nearest_distance(fingerprint)
        self.coarsest = max(min(self.finest), self.nearest / rules.APART)  # mm
        self.costs: dict[tuple[tuple[int, ...], Architecture], MemoryEstimate] = {}

    def configuration(self, given: Sequence[float] | None) -> Configuration:
        """All numbers of a stage that looks at the image, each with its reason. given: (D,) mm, a demanded spacing."""
        fingerprint = self.fingerprint
        design, kind, why = self.best(given)
        batch, why_batch = self.batch(design)
        normalization, why_normalization = rules.normalizations(fingerprint)
        sigma, why_sigma = rules.heatmap_sigma(fingerprint, design.spacing, design.output_spacing)
        augmentation, why_augmentation = rules.augmentation(fingerprint, design.spacing, design.sides)
        prior, why_prior = rules.shape_prior(fingerprint)
        windows, why_windows = windows_for(fingerprint, design, kind)
        schedule, why_schedule = schedule_for(fingerprint, self.preset, design, windows, batch, augmentation)
        made = Configuration(
            trainer=self.trainer,
            data_identifier=rules.data_identifier(design.spacing, normalization),
            spacing=design.spacing,
            patch_size=design.patch,
            batch_size=batch,
            normalization=normalization,
            windows=windows,
            architecture=design.architecture,
            sigma=rules.rounded(sigma),
            augmentation=augmentation,
            schedule=schedule,
            shape_prior=prior,
            why={
                **why,
                "batch_size": why_batch,
                "normalization": why_normalization,
                "sigma": why_sigma,
                "shape_prior": why_prior,
                **why_windows,
                **why_augmentation,
                **why_schedule,
            },
            **self.fields,
        )
        sees = context_rules.seen_of_extent(fingerprint, made)[1]
        return dataclasses.replace(made, why={**made.why, "architecture.receptive_field": sees})

    # -- the choice ---------------------------------------------------------------------------------------------------

    def best(self, given: Sequence[float] | None) -> tuple[Design, str, dict[str, str]]:
        """The design, `whole` or `random`, and reasons. AutolmkError where not even a small window fits."""
        if given is not None:
            spacing = tuple(float(s) for s in given)
            whole = self.design(spacing, self.reach)
            design = whole if self.fits(whole) else self.largest(spacing)
            kind, why_spacing = ("whole" if design is whole else "random"), "as demanded"
        else:
            whole_or_none = self.whole()
            design = whole_or_none or self.random()
            kind = "whole" if whole_or_none else "random"
            why_spacing = self.why_spacing(design, kind)
        return design, kind, {"spacing": why_spacing, **self.reasons(design, kind)}

    def whole(self) -> Design | None:
        """The finest design whose window holds the whole image, None where bounds on coarsening forbid all that fit."""
        finest = min(self.finest)
        limit = self.preset.whole_coarsening * (2 if max(self.rotation) >= rules.ANY_POSE else 1)
        most = min(limit * finest, max(self.coarsest, finest))

        def at(i: int) -> Design:
            return self.design(rules.coarsened(self.finest, finest * FINE_STEP**i), self.reach)

        count = int(math.log(most / finest) / math.log(FINE_STEP) + 1e-9) + 1
        first = first_true(count, lambda i: self.fits(at(i)))
        if first is None:
            return None
        design = at(first)  # its window was rounded up: use the finest spacing at which it still holds the image
        needed = [r / n for r, n in zip(self.reach, design.patch, strict=True)]
        step = max([finest, *(d for d, s in zip(needed, self.finest, strict=True) if d > s)])
        spacing = rules.rounded(rules.coarsened(self.finest, step))
        return Design(spacing, design.patch, design.architecture, design.least)

    def random(self) -> Design:
        """The finest design whose window sees half of the image along each axis, within the bound on coarsening."""
        finest = min(self.finest)

        def at(i: int) -> Design:
            return self.largest(rules.rounded(rules.coarsened(self.finest, finest * FINE_STEP**i)))

        bound = min(max(self.coarsest, finest), max(max(self.reach) / LEAST_SIDE, finest))
        count = int(math.log(bound / finest) / math.log(FINE_STEP) + 1e-9) + 1
        first = first_true(count, lambda i: self.view(at(i)) >= VIEW)
        return at(count - 1 if first is None else first)

    def largest(self, spacing: tuple[float, ...]) -> Design:
        """The largest window at `spacing` that fits: a cube in mm, cut to the image. AutolmkError where none does."""
        smallest = LEAST_SIDE * min(spacing)
        count = int(math.log(max(1.0, max(self.reach) / smallest)) / math.log(SIDE_STEP)) + 1

        def at(i: int) -> Design:
            side = max(self.reach) / SIDE_STEP**i
            return self.design(spacing, [min(side, r) for r in self.reach])

        first = first_true(count, lambda i: self.fits(at(i)))
        if first is None:
            raise AutolmkError(
                "not even a small window fits the memory target",
                found=f"{at(count - 1).least / GIB:.2g} GiB for a window of {at(count - 1).patch} voxels",
                expected=f"at most {self.budget / GIB:.2g} GiB",
                remedy="raise -gpu_memory_target, or take another preset",
            )
        return at(first)

    def batch(self, design: Design) -> tuple[int, str]:
        """The batch size that fills what the window left, within the preset's bounds and half of the cases."""
        least = self.batch_least
        cases = max(least, self.fingerprint.n_cases // 2)
        most = min(max(self.preset.batch_most, least), cases)
        step = self.cost(design.patch, design.architecture, design.spacing).per_batch
        size = min(most, least + max(0, int((self.budget - design.least) // step)))
        used = design.least + (size - least) * step
        return size, (
            f"at least {least}, at most {most} (preset, half of the cases), as many as fit: "
            f"{used / GIB:.2f} of {self.budget / GIB:.2f} GiB"
        )

    # -- designs ------------------------------------------------------------------------------------------------------

    def design(self, spacing: Sequence[float], sides: Sequence[float]) -> Design:
        """The network for windows of at least `sides` mm at `spacing`; the output stride is such that the heads fit."""
        step = tuple(spacing)
        voxels = [max(SMALLEST, math.ceil(side / s - 1e-6)) for side, s in zip(sides, step, strict=True)]
        shape = self.topology(voxels, step)
        patch = shape.fitting(voxels)
        chosen = self.architecture(shape)
        for skipped in range(1, min(OUTPUT_STRIDES, len(shape.strides) - 1)):
            coarser = with_output_stride(chosen, skipped)
            if not self.allowed(coarser.output_stride, step, patch):
                break
            wanted = skipped <= self.preset.decoder_stops[self.three_d]
            if not wanted and self.heads_share(chosen, patch, step) <= HEADS_SHARE:
                break
            chosen = coarser
        cost = self.cost(patch, chosen, step)
        return Design(step, patch, chosen, cost.total + (self.batch_least - 1) * cost.per_batch)

    def topology(self, voxels: Sequence[int], spacing: Sequence[float]) -> Topology:
        """The deepest one whose strides do not double the window by padding, else the one that pads least."""
        depths = range(self.preset.max_stages[self.three_d], FEWEST_STAGES - 1, -1)
        options = [topology(voxels, spacing, depth) for depth in depths]
        padding = [math.prod(option.fitting(voxels)) / math.prod(voxels) for option in options]
        good = [option for option, p in zip(options, padding, strict=True) if p <= MOST_PADDING]
        return good[0] if good else options[padding.index(min(padding))]

    def architecture(self, shape: Topology) -> Architecture:
        """The preset's widths and blocks on these kernels and strides, decoder up to full resolution."""
        preset, n = self.preset, len(shape.strides)
        base, most = preset.base_features[self.three_d], preset.max_features[self.three_d]
        blocks = [RESIDUAL_BLOCKS[min(i, len(RESIDUAL_BLOCKS) - 1)] if preset.residual else 2 for i in range(n)]
        return Architecture(
            features_per_stage=tuple(min(most, base * 2**i) for i in range(n)),
            kernel_sizes=shape.kernel_sizes,
            strides=shape.strides,
            n_conv_per_stage=tuple(blocks),
            n_conv_per_stage_decoder=(1 if preset.residual else 2,) * (n - 1),
            output_stride=shape.strides[0],
            residual=preset.residual,
        )

    def allowed(self, stride: Sequence[int], spacing: Sequence[float], patch: Sequence[int]) -> bool:
        """Whether output voxels stay fine enough for the landmarks' distances, and the output has cells to decode."""
        fine = self.nearest >= rules.OUTPUT_APART * max(s * o for s, o in zip(spacing, stride, strict=True))
        return fine and max(stride) <= 4 and all(n // o >= SMALLEST for n, o in zip(patch, stride, strict=True))

    def heads_share(self, architecture: Architecture, patch: Sequence[int], spacing: Sequence[float]) -> float:
        """The share that logits (float32) and their gradient take of the bytes of one more window."""
        cells = math.prod(n // o for n, o in zip(patch, architecture.output_stride, strict=True))
        heads = 2 * 4 * len(self.fingerprint.landmarks) * cells
        return heads / self.cost(patch, architecture, spacing).per_batch

    def cost(self, patch: Sequence[int], architecture: Architecture, spacing: Sequence[float]) -> MemoryEstimate:
        """Bytes of training with one window in the batch."""
        key = (tuple(patch), architecture)
        if key not in self.costs:
            sigma = tuple(rules.SIGMA_OUTPUT * s * o for s, o in zip(spacing, architecture.output_stride, strict=True))
            draft = Configuration(
                self.trainer,
                "draft",
                tuple(spacing),
                tuple(patch),
                1,
                (Normalization("none"),) * len(self.fingerprint.channel_names),
                Windows("whole"),
                architecture,
                sigma,
                *NOTHING,
                **self.fields,
            )
            self.costs[key] = memory_of(self.fingerprint, draft, self.device, 1)
        return self.costs[key]

    def fits(self, design: Design) -> bool:
        """Whether training with the smallest batch stays in the budget."""
        return design.least <= self.budget

    def view(self, design: Design) -> float:
        """Share of the median image that a window sees along the axis where it sees least."""
        return min(w / e for w, e in zip(design.sides, self.fingerprint.median_extent, strict=True))

    # -- reasons ------------------------------------------------------------------------------------------------------

    def why_spacing(self, design: Design, kind: str) -> str:
        """The reason for the spacing, in words."""
        factor = min(design.spacing) / min(self.finest)
        fine = "x".join(f"{s:.3g}" for s in self.finest)
        start = f"finest {fine} ({self.why_finest})"
        if factor < 1.001:
            return f"{start}; not coarsened"
        aim = (
            "one window holds the whole image"
            if kind == "whole"
            else f"a window sees {self.view(design):.0%} of the image along every axis"
        )
        return f"{start}, coarsened {factor:.2f} times so that {aim}; nearest landmarks allow {self.coarsest:.3g}"

    def reasons(self, design: Design, kind: str) -> dict[str, str]:
        """The reasons for the window and the network."""
        budget = f"{self.budget / GIB:.2f} GiB"
        share = self.heads_share(design.architecture, design.patch, design.spacing)
        covers = "x".join(f"{r:.4g}" for r in self.reach)
        return {
            "patch_size": (
                f"covers {covers} ({self.why_reach}), rounded up to the strides"
                if kind == "whole"
                else f"the largest that fits {budget} with a batch of {self.batch_least}"
            ),
            "architecture": f"nnU-Net's rule on window and spacing; width and depth of the preset; fits {budget}",
            "architecture.output_stride": (
                f"logits of {len(self.fingerprint.landmarks)} landmarks take {share:.0%} of a window's activations; "
                f"above {HEADS_SHARE:.0%}, and {self.preset.decoder_stops[self.three_d]} times anyway (preset), the "
                f"decoder stops earlier while landmarks stay {rules.OUTPUT_APART:g} output voxel apart"
            ),
        }


def windows_for(fingerprint: Fingerprint, design: Design, kind: str) -> tuple[Windows, dict[str, str]]:
    """A stage's windows. The less of the image one sees, the more are placed to hold a landmark: 0.5 to 0.9."""
    whole, why = rules.whole_windows(fingerprint.ndim)
    if kind == "whole":
        return whole, why
    seen = math.prod(min(1.0, w / e) for w, e in zip(design.sides, fingerprint.median_extent, strict=True))
    holding = round(0.9 - 0.4 * seen, 3)
    return dataclasses.replace(whole, kind="random", holding=holding, elsewhere=rules.ACROSS_BORDER), {
        **why,
        "windows": "no bounded coarsening brings the whole image into one window",
        "windows.holding": f"a window sees {seen:.0%} of the median image: 0.9 - 0.4 of that",
    }


def schedule_for(
    fingerprint: Fingerprint,
    preset: Preset,
    design: Design,
    windows: Windows,
    batch: int,
    augmentation: Augmentation,
) -> tuple[Schedule, dict[str, str]]:
    """The preset's length, in epochs that keep validation cheap."""
    per_case = 1 if windows.kind == "whole" else rules.tiles(fingerprint.median_extent, design.sides)
    mirrored = augmentation.mirror_axis is not None
    share = preset.validation_share
    iterations, why_iterations = rules.iterations_per_epoch(
        fingerprint, per_case, batch, mirrored, share, preset.iterations_least
    )
    steps = preset.epochs * iterations if preset.max_seconds is None else preset.max_seconds / preset.seconds_per_step
    decay, why_decay = rules.ema_decay(steps)
    schedule = Schedule(
        preset.epochs, iterations, preset.max_seconds, preset.learning_rate, preset.weight_decay, decay, share
    )
    return schedule, {
        "schedule.epochs": "the preset's" + (", with a time budget that ends earlier" if preset.max_seconds else ""),
        "schedule.iterations_per_epoch": why_iterations,
        "schedule.max_seconds": "the preset's",
        "schedule.learning_rate": "the preset's, for AdamW",
        "schedule.weight_decay": "the preset's, for AdamW",
        "schedule.ema_decay": why_decay,
        "schedule.validation_share": "the preset's",
    }


def of_the_time(configuration: Configuration, share: float) -> Configuration:
    """A stage's configuration with its share of the preset's length."""
    schedule = configuration.schedule
    seconds, why = schedule.max_seconds, f"{share:.0%} of the preset's time is this stage's"
    part = dataclasses.replace(
        schedule,
        epochs=max(1, round(share * schedule.epochs)) if seconds is None else schedule.epochs,
        max_seconds=None if seconds is None else share * seconds,
    )
    reasons = {**configuration.why, "schedule.epochs": why, "schedule.max_seconds": why}
    return dataclasses.replace(configuration, schedule=part, why=reasons)


def cases_a_step(
    fingerprint: Fingerprint, configuration: Configuration, preset: Preset, device: str, budget: float
) -> rules.Because[int]:
    """Cases a step of a stage with a window a landmark: as many as fit, at most the preset's batch and half of all."""
    one = memory_of(fingerprint, configuration, device, 1)
    most = min(preset.batch_most, max(1, fingerprint.n_cases // 2))
    size = max(1, min(most, 1 + int((budget - one.total) // one.per_batch)))
    return size, f"cases a step: at most {most} (preset, half of the cases), as many as fit"


def first_true(count: int, holds: Callable[[int], bool]) -> int | None:
    """The first of 0 ... count - 1 for which `holds`, found by halving: once true, it must stay so. None: for none."""
    if count < 1 or not holds(count - 1):
        return None
    low, high = 0, count - 1
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
