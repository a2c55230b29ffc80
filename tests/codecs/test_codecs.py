"""Codecs: perfect outputs decode within 0.01 voxel; candidates, mirroring, noise, refusals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from autolmk.codecs import HeatmapCodec
from autolmk.landmarks import Status
from autolmk.methods.losses import sampled_gaussian, spatial_cross_entropy


def perfect_output(codec: HeatmapCodec, voxels: Tensor, height: float = 20.0) -> Tensor:
    """Logits (B, L, *O) whose exponential is the encoder's Gaussian, `height` above elsewhere at the point."""
    target = codec.encode(voxels, torch.ones(voxels.shape[:2], dtype=torch.int8))
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in codec.cells], indexing="ij")
    squared = sum(
        ((a - target.centres[..., i].view(*voxels.shape[:2], *(1,) * len(axes))) / s) ** 2
        for i, (a, s) in enumerate(zip(axes, codec.sigma, strict=True))
    )
    return (height - squared / 2 + codec.elsewhere.detach().view(-1, *(1,) * len(axes))).float()


@st.composite
def codecs_with_points(draw: Any) -> tuple[HeatmapCodec, Tensor]:
    ndim = draw(st.integers(2, 3))
    stride = draw(st.sampled_from([(1,) * ndim, (2,) * ndim, (4,) * ndim, (1, 2, 4)[:ndim]]))
    cells = [draw(st.integers(8, 15)) for _ in stride]
    sigma = [s * draw(st.floats(0.75, 2.5)) for s in stride]
    patch = [n * s for n, s in zip(cells, stride, strict=True)]
    point = [draw(st.one_of(st.floats(-0.5, n - 0.5), st.sampled_from([-0.5, 0.0, n - 1.0, n - 0.5]))) for n in patch]
    return HeatmapCodec(1, patch, stride, sigma), torch.tensor(point, dtype=torch.float64).view(1, 1, ndim)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(codecs_with_points())
def test_perfect_outputs_decode_within_a_hundredth_of_a_voxel(given_: tuple[HeatmapCodec, Tensor]) -> None:
    codec, voxels = given_
    found = codec.decode(codec.scores(perfect_output(codec, voxels)))
    assert found.voxels.dtype == torch.float64
    assert float((found.voxels[:, :, 0] - voxels).abs().max()) < 0.01
    assert found.log_odds[0, 0, 0] > 10
    width = math.sqrt(sum((g * s) ** 2 for g, s in zip(codec.sigma, codec.stride, strict=True)) / len(codec.sigma))
    assert float(found.spread[0, 0, 0]) == pytest.approx(width, rel=1e-2)


def test_centre_of_a_cell_at_a_stride() -> None:
    codec = HeatmapCodec(1, (16, 32), (2, 4), (2.0, 4.0))
    scores = torch.full((1, 1, 8, 8), -9.0)
    scores[0, 0, 3, 5] = 0.0
    assert codec.decode(scores).voxels[0, 0, 0].tolist() == pytest.approx([6.5, 21.5])


def test_a_network_that_minimises_the_loss_decodes_to_the_point() -> None:
    """The loss's own minimum, found by descent on free logits, is where the decoder looks."""
    torch.manual_seed(0)
    codec = HeatmapCodec(2, (24, 24), (2, 2), (3.0, 2.0))
    voxels = torch.tensor([[[7.3, 11.9], [20.2, 3.4]]], dtype=torch.float64)
    status = torch.full((1, 2), Status.PRESENT, dtype=torch.int8)
    logits = torch.zeros(1, 2, 12, 12, requires_grad=True)
    optimizer = torch.optim.Adam([logits, codec.elsewhere], lr=0.2)
    for _ in range(300):
        optimizer.zero_grad()
        spatial_cross_entropy(logits, codec.encode(voxels, status), status).backward()
        optimizer.step()
    found = codec.decode(codec.scores(logits))
    assert float((found.voxels[:, :, 0] - voxels).abs().max()) < 0.05
    _, mass = sampled_gaussian(codec.encode(voxels, status).centres, codec.sigma, logits.shape[2:], status == 1)
    expected = (
        mass.amax(-1) / (1 - mass.sum(-1))
    ).log() + codec.log_volume  # the second point lies so near the border that it is < 0
    torch.testing.assert_close(found.log_odds[0, 1, 0], expected[0, 1], rtol=0, atol=0.05)
    assert found.log_odds[0, 0, 0] > 2


