"""Intensity augmentation of training windows, on batchgenerators' numpy transforms.

Spatial augmentation is a perturbed Geometry, see `sampling`; these transforms never move anything by more than the
interpolation of the low-resolution one, which is symmetric.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from autolmk.image import FloatImage

THIN = 8  # an axis of fewer voxels keeps its resolution


class IntensityAugmentation:
    """Noise, blur, brightness, contrast, low resolution and gamma with nnU-Net's probabilities and ranges
    (Isensee et al., Nature Methods 2021, supplement), the blur's and the resolution's ranges narrower for points.

    strength: scales how far each change may go, 0 is the identity, 1 the default. ValueError where it is negative.
    """

    def __init__(self, strength: float = 1.0) -> None:
        if not strength >= 0:
            raise ValueError(f"strength must be 0 or more, got {strength}")
        self.strength = float(strength)

    def __call__(self, rng: np.random.Generator | int, array: npt.NDArray[np.floating]) -> FloatImage:
        """Change the intensities of a window. array: (C, *S), roughly normalised -> (C, *S) float32, a new array, a
        function of `rng` and `array` alone.

        rng: a generator, of which one number is drawn, or a seed.
        """
        seed = int(np.random.default_rng(rng).integers(2**32))
        data: dict[str, Any] = {"data": np.array(array, dtype=np.float32)[None]}
        if self.strength > 0:
            with _seeded(seed):
                for transform in self._transforms(array.shape[1:]):
                    data = transform(**data)
        return np.asarray(data["data"][0], dtype=np.float32)

    def _transforms(self, shape: tuple[int, ...]) -> list[Callable[..., dict[str, Any]]]:
        from batchgenerators.transforms.color_transforms import (
            BrightnessMultiplicativeTransform,
            BrightnessTransform,
            ContrastAugmentationTransform,
            GammaTransform,
        )
        from batchgenerators.transforms.noise_transforms import GaussianBlurTransform, GaussianNoiseTransform
        from batchgenerators.transforms.resample_transforms import SimulateLowResolutionTransform

        s = self.strength
        thin = [axis for axis, n in enumerate(shape) if n < THIN]
        gamma = {"gamma_range": (0.7**s, 1.5**s), "per_channel": True, "retain_stats": True}
        return [
            GaussianNoiseTransform(noise_variance=(0, 0.1 * s), p_per_sample=0.1),
            GaussianBlurTransform((0.3 * s, 1.0 * s), p_per_sample=0.2, p_per_channel=0.5),
            BrightnessTransform(0.0, 0.1 * s, p_per_sample=0.15),
            BrightnessMultiplicativeTransform((0.75**s, 1.25**s), p_per_sample=0.15),
            ContrastAugmentationTransform((0.75**s, 1.25**s), p_per_sample=0.15),
            SimulateLowResolutionTransform(
                (1 / (1 + s), 1), p_per_sample=0.1, p_per_channel=0.5, order_upsample=1, ignore_axes=thin
            ),
            GammaTransform(invert_image=True, p_per_sample=0.1, **gamma),
            GammaTransform(invert_image=False, p_per_sample=0.3, **gamma),
        ]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the two global generators that batchgenerators draws from, and gives them back as they were."""
    states = np.random.get_state(), random.getstate()
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
