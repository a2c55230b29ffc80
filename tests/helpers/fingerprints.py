"""Literal fingerprints, of which each test changes what it is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from autolmk.fingerprint import Fingerprint, Intensity, LandmarkStatistics, Pose
from autolmk.plans import Configuration


def statistics(nearest: float | None = 12.0, n_absent: int = 0) -> LandmarkStatistics:
    return LandmarkStatistics(
        n_present=40,
        n_absent=n_absent,
        n_unknown=0,
        spread=(3.0, 3.0, 3.0),
        shape_deviation=1.0,
        nearest_distance=nearest,
    )


def a_fingerprint(
    *,
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    shape: tuple[float, ...] = (60.0, 60.0, 60.0),
    n_landmarks: int = 8,
    nearest: float = 12.0,
    rotation: tuple[float, ...] = (12.0, 8.0, 16.0),
    max_extent: tuple[float, ...] | None = None,
    **others: Any,
) -> Fingerprint:
    """A small isotropic volume, unless told otherwise."""
    ndim = len(spacing)
    extent = tuple(n * s for n, s in zip(shape, spacing, strict=True))
    names = tuple(f"L{i}" for i in range(n_landmarks))
    values: dict[str, Any] = {
        "dataset_name": "Dataset001_Literal",
        "ndim": ndim,
        "physical_ndim": ndim,
        "unit": "mm",
        "n_cases": 40,
        "n_subjects": 40,
        "channel_names": ("MR",),
        "landmarks": names,
        "cases": {},
        "median_spacing": spacing,
        "spacing_percentile_10": spacing,
        "median_shape": shape,
        "shape_percentile_10": shape,
        "shape_percentile_90": shape,
        "median_extent": extent,
        "max_extent": extent if max_extent is None else max_extent,
        "intensity": (Intensity(100.0, 30.0, 95.0, 1.0, 250.0, 0.0, 255.0, 120.0, 20.0),),
        "landmark_statistics": {name: statistics(nearest) for name in names},
        "pairs": (),
        "midline": (),
        "mirror": None,
        "pose": Pose(40, rotation if ndim == 3 else rotation[:1], max(rotation), (0.95, 1.05), (9.0,) * ndim),
        "mean_shape": {},
        "shape_residual": 1.0,
        "co_slice_groups": (),
    }
    return Fingerprint(**{**values, **others})


def mean_shape(n_landmarks: int, ndim: int, size: float = 20.0, flat: float = 1.0) -> dict[str, tuple[float, ...]]:
    """L0, L1, ... anywhere within `size` mm; flat: factor of all axes but the first."""
    points = np.random.default_rng(0).normal(0.0, size / 2, (n_landmarks, ndim)) * ([1.0] + [flat] * (ndim - 1))
    return {f"L{i}": tuple(map(float, point)) for i, point in enumerate(points)}


def at(path: str) -> Callable[[Configuration], Any]:
    def get(configuration: Configuration) -> Any:
        value: Any = configuration
        for key in path.split("."):
            value = value[int(key)] if key.isdecimal() else getattr(value, key)
        return value

    return get