def parabola_per_axis(scores: Tensor) -> Tensor:
    """The textbook decoder: the highest cell of each of (L, *O), then a parabola through its two neighbours an axis."""
    points = []
    for row in scores:
        at = torch.tensor(torch.unravel_index(row.argmax(), row.shape))
        step = torch.eye(row.ndim, dtype=torch.int64)
        low, middle, high = (torch.stack([row[tuple(at + i * e)] for e in step]) for i in (-1, 0, 1))
        points.append(at + (low - high) / (2 * (low - 2 * middle + high)))
    return torch.stack(points)


@pytest.mark.parametrize(
    ("sigma", "noise", "limit"), [(0.75, 0.3, 0.1), (1.0, 0.3, 0.1), (1.5, 0.3, 0.15), (1.5, 1.0, 0.6)]
)
def test_noisy_heatmaps_decode_close_by(sigma: float, noise: float, limit: float) -> None:
    """Independent noise on every logit; a parabola through three cells is at least twice as far off."""
    generator = torch.Generator().manual_seed(1)
    codec = HeatmapCodec(100, (16, 16, 16), (1, 1, 1), (sigma,) * 3)
    voxels = 5 + 5 * torch.rand(1, 100, 3, generator=generator, dtype=torch.float64)
    output = perfect_output(codec, voxels)
    scores = codec.scores(output + noise * torch.randn(output.shape, generator=generator))
    error = (codec.decode(scores).voxels[:, :, 0] - voxels).norm(dim=-1).mean()
    textbook = (parabola_per_axis(scores[0].detach()) - voxels[0]).norm(dim=-1).mean()
    assert float(error) < limit and float(error) < 0.5 * float(textbook)


def test_broad_and_oblique_peaks_are_still_centred() -> None:
    codec = HeatmapCodec(1, (24, 24), (1, 1), (1.5, 1.5))
    centre = torch.tensor([11.3, 12.6], dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(*[torch.arange(24.0, dtype=torch.float64)] * 2, indexing="ij"), -1) - centre
    precision = torch.tensor([[0.2, 0.1], [0.1, 0.15]], dtype=torch.float64)
    scores = -0.5 * torch.einsum("...i,ij,...j->...", grid, precision, grid)
    found = codec.decode(scores[None, None].float())
    torch.testing.assert_close(found.voxels[0, 0, 0], centre, rtol=0, atol=1e-3)
    assert float(found.spread[0, 0, 0]) == pytest.approx(
        math.sqrt(float(precision.inverse().diagonal().mean())), rel=1e-3
    )


@pytest.mark.parametrize("ndim", [2, 3])
def test_candidates_are_ranked_distinct_local_maxima(ndim: int) -> None:
    codec = HeatmapCodec(2, (30,) * ndim, (1,) * ndim, (1.5,) * ndim, n_candidates=4)
    places = torch.tensor([[5.0, 6.2, 7.7], [22.4, 20.1, 8.0], [6.0, 24.5, 20.3]], dtype=torch.float64)[:, :ndim]
    outputs = [perfect_output(codec, p.expand(1, 2, ndim), h) for p, h in zip(places, (4.0, 9.0, 6.0), strict=True)]
    found = codec.decode(codec.scores(torch.logsumexp(torch.stack(outputs), 0)))
    assert found.voxels.shape == (1, 2, 4, ndim) and found.log_odds.shape == found.spread.shape == (1, 2, 4)
    torch.testing.assert_close(found.voxels[0, :, :3], places[[1, 2, 0]].expand(2, 3, ndim), rtol=0, atol=0.01)
    assert (found.log_odds.diff(dim=-1)[..., :2] < 0).all()
    heights = found.log_odds[0, 0, :3] - codec.log_volume
    assert heights.tolist() == pytest.approx([9, 6, 4], abs=0.7)
    assert found.log_odds[0, :, 3].isneginf().all() and found.voxels[0, :, 3].isnan().all()


def test_a_peak_between_two_cells_is_one_candidate() -> None:
    codec = HeatmapCodec(1, (12, 12), (1, 1), (1.5, 1.5))
    found = codec.decode(codec.scores(perfect_output(codec, torch.tensor([[[5.5, 5.5]]], dtype=torch.float64))))
    assert int(found.log_odds.isfinite().sum()) == 1


