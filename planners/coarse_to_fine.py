"""Plans for `coarse_to_fine`: a coarse stage that sees the image, a fine stage that sees a window a landmark.

The fine stage works at the finest spacing. Its windows lie around the coarse stage's points, in the pose of the mean
shape where that can be told; how large they are and how far off they lie in training follows from the coarse stage's
errors on cases that it has not seen, within the bounds given here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from autolmk.data.stage_windows import in_cubes
from autolmk.errors import AutolmkError
from autolmk.networks.topology import topology, with_output_stride
from autolmk.networks.unet import cumulative_strides
from autolmk.planners.coarse_to_fine_published import CoarseToFinePublishedPlanner
from autolmk.planning import rules, window_rules
from autolmk.planning.memory import GIB
from autolmk.planning.planner import Planner, PlanRequest, Preset, memory_of
from autolmk.planning.window_search import LEAST_SIDE, Search, cases_a_step, of_the_time
from autolmk.plans import Architecture, Configuration, Schedule, Windows

if TYPE_CHECKING:
    from autolmk.fingerprint import Fingerprint

NAME, COARSE = "coarse_to_fine", "coarse_to_fine_coarse"
COARSE_TIME = 0.55  # share of the training time that the coarse stage takes
LEAST, MOST = (96, 24), (128, 32)  # voxels a side of a window (2D, 3D): what holds a landmark's surroundings; at most.
# Where voxels are no cubes, as many of cubes as large as they are: sides are equal in mm, voxels and memory the same
WINDOWS = (16, 16)  # a training step (2D, 3D)
FEWEST_WINDOWS, NARROWEST = 4, 4  # of them, and features, where memory is short
STOPS = (2, 0)  # times the decoder stops below full resolution (2D, 3D): windows of volumes are few voxels wide
STAGES = (4, 3)  # of the fine network (2D, 3D): its windows are small
COORDINATE_CASES = 300  # from which the coarse stage may learn coordinates without heatmaps, where poses are alike
OWN_CASES, OWN_LANDMARKS = 100, 16  # from and up to which each landmark has a network of its own
OWN_FEATURES = 4  # times narrower than the shared network
ROUNDS = 2  # looks, the second around the points of the first

PublishedPlanner = CoarseToFinePublishedPlanner  # its name on command lines


class CoarseToFinePlanner(Planner):
    """Two configurations: `coarse_to_fine_coarse` and, after it, `coarse_to_fine`; the latter alone, as one look at the
    whole image, where the image fits one of its windows."""

    @dataclass(frozen=True)
    class Options(Planner.Options):
        """The options of this planner. coarse: what the coarse stage learns, heatmaps or coordinates. weights: of the
        fine stage, one network shared by all landmarks, or an own one for each. auto: as the data suggests.
        """

        coarse: Literal["auto", "heatmap", "coordinates"] = "auto"
        weights: Literal["auto", "shared", "own"] = "auto"

    def plan(self, request: PlanRequest) -> dict[str, Configuration]:
        """Plan both stages, see `Planner.plan`. spacing: of the fine stage."""
        fine = _fine(request, self.options.weights)
        if self.options.coarse == "auto" and self.options.weights != "own" and not fine.windows.groups:
            one = _one_look(request, fine)
            if one is not None:
                return {NAME: one}
        coarse = _coarse(request, self.options.coarse)
        return {COARSE: of_the_time(coarse, COARSE_TIME), NAME: of_the_time(fine, 1 - COARSE_TIME)}


def _one_look(request: PlanRequest, fine: Configuration) -> Configuration | None:
    """The fine stage as one look at the whole image, at its own spacing, where one of its windows holds that and memory
    suffices; else None. A coarse stage would see no more than its windows do."""
    fingerprint = request.fingerprint
    reach, why_reach = rules.extents_to_cover(fingerprint, rules.rotation_range(fingerprint)[0])
    multiple = cumulative_strides(fine.architecture.strides)[-1]  # windows are rounded down to it
    sides = [(n + m) * s for n, m, s in zip(fine.patch_size, multiple, fine.spacing, strict=True)]
    if any(r > side for r, side in zip(reach, sides, strict=True)):
        return None
    search = Search("heatmap", fingerprint, request.size, request.device, request.budget)
    one = search.configuration(fine.spacing if request.spacing is None else request.spacing)
    if one.windows.kind != "whole":
        return None
    extent = "x".join(f"{r:.4g}" for r in reach)
    why = f"none: the image ({extent} {fingerprint.unit}, {why_reach}) fits one window of the fine stage"
    return dataclasses.replace(one, why={**one.why, "previous_stage": why, "spacing": fine.why["spacing"]})


def _coarse(request: PlanRequest, wanted: str) -> Configuration:
    """As the heatmap method looks at the image, or with coordinates; `wanted`: which, or `auto`. AutolmkError where
    coordinates are demanded, and no window that fits the memory holds the whole image."""
    kind, why = (
        _coarse_kind(request.fingerprint) if wanted == "auto" else (wanted, f"{wanted}, as demanded (--set coarse)")
    )
    if kind == "coordinates":
        try:
            coarse = _coordinates(request, however_coarse=wanted == kind)
        except AutolmkError as error:
            if wanted == kind:
                raise
            kind, why = "heatmap", f"{why}, but {error.problem}: heatmaps"
    if kind == "heatmap":
        coarse = Search(kind, request.fingerprint, request.size, request.device, request.budget).configuration(None)
    return dataclasses.replace(coarse, why={**coarse.why, "trainer": why})


def _coordinates(request: PlanRequest, *, however_coarse: bool) -> Configuration:
    """One window that holds the whole image, for coordinates. AutolmkError where none fits the memory, or the image has
    too few voxels for the network."""
    search = Search("coordinates", request.fingerprint, request.size, request.device, request.budget)
    least = max(min(search.finest), max(search.reach) / LEAST_SIDE)  # coarser, there are no stages left
    if however_coarse:
        search.preset, search.coarsest = dataclasses.replace(request.size, whole_coarsening=math.inf), least
    search.coarsest = min(search.coarsest, least)
    found = search.configuration(None)
    if found.windows.kind != "whole":
        raise AutolmkError(
            "coordinates need one window that holds the whole image, and none fits the memory target",
            found=f"a window of {found.patch_size} voxels at most",
            expected=f"{' x '.join(f'{r:.4g}' for r in search.reach)} {request.fingerprint.unit}",
            remedy="raise -gpu_memory_target, or plan with --set coarse=heatmap",
        )
    return found


def _coarse_kind(fingerprint: Fingerprint) -> tuple[str, str]:
    """Trainer of the coarse stage: coordinates where cases are many and poses alike, else heatmaps."""
    cases, turn = fingerprint.n_cases, max(rules.rotation_range(fingerprint)[0])
    many, alike = cases >= COORDINATE_CASES, turn < rules.ANY_POSE
    return "coordinates" if many and alike else "heatmap", (
        f"{cases} cases (coordinates from {COORDINATE_CASES} on), turned by up to {turn:.0f} degrees (below "
        f"{rules.ANY_POSE:.0f}): {'coordinates' if many and alike else 'heatmaps, which learn from fewer cases'}"
    )


def _fine(request: PlanRequest, wanted: str) -> Configuration:
    """Windows a landmark; `wanted`: whether they share one network, or `auto`."""
    fingerprint, preset, given = request.fingerprint, request.size, request.spacing
    three_d = int(fingerprint.ndim == 3)
    finest, why_spacing = rules.finest_spacing(fingerprint)
    spacing = rules.rounded(finest if given is None else given)
    normalization, why_normalization = rules.normalizations(fingerprint)
    weights, why_weights = _weights(fingerprint, wanted)
    architecture = _architecture(fingerprint, preset, spacing, three_d, weights)
    least = _window(fingerprint, spacing, architecture, LEAST[three_d])
    sigma, why_sigma = _sigma(fingerprint, spacing, architecture)
    windows, why_windows = _windows(fingerprint, three_d, weights, least)
    augmentation, why_augmentation = window_rules.window_augmentation(
        fingerprint, spacing, windows.least_side or (), windows.pose
    )
    iterations, why_iterations = rules.iterations_per_epoch(
        fingerprint, len(fingerprint.landmarks) * ROUNDS, WINDOWS[three_d], False,
        preset.validation_share, preset.iterations_least,
    )  # fmt: skip
    steps = preset.epochs * iterations if preset.max_seconds is None else preset.max_seconds / preset.seconds_per_step
    decay, why_decay = rules.ema_decay(steps * (1 - COARSE_TIME))
    draft = Configuration(
        trainer="fine",
        data_identifier=rules.data_identifier(spacing, normalization),
        spacing=spacing,
        patch_size=least,
        batch_size=1,
        normalization=normalization,
        windows=windows,
        architecture=architecture,
        sigma=sigma,
        augmentation=augmentation,
        schedule=Schedule(
            preset.epochs, iterations, preset.max_seconds, preset.learning_rate, preset.weight_decay, decay,
            preset.validation_share,
        ),
        shape_prior=False,
        previous_stage=COARSE,
        options={"weights": weights, "correlated": bool(windows.groups)},
    )  # fmt: skip
    draft, why_less = _fitting(fingerprint, draft, request.device, request.budget)
    fitted, why_patch = _largest(fingerprint, draft, request.device, request.budget, three_d)
    batch, why_batch = cases_a_step(fingerprint, fitted, preset, request.device, request.budget)
    return dataclasses.replace(
        fitted,
        batch_size=batch,
        why={
            "spacing": why_spacing if given is None else "as demanded",
            "normalization": why_normalization,
            "sigma": why_sigma,
            "shape_prior": "its windows lie where the coarse stage's prior put them; drawn once more, points only lose",
            "patch_size": why_patch,
            "batch_size": why_batch,
            "architecture": f"nnU-Net's rule on the window, {len(architecture.strides)} stages; the preset's widths",
            "schedule.iterations_per_epoch": why_iterations,
            "schedule.ema_decay": why_decay,
            "schedule.learning_rate": "the preset's, for AdamW",
            "schedule.weight_decay": "the preset's, for AdamW",
            "schedule.validation_share": "the preset's",
            "options.weights": why_weights,
            "options.correlated": "windows of a slice group are seen together, where there are groups",
            **why_windows,
            **why_augmentation,
            **why_less,
        },
    )


def _weights(fingerprint: Fingerprint, wanted: str) -> tuple[str, str]:
    """`own` networks where landmarks are few and cases many, else one that is `shared`; or what is wanted."""
    if wanted != "auto":
        return wanted, f"{wanted}, as demanded (--set weights)"
    cases, landmarks = fingerprint.n_cases, len(fingerprint.landmarks)
    own = cases >= OWN_CASES and landmarks <= OWN_LANDMARKS
    return "own" if own else "shared", (
        f"{cases} cases and {landmarks} landmarks: own networks from {OWN_CASES} cases on, up to {OWN_LANDMARKS} "
        "landmarks; a shared one learns from the windows of all"
    )


def _windows(
    fingerprint: Fingerprint, three_d: int, weights: str, least: tuple[int, ...]
) -> tuple[Windows, dict[str, str]]:
    pose, why_pose = window_rules.pose_windows(fingerprint)
    groups, why_groups = window_rules.slice_groups(fingerprint)
    together = weights == "own" or len(groups) > 0
    each = None if together else WINDOWS[three_d]
    return Windows("landmark", 1.0, each, pose, ROUNDS, least_side=least, groups=groups, low_pass="crossed"), {
        "windows.low_pass": rules.LOW_PASS,
        "windows.groups": why_groups,
        "windows": "a window a landmark, around the coarse stage's points",
        "windows.pose": why_pose,
        "windows.per_sample": "the windows of all landmarks together: own networks, or groups that are seen together"
        if together
        else f"{WINDOWS[three_d]} landmarks of a case a step: one network serves all of them",
        "windows.rounds": "the second look is around the points of the first",
        "windows.least_side": "what shows a landmark's surroundings; the coarse stage's errors may ask for more",
        "windows.jitter": "a sixth of the side (three standard deviations are half of it) until errors are measured",
    }


def _architecture(
    fingerprint: Fingerprint, preset: Preset, spacing: Sequence[float], three_d: int, weights: str
) -> Architecture:
    """For the shortest windows; as much deeper as they are more voxels along an axis than windows of cubes."""
    most = window_rules.longest_window(fingerprint, spacing, (1,) * len(spacing))[0]
    voxels = [max(rules.SMALLEST, min(n)) for n in zip(in_cubes(LEAST[three_d], spacing), most, strict=True)]
    deeper = max(0, round(math.log2(max(voxels) / LEAST[three_d])))
    shape = topology(voxels, spacing, STAGES[three_d] + deeper)
    base, n = preset.base_features[three_d] // (OWN_FEATURES if weights == "own" else 1), len(shape.strides)
    full = Architecture(
        features_per_stage=tuple(min(preset.max_features[three_d], base * 2**i) for i in range(n)),
        kernel_sizes=shape.kernel_sizes,
        strides=shape.strides,
        n_conv_per_stage=(2,) * n,
        n_conv_per_stage_decoder=(2,) * (n - 1),
        output_stride=shape.strides[0],
    )
    return with_output_stride(full, min(STOPS[three_d], max(0, n - 2)))


def _window(fingerprint: Fingerprint, spacing: Sequence[float], architecture: Architecture, n: int) -> tuple[int, ...]:
    """(D,) voxels of a window of n cubes a side: the nearest multiples of the strides, no larger than the image."""
    multiple = cumulative_strides(architecture.strides)[-1]
    most = window_rules.longest_window(fingerprint, spacing, multiple)[0]
    wanted = [max(rules.SMALLEST, round(v / m) * m) for v, m in zip(in_cubes(n, spacing), multiple, strict=True)]
    return tuple(min(pair) for pair in zip(wanted, most, strict=True))


def _sigma(
    fingerprint: Fingerprint, spacing: Sequence[float], architecture: Architecture
) -> tuple[tuple[float, ...], str]:
    """mm an axis: of the input's voxels, as these windows are seen for their detail, but wide enough to decode."""
    width, why = rules.heatmap_sigma(fingerprint, spacing, spacing)
    least = [rules.SIGMA_LEAST * s * o for s, o in zip(spacing, architecture.output_stride, strict=True)]
    return rules.rounded([max(w, n) for w, n in zip(width, least, strict=True)]), why.replace(" or 1 output voxel", "")


