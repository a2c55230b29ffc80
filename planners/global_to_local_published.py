"""Plans for `global_to_local` as published: Noothout et al., IEEE Transactions on Medical Imaging 2020. Networks,
losses and numbers of the publication on any dataset; what its image sizes do not suit is adapted, and `why` says so."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from autolmk.planners.published import require_memory, unchanged
from autolmk.planning import rules
from autolmk.planning.planner import Planner, PlanRequest
from autolmk.plans import Architecture, Configuration, Normalization, Schedule, Windows

if TYPE_CHECKING:
    from autolmk.fingerprint import Fingerprint

NAME, GLOBAL = "global_to_local_published", "global_to_local_published_global"
CROP = (992, 72)  # voxels a side of a training window (2D, 3D)
POOLED, FEWEST_CELLS = (4, 2), 8  # of the four stages, those that halve (2D, 3D); cells along the image, at least
IMAGE_SIDE = 120  # voxels a side of the volume whose 15 x 15 x 15 cells vote: CCTA of 180 mm at 1.5 mm
WIDTHS, BLOCKS = (16, 32, 64, 128, 256), (1, 3, 4, 6, 3)
SIDE, LOCAL_WIDTHS, LOCAL_CONVOLUTIONS = 16, (32, 64), (4, 2)
BATCH, RATE, EPOCH, EPOCHS = 4, 1e-3, 1000, (300, 310)  # iterations an epoch; epochs of the stages
CT = (-1000.0, 3095.0)  # Hounsfield units that become 0 and 1
OPTIONS = {"voting": "mean", "losses": "published", "norm": "published", "optimizer": "amsgrad"}
PUBLISHED = ("batch_size", "architecture", "shape_prior", "options", "augmentation", "schedule")


class GlobalToLocalPublishedPlanner(Planner):
    """Two configurations: `global_to_local_published_global` and, after it, `global_to_local_published`."""

    def plan(self, request: PlanRequest) -> dict[str, Configuration]:
        """Plan both stages as published, see `Planner.plan`. The preset does not matter; spacing: of both stages, as in
        the paper. AutolmkError where the memory target is too small.
        """
        fingerprint = request.fingerprint
        step, why_step = (request.spacing, "as demanded") if request.spacing else _spacing(fingerprint)
        stages = {GLOBAL: _global(fingerprint, step, why_step), NAME: _local(fingerprint, step, why_step)}
        for configuration in stages.values():
            require_memory(request, configuration)
        return stages


def _spacing(fingerprint: Fingerprint) -> rules.Because[tuple[float, ...]]:
    """2D: the images' own. 3D: isotropic, so that a volume of the median size has as many voxels as the paper's."""
    finest, why = rules.finest_spacing(fingerprint)
    if fingerprint.ndim == 2:
        return rules.rounded(finest), f"the images' own, as published ({why})"
    wanted = math.prod(fingerprint.median_extent) ** (1 / 3) / IMAGE_SIDE
    step = max(wanted, min(finest))
    return rules.rounded((step,) * 3), (
        f"isotropic, as published; adapted: {IMAGE_SIDE} voxels a side of a cube of the median image's volume (1.5 mm "
        f"for CCTA of 180 mm), not finer than the images ({min(finest):.3g})"
    )


def _global(fingerprint: Fingerprint, step: tuple[float, ...], why_step: str) -> Configuration:
    d, three_d = fingerprint.ndim, int(fingerprint.ndim == 3)
    reach, _ = rules.extents_to_cover(fingerprint, (0.0,) * len(fingerprint.pose.rotation))
    image = [max(1, math.ceil(r / s - 1e-6)) for r, s in zip(reach, step, strict=True)]
    pooled = POOLED[three_d]
    while pooled > 1 and max(image) < FEWEST_CELLS * 2 ** (pooled + 1):
        pooled -= 1
    cell = 2 ** (pooled + 1)
    patch = tuple(min(CROP[three_d], math.ceil(n / cell) * cell) for n in image)
    whole = all(n <= p for n, p in zip(image, patch, strict=True))
    architecture = Architecture(
        features_per_stage=WIDTHS,
        kernel_sizes=((7,) * d, *((3,) * d,) * 4),
        strides=((2,) * d, *((2 if i < pooled else 1,) * d for i in range(4))),
        n_conv_per_stage=BLOCKS,
        n_conv_per_stage_decoder=(),
        output_stride=(cell,) * d,
    )
    adapted = "as published" if pooled == POOLED[three_d] else (
        f"published: {POOLED[three_d]} stages pool; adapted: {pooled}, for {FEWEST_CELLS} cells along the image"
    )  # fmt: skip
    return _configuration(
        fingerprint, "global_cells", step, patch, architecture,
        Windows("whole", 1.0) if whole else Windows("random", 0.0), Schedule(EPOCHS[0], EPOCH, None, RATE, 0, 0, 0.1,
        "constant"), {
            "spacing": why_step,
            "patch_size": f"random crops of {CROP[three_d]} voxels a side, as published, or the whole image where that "
            "is smaller",
            "windows.holding": "crops lie anywhere, as published",
            "architecture.strides": adapted,
        },
    )  # fmt: skip


def _local(fingerprint: Fingerprint, step: tuple[float, ...], why_step: str) -> Configuration:
    d = fingerprint.ndim
    patch = (SIDE,) * d
    architecture = Architecture(
        features_per_stage=LOCAL_WIDTHS,
        kernel_sizes=((3,) * d,) * 2,
        strides=((1,) * d, (2,) * d),
        n_conv_per_stage=LOCAL_CONVOLUTIONS,
        n_conv_per_stage_decoder=(),
        output_stride=(2,) * d,
    )
    windows = Windows("landmark", 1.0, least_side=patch, drawn="uniform", search=False)
    schedule = Schedule(EPOCHS[1], EPOCH, None, RATE, 0.0, 0.0, 0.1, "restarts")
    why = {
        "spacing": f"the global stage's ({why_step})",
        "patch_size": f"{SIDE} voxels a side, as published",
        "windows.rounds": "one look, as published",
        "windows.search": "one look, as published",
        "windows.drawn": "landmarks lie anywhere in their windows, as published",
        "windows.pose": "windows lie as the image does, as published",
    }
    return _configuration(fingerprint, "local_cells", step, patch, architecture, windows, schedule, why, GLOBAL)


def _configuration(
    fingerprint: Fingerprint,
    trainer: str,
    step: tuple[float, ...],
    patch: tuple[int, ...],
    architecture: Architecture,
    windows: Windows,
    schedule: Schedule,
    why: dict[str, str],
    previous: str | None = None,
) -> Configuration:
    """What both stages have in common."""
    normalization, why_normalization = _normalizations(fingerprint)
    return Configuration(
        trainer=trainer,
        data_identifier=rules.data_identifier(step, normalization),
        spacing=step,
        patch_size=patch,
        batch_size=BATCH,
        normalization=normalization,
        windows=windows,
        architecture=architecture,
        sigma=rules.rounded([s * c for s, c in zip(step, architecture.output_stride, strict=True)]),
        augmentation=unchanged(fingerprint),
        schedule=schedule,
        shape_prior=False,
        previous_stage=previous,
        options=dict(OPTIONS),
        why={
            **dict.fromkeys(PUBLISHED, "as published"),
            "augmentation.mirror_axis": "windows are not mirrored, as published",
            "sigma": "a cell; nothing is trained by it: candidates within two of them count as one",
            "normalization": why_normalization,
            **why,
        },
    )


def _normalizations(fingerprint: Fingerprint) -> rules.Because[tuple[Normalization, ...]]:
    """CT: (HU + 1000) / 4095, between 0 and 1; all else as it is."""
    low, high = CT
    ct = Normalization("ct", mean=low, std=high - low, low=low, high=high)
    schemes = [rules.SCHEMES.get(name.lower()) for name in fingerprint.channel_names]
    return tuple(ct if scheme == "ct" else Normalization("none") for scheme in schemes), (
        "as published: CT from -1000 to 3095 HU becomes 0 to 1, other intensities stay as they are"
    )