@pytest.mark.parametrize("shape", [(21, 13), (9, 14, 11)])
def test_candidates_equal_a_search_over_every_cell(shape: tuple[int, ...]) -> None:
    """On noise: each candidate is a maximum of its full neighbourhood, and the highest cell is always among them."""
    generator = torch.Generator().manual_seed(2)
    codec = HeatmapCodec(30, shape, (1,) * len(shape), (1.2,) * len(shape))
    scores = torch.randn(2, 30, *shape, generator=generator)
    found = codec.decode(scores)
    found_heights = found.log_odds - codec.log_volume
    torch.testing.assert_close(found_heights[..., 0], scores.flatten(2).amax(2).double())
    for row, heights in zip(scores.flatten(0, 1), found_heights.flatten(0, 1), strict=True):
        for height in heights[heights.isfinite()]:
            (at,) = (row == height.float()).nonzero().tolist()
            around = tuple(slice(max(0, i - 1), i + 2) for i in at)
            assert row[around].max() == height.float()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirrored_views_agree(axis: int) -> None:
    generator = torch.Generator().manual_seed(3)
    codec = HeatmapCodec(3, (12, 16, 20), (1, 2, 2), (1.0, 2.0, 2.0))
    with torch.no_grad():
        codec.elsewhere += torch.tensor([0.0, 1.0, 2.0])
    partner = (1, 0, 2)
    size = torch.tensor([12, 16, 20], dtype=torch.float64)
    voxels = torch.rand(1, 3, 3, generator=generator, dtype=torch.float64) * (size - 1)
    seen = voxels[:, list(partner)].clone()  # in the reversed window the left one looks like the right one
    seen[..., axis] = size[axis] - 1 - seen[..., axis]
    direct = codec.scores(perfect_output(codec, voxels))
    mirrored = codec.mirror(codec.scores(perfect_output(codec, seen)), axis, partner)
    torch.testing.assert_close(mirrored, direct, rtol=0, atol=1e-4)


def test_scores_are_log_odds_against_elsewhere() -> None:
    codec = HeatmapCodec(2, (8, 8), (1, 1), (1.0, 1.0))
    torch.testing.assert_close(codec.elsewhere.detach(), torch.full((2,), math.log(64)))
    torch.testing.assert_close(
        codec.scores(codec.elsewhere.view(1, 2, 1, 1).expand(1, 2, 8, 8)), torch.zeros(1, 2, 8, 8)
    )
    assert codec.scores(torch.zeros(1, 2, 8, 8, dtype=torch.bfloat16)).dtype == torch.float32


def test_minus_infinity_and_constant_scores_decode_without_error() -> None:
    codec = HeatmapCodec(2, (8, 8), (1, 1), (1.0, 1.0))
    scores = torch.full((1, 2, 8, 8), -math.inf)
    scores[0, 1] = 0.0
    found = codec.decode(scores)
    assert found.log_odds[0, 0].isneginf().all() and found.voxels[0, 1, 0].isfinite().all()


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"at least 0\.75 output voxels"):
        HeatmapCodec(1, (16, 16), (2, 2), (1.4, 2.0))
    HeatmapCodec(1, (16, 16), (2, 2), (1.71447 / 1.14298, 2.0))  # the least, as plans round it
    with pytest.raises(ValueError, match="whole cells"):
        HeatmapCodec(1, (16, 15), (2, 2), (2.0, 2.0))
    with pytest.raises(ValueError, match="axes"):
        HeatmapCodec(1, (16, 16), (2, 2, 2), (2.0, 2.0))


@pytest.mark.parametrize(("share", "sigma"), [(0.5, 1.0), (0.9, 1.0), (0.2, 2.0)])
def test_log_odds_are_those_of_presence_whatever_the_width(share: float, sigma: float) -> None:
    """Where the network gives the point `share` of the probability and elsewhere the rest."""
    codec = HeatmapCodec(1, (32, 32), (1, 1), (sigma, sigma))
    perfect = perfect_output(codec, torch.tensor([[[15.0, 16.0]]], dtype=torch.float64), 0.0)
    logits = perfect - perfect.logsumexp((2, 3), keepdim=True) + math.log(share)
    with torch.no_grad():
        codec.elsewhere.fill_(math.log(1 - share))
    best = codec.decode(codec.scores(logits)).log_odds[0, 0, 0]
    assert float(best) == pytest.approx(math.log(share / (1 - share)), abs=0.02)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_codec_of_ones_own_reads_what_the_shipped_one_has_read(mode: Any) -> None:
    class Mine(HeatmapCodec):
        def scores(self, output: Tensor, landmarks: Tensor | None = None) -> Tensor:
            return super().scores(output, landmarks) + output.square()

        def mirror(self, scores: Tensor, axis: int, partner: Sequence[int]) -> Tensor:
            return super().mirror(scores, axis, partner) + scores

    codec, logits = Mine(2, (8, 8), (1, 1), (1.0, 1.0)), torch.randn(1, 2, 8, 8)
    elsewhere = codec.elsewhere.detach().view(1, 2, 1, 1)
    with mode():
        scores = codec.scores(logits.clone())
        mirrored = codec.mirror(scores.clone(), 1, (1, 0))
    torch.testing.assert_close(scores, logits - elsewhere + logits.square())
    torch.testing.assert_close(mirrored, scores[:, [1, 0]].flip(3) + scores)