def _fitting(
    fingerprint: Fingerprint, draft: Configuration, device: str, budget: float
) -> tuple[Configuration, dict[str, str]]:
    """The draft with as many windows a step, or as wide networks, as fit. AutolmkError where not even the least do."""
    for smaller, why in _smaller(draft):
        needed = memory_of(fingerprint, smaller, device, 1).total
        if needed <= budget:
            return smaller, why
    raise AutolmkError(
        "even the smallest windows of the fine stage do not fit the memory target",
        found=f"{needed / GIB:.2g} GiB for windows of {'x'.join(map(str, draft.patch_size))} voxels",
        expected=f"at most {budget / GIB:.2g} GiB",
        remedy="raise -gpu_memory_target, or take another preset",
    )


def _smaller(draft: Configuration) -> Iterator[tuple[Configuration, dict[str, str]]]:
    """The draft, then with windows a step halved; or with features halved, where all landmarks' are seen together."""
    yield draft, {}
    each, architecture = draft.windows.per_sample, draft.architecture
    while each is not None and each > FEWEST_WINDOWS:
        each //= 2
        windows = dataclasses.replace(draft.windows, per_sample=each)
        yield (
            dataclasses.replace(draft, windows=windows),
            {"windows.per_sample": f"{each} landmarks of a case a step: as many as fit the memory target"},
        )
    while each is None and architecture.features_per_stage[0] >= 2 * NARROWEST:
        narrower = tuple(n // 2 for n in architecture.features_per_stage)
        architecture = dataclasses.replace(architecture, features_per_stage=narrower)
        why = f"nnU-Net's rule on the window; {narrower[0]} features at first: as many as fit the memory target"
        yield dataclasses.replace(draft, architecture=architecture), {"architecture": why}


def _largest(
    fingerprint: Fingerprint, draft: Configuration, device: str, budget: float, three_d: int
) -> tuple[Configuration, str]:
    """The draft with the longest side of window that memory and the image allow: the bound of the measured side."""
    scale, longest = math.prod(max(s) for s in draft.architecture.strides), draft
    for n in range(LEAST[three_d] + scale, MOST[three_d] + 1, scale):
        patch = _window(fingerprint, draft.spacing, draft.architecture, n)
        wider = dataclasses.replace(draft, patch_size=patch)
        if patch != longest.patch_size and memory_of(fingerprint, wider, device, 1).total > budget:
            break
        longest = wider
    bound = window_rules.longest_window(fingerprint, draft.spacing, (1,) * fingerprint.ndim)[1]
    return longest, (
        f"the longest side that training may choose: at most {MOST[three_d]} voxels, of one length along all axes, "
        f"{bound}, and what fits the memory target"
    )
