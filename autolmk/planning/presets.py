"""Presets: how large a network may be and how long it is trained."""

from __future__ import annotations

from dataclasses import dataclass

from autolmk.planning.memory import GIB

DEVICES = ("cpu", "cuda")
USABLE = {"cpu": 1.0, "cuda": 0.85}  # share of the memory target that plans fill: CUDA's context and fragmentation


@dataclass(frozen=True)
class Preset:
    """Size and length of training. Pairs are for (2D, 3D).

    memory_gb: GiB of the device; on XS it stands for the time of a step, which on a CPU is proportional to it.
    decoder_stops: how many times the decoder stops below full resolution even where the heads would fit: the finest
    stage costs most, and decoding is sub-voxel without it. benchmarks/output_stride.py trains both ways equally long.
    whole_coarsening: how many times the finest spacing may grow so that one window holds the whole image.
    """

    memory_gb: float
    base_features: tuple[int, int]
    max_features: tuple[int, int]
    max_stages: tuple[int, int]
    residual: bool
    decoder_stops: tuple[int, int]
    batch_least: tuple[int, int]
    batch_most: int
    whole_coarsening: float
    epochs: int
    iterations_least: int
    max_seconds: float | None
    learning_rate: float
    weight_decay: float = 1e-2
    validation_share: float = 0.1
    seconds_per_step: float = 0.5  # only to choose how long weights are averaged where a time budget counts


PRESETS: dict[str, Preset] = {
    "XS": Preset(0.3, (16, 16), (128, 128), (5, 5), False, (1, 1), (4, 1), 4, 4.0, 1000, 50, 1500.0, 2e-3),
    "S": Preset(4.0, (16, 16), (256, 192), (7, 6), False, (1, 1), (8, 2), 16, 3.0, 200, 250, None, 1e-3),
    "M": Preset(8.0, (32, 32), (512, 320), (8, 6), False, (1, 1), (8, 2), 32, 2.0, 300, 250, None, 1e-3),
    "L": Preset(24.0, (32, 32), (512, 320), (8, 6), True, (1, 1), (8, 2), 32, 2.0, 500, 250, None, 1e-3),
    "XL": Preset(40.0, (32, 32), (512, 320), (8, 6), True, (1, 1), (8, 2), 64, 2.0, 1000, 250, None, 1e-3),
}
DEFAULT_PRESET = {"cpu": "XS", "cuda": "M"}


def usable_bytes(device: str, memory_target_gb: float) -> float:
    """Bytes of a memory target that plans may fill."""
    return USABLE[device] * memory_target_gb * GIB
