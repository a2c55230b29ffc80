"""Plans for `coarse_to_fine` as published: Prior Guided 3D Landmark Localization, MIDL 2023. Its structure on any
dataset; most of its numbers are not public, and `why` says where one is not: those are chosen here."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from autolmk.networks.resnet import resnet34
from autolmk.networks.topology import topology
from autolmk.planners.published import require_memory
from autolmk.planning import rules, window_rules
from autolmk.planning.planner import Planner, PlanRequest, Preset, memory_of
from autolmk.planning.window_search import Design, cases_a_step, of_the_time, schedule_for
from autolmk.plans import Architecture, Configuration, Schedule, Windows

if TYPE_CHECKING:
    from autolmk.fingerprint import Fingerprint

NAME, COARSE = "coarse_to_fine_published", "coarse_to_fine_published_coarse"
COARSE_SIDE, COARSE_BATCH = 128, 4  # voxels along the longest side of the image; images a step
SIDE, SIGMA = 64, 2.0  # voxels of a fine window, and of its Gaussian
WIDTHS, STAGES = (32, 16, 8, 4), 4  # of a fine network's first stage: the first that fits
COARSE_TIME = 0.55  # share of the training time
HIDDEN = "not published"


class CoarseToFinePublishedPlanner(Planner):
    """Two configurations: `coarse_to_fine_published_coarse` and, after it, `coarse_to_fine_published`."""

    def plan(self, request: PlanRequest) -> dict[str, Configuration]:
        """Plan both stages as published, see `Planner.plan`. preset: length and rate of training alone. spacing: of the
        fine stage. AutolmkError where the memory target is too small.
        """
        coarse = _coarse(request.fingerprint, request.size)
        require_memory(request, coarse)
        fine = _fine(request)
        require_memory(request, fine)
        return {COARSE: of_the_time(coarse, COARSE_TIME), NAME: of_the_time(fine, 1 - COARSE_TIME)}


def _coarse(fingerprint: Fingerprint, preset: Preset) -> Configuration:
    """The whole image, down-sampled, through ResNet-34 to coordinates."""
    reach, why_reach = rules.extents_to_cover(fingerprint, (0.0,) * len(fingerprint.pose.rotation))
    finest, _ = rules.finest_spacing(fingerprint)
    step = rules.rounded((max(max(reach) / COARSE_SIDE, min(finest)),) * fingerprint.ndim)
    architecture = resnet34(fingerprint.ndim)
    cells = zip(reach, step, architecture.output_stride, strict=True)
    patch = tuple(max(1, math.ceil(r / s / c - 1e-6)) * c for r, s, c in cells)
    normalization, why_normalization = rules.normalizations(fingerprint)
    design = Design(step, patch, architecture, 0)
    augmentation, why_augmentation = rules.augmentation(fingerprint, step, design.sides)
    windows = Windows("whole", 1.0)
    schedule, why_schedule = schedule_for(fingerprint, preset, design, windows, COARSE_BATCH, augmentation)
    sigma, _ = rules.heatmap_sigma(fingerprint, step, step)
    return Configuration(
        trainer="coordinates",
        data_identifier=rules.data_identifier(step, normalization),
        spacing=step,
        patch_size=patch,
        batch_size=COARSE_BATCH,
        normalization=normalization,
        windows=windows,
        architecture=architecture,
        sigma=rules.rounded(sigma),
        augmentation=augmentation,
        schedule=schedule,
        shape_prior=False,
        options={"presence_weight": 0.0, "norm": "published"},
        why={
            "trainer": "coordinates, as published",
            "architecture": "ResNet-34, as published",
            "spacing": f"down-sampled, as published; {HIDDEN}: {COARSE_SIDE} voxels along the longest side, not finer "
            f"than the images ({min(finest):.3g})",
            "patch_size": f"the whole image ({why_reach}), rounded up to what the strides divide",
            "batch_size": f"{HIDDEN}: {COARSE_BATCH}",
            "normalization": f"{HIDDEN}: {why_normalization}",
            "sigma": "nothing is trained by it",
            "options.presence_weight": "coordinates alone, as published",
            "options.norm": "batch norm, as ResNet",
            **{key: f"{HIDDEN}: {why}" for key, why in {**why_augmentation, **why_schedule}.items()},
        },
    )


def _fine(request: PlanRequest) -> Configuration:
    """A U-Net of its own for each landmark's window; those of a slice group are seen together."""
    fingerprint, preset, given = request.fingerprint, request.size, request.spacing
    finest, why_spacing = rules.finest_spacing(fingerprint)
    step = rules.rounded(finest if given is None else given)
    normalization, why_normalization = rules.normalizations(fingerprint)
    groups, why_groups = window_rules.slice_groups(fingerprint)
    voxels = [
        min(math.ceil(SIDE * min(step) / s - 1e-6), max(1, math.ceil(e / s - 1e-6)))
        for s, e in zip(step, fingerprint.max_extent, strict=True)
    ]
    shape = topology(voxels, step, STAGES)
    patch = shape.fitting(voxels)
    augmentation, why_augmentation = window_rules.window_augmentation(fingerprint, step, patch, False)
    schedule, why_schedule = _schedule(fingerprint, preset)
    n = len(shape.strides)
    draft = Configuration(
        trainer="fine",
        data_identifier=rules.data_identifier(step, normalization),
        spacing=step,
        patch_size=patch,
        batch_size=1,
        normalization=normalization,
        windows=Windows(
            "landmark", 1.0, jitter=1 / 6, least_side=patch, groups=groups, drawn="gaussian", search=False
        ),
        architecture=Architecture(
            (1,) * n, shape.kernel_sizes, shape.strides, (2,) * n, (2,) * (n - 1), output_stride=shape.strides[0]
        ),
        sigma=rules.rounded([SIGMA * s for s in step]),
        augmentation=augmentation,
        schedule=schedule,
        shape_prior=False,
        previous_stage=COARSE,
        options={"weights": "own", "correlated": len(groups) > 0},
    )  # fmt: skip
    fitted = _fitting(fingerprint, draft, request.device, request.budget)
    batch, why_batch = cases_a_step(fingerprint, fitted, preset, request.device, request.budget)
    reasons = {
        "patch_size": f"{SIDE} of the finest axis's voxels, or the image where it is smaller",
        "sigma": f"{SIGMA:g} voxels",
        "batch_size": why_batch,
        "normalization": why_normalization,
        "architecture": f"{n} stages of two convolutions, the widest of {', '.join(map(str, WIDTHS))} first features "
        "that fits the memory",
        **why_schedule,
        **why_augmentation,
    }
    return dataclasses.replace(
        fitted,
        batch_size=batch,
        why={
            **{key: f"{HIDDEN}: {why}" for key, why in reasons.items()},
            "spacing": f"{HIDDEN}: {why_spacing}" if given is None else "as demanded",
            "windows": "a window a landmark, as published",
            "windows.drawn": "N(0, a sixth of the side), as published",
            "windows.rounds": "one look, as published",
            "windows.search": "one look, as published",
            "windows.pose": "windows lie as the image does, as published",
            "windows.groups": f"as published, where they were chosen by hand: {why_groups}",
            "options.weights": "a network a landmark, as published",
            "options.correlated": "windows of a slice group are seen together, as published",
            "shape_prior": "none, as published",
        },
    )


def _schedule(fingerprint: Fingerprint, preset: Preset) -> tuple[Schedule, dict[str, str]]:
    """The preset's length and rate, without averaged weights."""
    iterations, why = rules.iterations_per_epoch(
        fingerprint, len(fingerprint.landmarks), 1, False, preset.validation_share, preset.iterations_least
    )
    rate, decay, share = preset.learning_rate, preset.weight_decay, preset.validation_share
    schedule = Schedule(preset.epochs, iterations, preset.max_seconds, rate, decay, 0.0, share)
    return schedule, {"schedule": "the preset's, for AdamW", "schedule.iterations_per_epoch": why}


def _fitting(fingerprint: Fingerprint, draft: Configuration, device: str, budget: float) -> Configuration:
    """With the widest networks of WIDTHS that fit, else with the narrowest."""
    for width in WIDTHS:
        features = tuple(width * 2**i for i in range(len(draft.architecture.strides)))
        architecture = dataclasses.replace(draft.architecture, features_per_stage=features)
        fitted = dataclasses.replace(draft, architecture=architecture)
        if memory_of(fingerprint, fitted, device, 1).total <= budget:
            break
    return fitted
