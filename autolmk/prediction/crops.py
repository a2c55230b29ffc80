"""The scores around each landmark, as small images: for pictures and for those who combine scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from autolmk.geometry import FloatArray
from autolmk.image import Image
from autolmk.prediction.candidates import centred_start
from autolmk.prediction.first_look import Look
from autolmk.prediction.prediction import Prediction
from autolmk.prediction.stage import evaluating


def heatmap_crops(look: Look, prediction: Prediction, half_width: npt.ArrayLike) -> Iterator[tuple[str, Image]]:
    """The scores around each landmark that has a position, as (name, one-channel image at output resolution):
    around the nearest place that was looked at, where votes put it beyond the image.

    half_width: (D,) mm. Looks again, at one window a group of landmarks.
    """
    geometry, patch = look.image.geometry, look.patch
    voxels = geometry.to_voxels(prediction.candidates[:, 0])
    left = list(np.flatnonzero(np.isfinite(voxels).all(axis=1)))
    half_voxels = np.asarray(half_width) / np.array(geometry.spacing) - 1e-6
    while left:
        start = centred_start(voxels[left[0]], geometry.shape, patch)
        inside = [i for i in left if i == left[0] or _holds(voxels[i], start, patch, half_voxels)]
        with torch.inference_mode(), evaluating(look.members):
            scores = look.members[0].codec.heights(look.scores(start))[0].float().cpu().numpy()
        stride = np.array(patch) / scores.shape[1:]
        half = np.ceil(half_voxels / stride).astype(int)
        affine = geometry.affine.copy()
        affine[:-1, -1] = geometry.to_physical(np.array(start) + (stride - 1) / 2)
        affine[:-1, :-1] = geometry.matrix * stride
        grid = type(geometry)(scores.shape[1:], affine)
        for i in inside:
            centre = np.round(grid.to_voxels(prediction.candidates[i, 0])).astype(int).clip(0, np.array(grid.shape) - 1)
            low, high = (centre - half).clip(0), np.minimum(centre + half + 1, grid.shape)
            part = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
            yield (
                prediction.landmarks.names[i],
                Image(np.ascontiguousarray(scores[(slice(i, i + 1), *part)]), grid.crop(low, high - low)),
            )
        left = [i for i in left if i not in inside]


def _holds(voxel: FloatArray, start: Sequence[int], patch: Sequence[int], half: FloatArray) -> bool:
    low, high = np.array(start) + half, np.array(start) + np.array(patch) - 1 - half
    return bool(((voxel >= low) & (voxel <= high)).all())
