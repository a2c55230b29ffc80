"""Plans for `global_to_local`: cells of the image vote for all landmarks, then those of a window a landmark do.

Global stage: window and spacing by the search that planners share, the cell from the landmarks' distances and the
window. Local stage: the finest spacing at which small networks of their own, one a landmark, fit; how large their
windows are and how far off they lie in training follows from the global stage's errors on cases that it has not seen,
within the bounds given here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from autolmk.data.stage_windows import MARGIN, in_cubes
from autolmk.errors import AutolmkError
from autolmk.networks.topology import SMALLEST, Topology, topology
from autolmk.planners.global_to_local_published import GlobalToLocalPublishedPlanner
from autolmk.planning import rules, window_rules
from autolmk.planning.memory import GIB
from autolmk.planning.planner import Planner, PlanRequest, memory_of
from autolmk.planning.window_search import FINE_STEP, Design, Search, cases_a_step, first_true, of_the_time
from autolmk.plans import Architecture, Configuration, Schedule, Windows

if TYPE_CHECKING:
    pass

NAME, GLOBAL = "global_to_local", "global_to_local_global"
GLOBAL_TIME = 0.55  # share of the training time that the global stage takes
CELLS = 8  # along each axis of a window, at least
HALVINGS = (2, 5)  # least and most: the stem's, and those of the stages
CELL, COARSE_CELL = (32, 8), 8  # voxels along a cell (2D, 3D): published; where training is bounded by time
ROOM = 0.8  # of the largest cell that is allowed, which that many voxels come to
BLOCKS, FEW_BLOCKS = (1, 3, 4, 6, 3), (1, 1, 1, 1, 1)  # published; where training is bounded by time
FEW_FEATURES = 4  # times the first stage's, at most, where training is bounded by time: wide cells cost more
TIME_SHARE = (1.0, 0.5)  # (2D, 3D) of memory that stands for a step's time: so steps take no longer than heatmap's
FIRST_KERNEL = 7
LOCAL_WIDTH, NARROWEST = 32, 4  # features of a local network's first stage: published and widest; least
LOCAL_CONVOLUTIONS, LOCAL_HALVINGS = (4, 2), (1, 5)  # of the first stage and the others; least and most
LEAST_SIDE = 16  # voxels of a local window: published; where they are no cubes, of cubes as large as they are
MISSES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)  # global cells by which windows may be off; the last one is expected
ROUNDS = 2  # looks, the second around the points of the first

PublishedPlanner = GlobalToLocalPublishedPlanner  # its name on command lines


class GlobalToLocalPlanner(Planner):
    """Two configurations: `global_to_local_global` and, after it, `global_to_local`."""

    def plan(self, request: PlanRequest) -> dict[str, Configuration]:
        """Plan both stages, see `Planner.plan`. spacing: of the local stage."""
        fingerprint, size = request.fingerprint, request.size
        share = 1.0 if size.max_seconds is None else TIME_SHARE[int(fingerprint.ndim == 3)]
        first = _global(CellSearch("global_cells", fingerprint, size, request.device, share * request.budget))
        last = _Local(request, first).configuration()
        return {GLOBAL: of_the_time(first, GLOBAL_TIME), NAME: of_the_time(last, 1 - GLOBAL_TIME)}


# -- the global stage --------------------------------------------------------------------------------------------------


class CellSearch(Search):
    """The search for window and spacing, with the network and the cell of this method.

    A cell finds its landmark by what surrounds it, and the local stage sees the details: so voxels need be no finer
    than what makes a cell of the published number of voxels.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        allowed = min(self.nearest, min(self.reach) / CELLS)  # mm
        voxels = COARSE_CELL if self.bounded else CELL[self.three_d]
        finer, self.finest = self.finest, rules.rounded(rules.coarsened(self.finest, ROOM * allowed / voxels))
        self.coarsest = max(self.coarsest, min(self.finest))
        if finer != self.finest:
            self.why_finest = f"{self.why_finest}, coarsened so that a cell of {ROOM * allowed:.3g} has {voxels} voxels"

    def design(self, spacing: Sequence[float], sides: Sequence[float]) -> Design:
        """The network for windows of at least `sides` mm at `spacing`, with the largest cell that is allowed."""
        step = tuple(spacing)
        voxels = [max(SMALLEST, math.ceil(side / s - 1e-6)) for side, s in zip(sides, step, strict=True)]
        architecture = self.cells(voxels, step)
        patch = tuple(math.ceil(n / c) * c for n, c in zip(voxels, architecture.output_stride, strict=True))
        cost = self.cost(patch, architecture, step)
        return Design(step, patch, architecture, cost.total + (self.batch_least - 1) * cost.per_batch)

    def cells(self, voxels: Sequence[int], spacing: Sequence[float]) -> Architecture:
        """The published network with the largest cell that is allowed, and the preset's widths."""
        shape = halved(voxels, spacing, HALVINGS, self.nearest)
        kernels, strides, none = shape.kernel_sizes, shape.strides[1:], (1,) * len(voxels)
        blocks = FEW_BLOCKS if self.bounded else BLOCKS
        stages = range(1, len(blocks))
        base = self.preset.base_features[self.three_d]
        most = FEW_FEATURES * base if self.bounded else self.preset.max_features[self.three_d]
        return Architecture(
            features_per_stage=tuple(min(most, base * 2**i) for i in range(len(blocks))),
            kernel_sizes=(
                tuple(FIRST_KERNEL if k > 1 else 1 for k in kernels[0]),
                *(kernels[min(i + 1, len(kernels) - 1)] for i in stages),
            ),
            strides=tuple(strides[i] if i < len(strides) else none for i in range(len(blocks))),
            n_conv_per_stage=blocks,
            n_conv_per_stage_decoder=(),
            output_stride=shape.scale,
        )

    @property
    def bounded(self) -> bool:
        """Whether the preset bounds training by time."""
        return self.preset.max_seconds is not None

    def reasons(self, design: Design, kind: str) -> dict[str, str]:
        """The reasons for the window and the network."""
        budget, unit = f"{self.budget / GIB:.2f} GiB", self.fingerprint.unit
        cell = "x".join(f"{s:.3g}" for s in design.output_spacing)
        count = "x".join(str(n // c) for n, c in zip(design.patch, design.architecture.output_stride, strict=True))
        size = "few blocks and features, as time bounds training" if self.bounded else "published, the preset's widths"
        covers = "x".join(f"{r:.4g}" for r in self.reach)
        return {
            "patch_size": (
                f"covers {covers} ({self.why_reach}), rounded up to whole cells"
                if kind == "whole"
                else f"the largest that fits {budget} with a batch of {self.batch_least}"
            ),
            "architecture": f"{size}; fits {budget}",
            "architecture.strides": "the stem halves, then the first stages, until a cell has its size",
            "architecture.output_stride": (
                f"cells of {cell} {unit}, {count} of them: the largest power of two that leaves {CELLS} cells an axis "
                f"and stays below the distance of nearest landmarks ({self.nearest:.3g}), but 2 halvings at least"
            ),
        }


def halved(
    voxels: Sequence[int], spacing: Sequence[float], halvings: tuple[int, int], below: float = math.inf
) -> Topology:
    """The topology with the most halvings that leave 8 cells an axis and cells below so many mm.

    Axes that are never halved, being coarse, do not count.
    """
    least, most = halvings
    for n in range(most, least - 1, -1):
        shape = topology(voxels, spacing, n + 1)
        cells = [(math.ceil(v / c), c * s) for v, c, s in zip(voxels, shape.scale, spacing, strict=True) if c > 1]
        if all(count >= CELLS and size < below for count, size in cells):
            break
    return shape


def _global(search: CellSearch) -> Configuration:
    """The global stage, with the whole of the preset's time."""
    configuration = search.configuration(None)
    weight, why_weight = class_weight(configuration)
    why = {"options.class_weight": why_weight, "sigma": WHY_SIGMA}
    return dataclasses.replace(configuration, options={"class_weight": weight}, why={**configuration.why, **why})


WHY_SIGMA = "nothing is trained by it: candidates within two cells or two sigma of a better one count as it"


def class_weight(configuration: Configuration) -> tuple[float, str]:
    """One over the logarithm of the number of cells: from its start, where all cells are alike, the cross-entropy falls
    by that logarithm, and the logarithmic displacement's error by about 1."""
    stride = configuration.architecture.output_stride
    cells = math.prod(n // c for n, c in zip(configuration.patch_size, stride, strict=True))
    return round(1 / math.log(cells), 4), (
        f"cross-entropy falls by the logarithm of {cells} cells, displacements' errors by about 1: so both count alike"
    )


# -- the local stage ---------------------------------------------------------------------------------------------------


class _Local:
    """Plans the local stage behind the global one, `first`."""

    def __init__(self, request: PlanRequest, first: Configuration) -> None:
        self.fingerprint, self.preset, self.device = request.fingerprint, request.size, request.device
        self.budget, self.given, self.first = request.budget, request.spacing, first
        self.cell = max(s * c for s, c in zip(first.spacing, first.architecture.output_stride, strict=True))  # mm
        self.finest, self.why_finest = rules.finest_spacing(self.fingerprint)

    def configuration(self) -> Configuration:
        """All numbers, each with its reason."""
        draft, why_draft = self.smallest()
        chosen = self.longest(draft)
        batch, why_batch = cases_a_step(self.fingerprint, chosen, self.preset, self.device, self.budget)
        weight, why_weight = class_weight(chosen)
        return dataclasses.replace(
            chosen,
            batch_size=batch,
            options={"class_weight": weight},
            why={**chosen.why, **why_draft, "batch_size": why_batch, "options.class_weight": why_weight},
        )

    def smallest(self) -> tuple[Configuration, dict[str, str]]:
        """The widest networks, and of these the finest spacing, whose windows hold an expected miss and fit.

        AutolmkError where not even the narrowest do.
        """
        spacings = list(self.spacings()) if self.given is None else [self.given]
        for width in self.widths():
            drafts: dict[int, Configuration] = {}

            def at(i: int, width: int = width, drafts: dict[int, Configuration] = drafts) -> Configuration:
                if i not in drafts:
                    drafts[i] = self.draft(spacings[i], width, MISSES[-1])
                return drafts[i]

            first = first_true(len(spacings), lambda i, at=at: self.fits(at(i)))  # type: ignore[misc]
            if first is not None:
                return at(first), {
                    "spacing": "as demanded" if self.given is not None else self.why_spacing(spacings[first]),
                    "architecture": (
                        f"published, {width} features instead of {LOCAL_WIDTH}" if width < LOCAL_WIDTH else "published"
                    )
                    + f": at most the preset's, halved until {len(self.fingerprint.landmarks)} networks fit",
                    "architecture.strides": f"so many that {CELLS} cells are left along a window",
                }
        raise AutolmkError(
            "local networks, one a landmark, do not fit the memory target",
            found=f"{len(self.fingerprint.landmarks)} landmarks, windows of {at(len(spacings) - 1).patch_size} voxels",
            expected=f"at most {self.budget / GIB:.2g} GiB",
            remedy="raise -gpu_memory_target, take another preset, or plan coarse_to_fine, which shares one network",
        )

    def widths(self) -> Iterator[int]:
        """Widths of the first stage, halved from the preset's on."""
        width = min(LOCAL_WIDTH, self.preset.base_features[int(self.fingerprint.ndim == 3)])
        while width >= NARROWEST:
            yield width
            width //= 2

    def spacings(self) -> Iterator[tuple[float, ...]]:
        """Spacings from the finest to the global stage's."""
        step, most = min(self.finest), max(*self.first.spacing, *self.finest)
        while step <= most:
            yield rules.rounded(rules.coarsened(self.finest, step))
            step *= FINE_STEP

    def why_spacing(self, spacing: tuple[float, ...]) -> str:
        factor = min(spacing) / min(self.finest)
        how = "not coarsened" if factor < 1.001 else f"coarsened {factor:.2f} times until the networks' windows fit"
        return f"finest ({self.why_finest}), {how}"

    def shape(self, spacing: Sequence[float], missed: float) -> tuple[tuple[int, ...], Topology]:
        """The side (D,) that holds a miss of so many global cells and what surrounds a landmark, at least 16 voxels,
        in mm along each axis, within the image; and the strides for it: so many that the network sees about the whole
        window."""
        least, around = in_cubes(LEAST_SIDE, spacing), in_cubes(MARGIN, spacing)
        most = window_rules.longest_window(self.fingerprint, spacing, (1,) * len(spacing))[0]
        wanted = [
            max(SMALLEST, min(n, max(low, math.ceil(2 * (missed * self.cell / s + margin) - 1e-6))))
            for n, low, margin, s in zip(most, least, around, spacing, strict=True)
        ]
        shape = halved(wanted, spacing, LOCAL_HALVINGS)
        most = window_rules.longest_window(self.fingerprint, spacing, shape.scale)[0]
        return tuple(min(pair) for pair in zip(shape.fitting(wanted), most, strict=True)), shape

    def draft(self, spacing: tuple[float, ...], width: int, missed: float) -> Configuration:
        """The configuration with everything but what depends on memory."""
        fingerprint = self.fingerprint
        normalization, why_normalization = rules.normalizations(fingerprint)
        patch, shape = self.shape(spacing, missed)
        windows, why_windows = self.windows(spacing, patch, shape)
        augmentation, why_augmentation = window_rules.window_augmentation(
            fingerprint, spacing, windows.least_side or (), windows.pose
        )
        schedule, why_schedule = self.schedule()
        first, others = LOCAL_CONVOLUTIONS
        halvings = len(shape.strides) - 1
        return Configuration(
            trainer="local_cells",
            data_identifier=rules.data_identifier(spacing, normalization),
            spacing=spacing,
            patch_size=patch,
            batch_size=1,
            normalization=normalization,
            windows=windows,
            architecture=Architecture(
                features_per_stage=(width, *(2 * width,) * halvings),
                kernel_sizes=shape.kernel_sizes,
                strides=shape.strides,
                n_conv_per_stage=(first, *(others,) * halvings),
                n_conv_per_stage_decoder=(),
                output_stride=shape.scale,
            ),
            sigma=rules.rounded([s * c for s, c in zip(spacing, shape.scale, strict=True)]),
            augmentation=augmentation,
            schedule=schedule,
            shape_prior=False,
            previous_stage=GLOBAL,
            why={
                "normalization": why_normalization,
                "sigma": WHY_SIGMA,
                "shape_prior": "its windows lie where the global stage's prior put them",
                **why_windows,
                **why_augmentation,
                **why_schedule,
            },
        )

    def windows(
        self, spacing: Sequence[float], patch: Sequence[int], shape: Topology
    ) -> tuple[Windows, dict[str, str]]:
        """Windows of all landmarks, as each has a network of its own; jitter follows from the longest side."""
        pose, why_pose = window_rules.pose_windows(self.fingerprint)
        shortest = shape.fitting(in_cubes(LEAST_SIDE, spacing))
        least = tuple(
            min(n, max(low, CELLS * c if c > 1 else SMALLEST))
            for n, low, c in zip(patch, shortest, shape.scale, strict=True)
        )
        return Windows("landmark", 1.0, None, pose, ROUNDS, least_side=least, low_pass="crossed"), {
            "windows.low_pass": rules.LOW_PASS,
            "windows": "a window a landmark, around the global stage's points",
            "windows.per_sample": "all landmarks: each has a network of its own",
            "windows.pose": why_pose,
            "windows.rounds": "the second look is around the points of the first",
            "windows.jitter": (
                f"three standard deviations are the expected miss, {MISSES[-1]:g} global cells of {self.cell:.3g} "
                f"{self.fingerprint.unit}, until errors are measured"
            ),
            "windows.least_side": f"{LEAST_SIDE} voxels (published), {CELLS} cells; measured errors may ask for more",
        }

    def schedule(self) -> tuple[Schedule, dict[str, str]]:
        """The preset's length, in epochs that keep validation cheap."""
        preset, share = self.preset, self.preset.validation_share
        iterations, why_iterations = rules.iterations_per_epoch(
            self.fingerprint, ROUNDS, 1, False, share, preset.iterations_least
        )
        seconds = preset.max_seconds
        steps = preset.epochs * iterations if seconds is None else seconds / preset.seconds_per_step
        decay, why_decay = rules.ema_decay(steps * (1 - GLOBAL_TIME))
        rate, weight_decay = preset.learning_rate, preset.weight_decay
        return Schedule(preset.epochs, iterations, seconds, rate, weight_decay, decay, share), {
            "schedule.iterations_per_epoch": why_iterations,
            "schedule.ema_decay": why_decay,
            "schedule.learning_rate": "the preset's, for AdamW",
            "schedule.weight_decay": "the preset's, for AdamW",
            "schedule.validation_share": "the preset's",
        }

    def longest(self, draft: Configuration) -> Configuration:
        """The configuration with the longest side that training may choose: for a miss of up to a whole global cell, as
        memory allows."""
        width = draft.architecture.features_per_stage[0]
        options = [self.draft(draft.spacing, width, missed) for missed in MISSES]
        chosen = next(c for c in options if self.fits(c))  # the last one is the draft, which fits
        shortest = min(n * s for n, s in zip(chosen.patch_size, chosen.spacing, strict=True))
        windows = dataclasses.replace(chosen.windows, jitter=round(MISSES[-1] * self.cell / 3 / shortest, 4))
        why = (
            f"the longest side that training may choose: for a miss of {MISSES[-1]:g} to {MISSES[0]:g} global cells of "
            f"{self.cell:.3g} {self.fingerprint.unit} to each side and {MARGIN:g} voxels more, as memory allows"
        )
        return dataclasses.replace(chosen, windows=windows, why={**chosen.why, "patch_size": why})

    def fits(self, configuration: Configuration) -> bool:
        return memory_of(self.fingerprint, configuration, self.device, 1).total <= self.budget
