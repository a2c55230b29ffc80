"""Small literal plans that the checks run on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autolmk.plans import Architecture, Augmentation, Configuration, LabelMap, Normalization, Plans, Schedule, Windows

LABEL_MAPS = (LabelMap("face", ("Eye_L", "Eye_R", "Nose", "Chin"), 2.0), LabelMap("eyes", ("Eye_L", "Eye_R"), 2.0))
LANDMARKS = ("Eye_L", "Eye_R", "Nose", "Chin", "Mole")


def example_plans(
    ndim: int = 3,
    *,
    trainer: str = "example",
    options: Mapping[str, Any] | None = None,
    windows: Windows | None = None,
) -> Plans:
    """Small literal plans with a configuration `example`: two channels, five landmarks, one left/right pair.

    windows: random ones by default, with two label maps; of kind `landmark`, the plans also hold the stage before,
    `coarse`.
    """
    landmark = windows is not None and windows.kind == "landmark"
    stages = 3
    architecture = Architecture(
        features_per_stage=(4, 8, 8),
        kernel_sizes=((3,) * ndim,) * stages,
        strides=((1,) * ndim, (1, 1, 2)[-ndim:], (2,) * ndim),
        n_conv_per_stage=(1,) * stages,
        n_conv_per_stage_decoder=(1,),  # it stops at the output stride
        output_stride=(1, 1, 2)[-ndim:],
    )
    configuration = Configuration(
        trainer=trainer,
        data_identifier="example",
        spacing=(1.5, 1.0, 0.8)[-ndim:],
        patch_size=(12, 16, 24)[-ndim:],
        batch_size=2,
        normalization=(Normalization("zscore"), Normalization("zscore")),
        windows=windows or Windows("random"),
        architecture=architecture,
        sigma=(1.8, 1.4, 1.6)[-ndim:],
        augmentation=Augmentation((10.0,) * (3 if ndim == 3 else 1), (0.9, 1.1), (2.0,) * ndim, mirror_axis=0),
        schedule=Schedule(10, 10, None, 1e-2, 1e-2, 0.99, 0.1),
        label_maps=() if landmark else LABEL_MAPS,
        previous_stage="coarse" if landmark else None,
        options=dict(options or {}),
    )
    coarse = replace(configuration, trainer="heatmap", windows=Windows("random"), previous_stage=None, options={})
    return Plans(
        dataset_name="Dataset000_Example",
        plans_name="examplePlans",
        planner="example",
        preset="XS",
        ndim=ndim,
        unit="mm",
        channel_names=("T1", "T2"),
        landmarks=LANDMARKS,
        pairs=(("Eye_L", "Eye_R"),),
        sometimes_absent=("Mole",),
        device="cpu",
        memory_target_gb=1.0,
        configurations={"example": configuration, **({"coarse": coarse} if landmark else {})},
    )
