"""What codecs decode by torch, NumPy decodes to the same: to a millionth of a voxel on scores of any kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from autolmk.codecs import Codec, HeatmapCodec
from autolmk.codecs.cells import RULES, CellCodec
from autolmk.codecs.coordinates import CoordinateCodec
from autolmk.codecs.heatmap import HeightCodec
from autolmk.errors import AutolmkError
from autolmk.export_onnx.decoders import decoder_of
from autolmk.export_onnx.graphs import decoding
from autolmk.files.serialization import to_json

N = 5


def heatmaps(ndim: int, stride: int, sigma: float, *, height: float | None = None) -> Codec:
    arguments = (N, (24, 32, 40)[:ndim], (stride,) * ndim, (sigma,) * ndim)
    return HeatmapCodec(*arguments) if height is None else HeightCodec(*arguments, height=height)


CODECS: dict[str, Codec] = {
    "heatmap 2D": heatmaps(2, 1, 2.0),
    "heatmap 2D, stride 2": heatmaps(2, 2, 3.7),
    "heatmap 3D": heatmaps(3, 2, 2.2),
    "heights 2D": heatmaps(2, 1, 2.5, height=255.0),
    "coordinates 3D": CoordinateCodec((24, 32, 40)),
    **{f"cells 2D, {rule}": CellCodec((24, 32), (4, 4), voting=rule) for rule in RULES},
    "cells 3D, each for itself": CellCodec((24, 32, 40), (8, 8, 8), exclusive=False),
}


def scores_of(codec: Codec, seed: int) -> torch.Tensor:
    """(1, N, ...): noise, smooth or not, of which some is far up or down, and peaks at borders."""
    rng = np.random.default_rng(seed)
    if isinstance(codec, CoordinateCodec):
        return torch.tensor(rng.normal(0, 1, (1, N, len(codec.patch_size) + 1)), dtype=torch.float32)
    if isinstance(codec, CellCodec):
        shape = (1, N, 1 + len(codec.shape), *codec.shape)
        return torch.tensor(rng.normal(0, 2, shape), dtype=torch.float32)
    assert isinstance(codec, HeatmapCodec)
    noise = rng.normal(0, 1, (N, *codec.cells))
    smooth = [ndimage.gaussian_filter(one, rng.uniform(0, 3)) for one in noise]
    scores = np.stack([one / one.std() * rng.choice([0.1, 3, 30]) + rng.normal(0, 5) for one in smooth])
    scores[0].flat[0] += 40
    return torch.tensor(scores[None], dtype=torch.float32)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", CODECS)
def test_candidates_are_the_same(name: str, seed: int) -> None:
    codec = CODECS[name]
    decoder = decoder_of(to_json(decoding(codec)))
    scores = scores_of(codec, seed)
    expected = codec.decode(scores.clone())
    for found, wanted in zip(
        decoder.decode(scores[0].numpy()), (expected.voxels, expected.log_odds, expected.spread), strict=True
    ):
        np.testing.assert_allclose(found, wanted[0].numpy(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", CODECS)
def test_mirrored_scores_are_the_same(name: str) -> None:
    codec, partner = CODECS[name], (1, 0, 2, 4, 3)
    decoder = decoder_of(to_json(decoding(codec)))
    scores = scores_of(codec, 9)
    for axis in range(2):
        expected = codec.mirror(scores.clone(), axis, partner)[0].numpy()
        np.testing.assert_array_equal(decoder.mirror(scores[0].numpy(), axis, partner), expected)


def test_scores_that_are_minus_infinity_give_no_candidate() -> None:
    decoder = decoder_of(to_json(decoding(CODECS["heatmap 2D"])))
    voxels, log_odds, _ = decoder.decode(np.full((1, 24, 32), -np.inf, dtype=np.float32))
    assert np.isnan(voxels).all() and np.isneginf(log_odds).all()


def test_other_codecs_and_kinds_are_refused() -> None:
    class Own(HeatmapCodec):
        def decode(self, scores: torch.Tensor) -> Any:
            return None

    with pytest.raises(AutolmkError, match="does not know how its codec decodes"):
        decoding(Own(N, (24, 32), (1, 1), (2.0, 2.0)))
    with pytest.raises(AutolmkError, match="does not know"):
        decoder_of({"kind": "other"})
