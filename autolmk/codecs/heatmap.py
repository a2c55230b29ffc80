"""The heatmap codec: a Gaussian a landmark, never built densely, and the decoder that inverts it; see `codec`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autolmk.codecs.balance import Shares
from autolmk.codecs.codec import Candidates, Codec, Target, padded
from autolmk.codecs.constants import constant

REACH = 1.5  # sigmas to each side of a peak that the decoder's fit sees
MIN_SIGMA = 0.75  # output cells: below, a sampled Gaussian no longer determines its centre
ROUNDING = 1e-5  # of it, that is allowed: plans hold 6 significant digits
NO_LOWER_THAN = 60.0  # below the peak: lower scores (-inf too) say no more to the fit
NO_HEIGHT = 1e-9  # of the full height: lower heatmaps count as flat
CHUNK = 2**18  # scores handled at a time on the CPU, so that the passes over them stay in its cache
WIDEST = 5.0  # times the encoder's sigma: a flatter peak is fitted as if it were this wide


@dataclass(frozen=True)
class HeatmapTarget(Target):
    """A Gaussian a landmark, never built densely.

    centres: (B, L, D) float64 output cells. sigma: (D,) output cells. elsewhere: (L,) or (B, L) logit of "not in
    this window".
    """

    centres: Tensor
    sigma: tuple[float, ...]
    elsewhere: Tensor


class HeatmapCodec(Codec):
    """One channel a landmark: logits over the window's cells, and one learned logit a landmark for "elsewhere".

    n_landmarks: L. patch_size: (D,) input voxels. output_stride: (D,). sigma_voxels: (D,) of the Gaussian, in input
    voxels. Raises ValueError where a window is not a whole number of cells, has fewer than 3 of them on an axis, or
    where sigma is below 0.75 cells.

    >>> codec = HeatmapCodec(1, patch_size=(16, 16), output_stride=(1, 1), sigma_voxels=(1.5, 1.5))
    >>> y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    >>> logits = -((y - 5.25) ** 2 + (x - 9.5) ** 2) / (2 * 1.5**2)  # a network's output that peaks between voxels
    >>> codec.decode(codec.scores(logits[None, None])).voxels[0, 0, 0].round(decimals=3).tolist()
    [5.25, 9.5]
    """

    elsewhere: Tensor

    def __init__(
        self,
        n_landmarks: int,
        patch_size: Sequence[int],
        output_stride: Sequence[int],
        sigma_voxels: Sequence[float],
        n_candidates: int = 5,
    ) -> None:
        super().__init__()
        self.n_landmarks, self.n_candidates = n_landmarks, n_candidates
        self.stride, self.patch_size = tuple(output_stride), tuple(patch_size)
        if not len(patch_size) == len(self.stride) == len(sigma_voxels) or len(patch_size) not in (2, 3):
            raise ValueError(
                f"patch size {patch_size}, stride {output_stride} and sigma {sigma_voxels} need 2 or 3 axes"
            )
        if any(n % s or n // s < 3 for n, s in zip(patch_size, self.stride, strict=True)):
            raise ValueError(f"patch size {tuple(patch_size)} must be at least 3 whole cells of stride {self.stride}")
        self.cells = tuple(n // s for n, s in zip(patch_size, self.stride, strict=True))
        self.sigma = tuple(float(g) / s for g, s in zip(sigma_voxels, self.stride, strict=True))
        if min(self.sigma) < MIN_SIGMA * (1 - ROUNDING):
            raise ValueError(f"sigma must be at least {MIN_SIGMA} output voxels on every axis, got {self.sigma}")
        self.elsewhere = nn.Parameter(torch.full((n_landmarks,), math.log(math.prod(self.cells))))
        self.shares = Shares(n_landmarks)
        self._fit = _QuadraticFit(self.cells, self.sigma)
        self.log_volume = sum(math.log(g * math.sqrt(2 * math.pi)) for g in self.sigma)  # of a Gaussian of height 1

    def encode(self, voxels: Tensor, status: Tensor, landmarks: Tensor | None = None) -> HeatmapTarget:
        """Encode points as Gaussians, see `Codec.encode`. A point outside the window is encoded like one inside: the
        loss gives its mass to elsewhere.
        """
        stride = constant(self.stride, voxels.device)
        elsewhere = self.elsewhere if landmarks is None else self.elsewhere[landmarks]
        share = self.shares(voxels, status, self.patch_size, landmarks)
        return HeatmapTarget((voxels.double() - (stride - 1) / 2) / stride, self.sigma, elsewhere, share=share)

    def scores(self, output: Tensor, landmarks: Tensor | None = None) -> Tensor:
        """Logits (B, L, *O) -> log-odds against elsewhere, (B, L, *O) float32.

        In inference mode they take the logits' memory, unless the codec has `scores` of its own, which may read the
        logits after this."""
        elsewhere = self.elsewhere.float() if landmarks is None else self.elsewhere.float()[landmarks]
        elsewhere = elsewhere.view(*elsewhere.shape, *(1,) * len(self.cells))
        in_place = torch.is_inference_mode_enabled() and type(self).scores is HeatmapCodec.scores
        return output.float().sub_(elsewhere) if in_place else output.float() - elsewhere

    def mirror(self, scores: Tensor, axis: int, partner: Sequence[int]) -> Tensor:
        """Mirror the scores along an array axis, see `Codec.mirror`. On a GPU all pairs at once, as each of the small
        steps costs as much there.
        """
        if scores.device.type == "cuda":
            return scores.flip(axis + 2).index_select(1, constant(partner, scores.device, torch.int64))
        result = scores.clone()
        for i, p in enumerate(partner):
            if i <= p:
                one, other = scores[:, i].flip(axis + 1), scores[:, p].flip(axis + 1)
                result[:, i], result[:, p] = other, one
        return result

    @torch.no_grad()
    def decode(self, scores: Tensor) -> Candidates:
        """Decode the peaks of the heatmaps, see `Codec.decode`. Candidates are local maxima, none within about one
        sigma of a better one.

        A candidate's log-odds are those of the whole Gaussian that peaks there, its height times its volume, so that 0
        is where the network finds presence and absence equally likely, whatever the width.
        """
        peak, height = _local_maxima(scores.float(), self.sigma, 2 * self.n_candidates)
        cells, variance = self._fit(scores, peak, height)
        height[_duplicates(cells, height, self.sigma)] = -math.inf
        height, order = height.topk(min(self.n_candidates, height.shape[2]), dim=2)
        cells, variance = (x.gather(2, order[..., None].expand(*order.shape, x.shape[3])) for x in (cells, variance))
        stride = torch.tensor(self.stride, dtype=torch.float64)
        none = height.isneginf()
        voxels = (cells * stride + (stride - 1) / 2).masked_fill(none[..., None], math.nan)
        spread = (variance * stride**2).mean(-1).sqrt().masked_fill(none, math.nan)
        return padded(Candidates(voxels, height + self.log_volume, spread), self.n_candidates)


class HeightCodec(HeatmapCodec):
    """Codec for heatmaps that are Gaussians of a known height and 0 elsewhere, as squared error trains them; it decodes
    their logarithm as `HeatmapCodec` does. Nothing is learned; even odds are at half of the height. See HeatmapCodec.

    >>> codec = HeightCodec(1, (16, 16), (1, 1), (1.5, 1.5), height=10.0)
    >>> y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    >>> heatmap = 10.0 * torch.exp(-((y - 5.25) ** 2 + (x - 9.5) ** 2) / (2 * 1.5**2))
    >>> codec.decode(codec.scores(heatmap[None, None])).voxels[0, 0, 0].round(decimals=3).tolist()
    [5.25, 9.5]
    """

    def __init__(
        self,
        n_landmarks: int,
        patch_size: Sequence[int],
        output_stride: Sequence[int],
        sigma_voxels: Sequence[float],
        n_candidates: int = 5,
        *,
        height: float,
    ) -> None:
        super().__init__(n_landmarks, patch_size, output_stride, sigma_voxels, n_candidates)
        self.height = height
        even = torch.full((n_landmarks,), math.log(height / 2) + self.log_volume)
        del self.elsewhere
        self.register_buffer("elsewhere", even)

    def scores(self, output: Tensor, landmarks: Tensor | None = None) -> Tensor:
        """Heatmaps (B, L, *O) -> log-odds (B, L, *O) float32."""
        return super().scores(output.float().clamp(min=NO_HEIGHT * self.height).log(), landmarks)


def _local_maxima(scores: Tensor, sigma: Sequence[float], k: int) -> tuple[Tensor, Tensor]:
    """The k highest local maxima of scores (B, L, *O): cells (B, L, k, D) int64, heights (B, L, k) float64, on the CPU.

    The maximum of a block about one sigma wide stands if no neighbouring block holds more: every survivor is a local
    maximum, and every cell that is the highest within two blocks survives, at the price of one pass over the scores.
    """
    shape = scores.shape[2:]
    block = [max(1, min(math.ceil(g), n)) for g, n in zip(sigma, shape, strict=True)]
    channels = max(1, CHUNK // (len(scores) * math.prod(shape))) if scores.device.type == "cpu" else scores.shape[1]
    top = torch.cat([_standing_blocks(part, block) for part in torch.split(scores, channels, 1)], 1)
    height, order = top.flatten(2).topk(min(k, math.prod(top.shape[2:])), dim=2)
    size = constant(shape, scores.device, torch.int64)
    spans = [torch.arange(b, device=scores.device) for b in block]
    start = _cells(order, top.shape[2:]) * constant(block, scores.device, torch.int64)
    cells = torch.minimum(start[..., None, :] + torch.cartesian_prod(*spans), size - 1)  # (B, L, k, block, D)
    best = scores.flatten(2).gather(2, _flat(cells, shape).flatten(2)).view(cells.shape[:-1]).argmax(-1)
    cell = cells.gather(3, best[..., None, None].expand(*best.shape, 1, cells.shape[-1]))[..., 0, :]
    found = torch.cat([cell.double(), height.double()[..., None]], -1).cpu()  # one copy for the host to wait
    return found[..., :-1].long(), found[..., -1]


def _standing_blocks(scores: Tensor, block: Sequence[int]) -> Tensor:
    """Each block's maximum (B, L, *blocks), -inf where a neighbouring block holds more."""
    for axis, size in enumerate(block, start=2):
        missing = -scores.shape[axis] % size
        if missing:
            scores = F.pad(scores, (0, 0) * (scores.ndim - 1 - axis) + (0, missing), value=-math.inf)
        scores = torch.unflatten(scores, axis, (-1, size)).amax(axis + 1)
    around = scores
    for axis in range(2, scores.ndim):
        n, wider = around.shape[axis], around.clone()
        for here, there in ((1, 0), (0, 1)):
            side = wider.narrow(axis, here, n - 1)
            torch.maximum(side, around.narrow(axis, there, n - 1), out=side)
        around = wider
    return scores.masked_fill(~(scores >= around), -math.inf)


def _flat(cells: Tensor, shape: Sequence[int]) -> Tensor:
    """Flat indices (...) of cells (..., D)."""
    flat = cells[..., 0]
    for axis in range(1, len(shape)):
        flat = flat * shape[axis] + cells[..., axis]
    return flat


def _cells(flat: Tensor, shape: Sequence[int]) -> Tensor:
    """Cells (..., D) of flat indices (...). torch.unravel_index copies the shape to the device, and waits."""
    cells = []
    for n in reversed(shape):
        cells.append(flat % n)
        flat = flat // n
    return torch.stack(cells[::-1], -1)


def _duplicates(cells: Tensor, height: Tensor, sigma: Sequence[float]) -> Tensor:
    """Which of the candidates (B, L, K, D), best first, are none or lie within a sigma of a better one: (B, L, K)."""
    scaled = cells / torch.tensor(sigma, dtype=torch.float64)
    near = (scaled[:, :, :, None] - scaled[:, :, None]).square().sum(-1) < 1.0
    stands = ~height.isneginf()
    for k in range(1, height.shape[2]):
        stands[:, :, k] &= ~(near[:, :, k, :k] & stands[:, :, :k]).any(-1)
    return ~stands


class _QuadraticFit:
    """The log of a Gaussian is a quadratic: its least-squares fit to the box of scores around a peak gives the centre,
    exactly for a Gaussian of any width, and averages the noise of all cells in the box.

    Weights fall like the encoder's Gaussian. The box is shifted where it would leave the window. float64 on the CPU.
    Under noise its error is a quarter of that of a parabola through three cells an axis, or less (test_codecs).
    """

    def __init__(self, cells: Sequence[int], sigma: Sequence[float]) -> None:
        self.sigma = torch.tensor(sigma, dtype=torch.float64)
        self.size = torch.tensor(cells)
        reach = [min(math.ceil(REACH * g - 1e-9), (n - 1) // 2) for g, n in zip(sigma, cells, strict=True)]
        self.radius = torch.tensor(reach)
        spans = [range(-r, r + 1) for r in reach]
        self.box = torch.tensor(list(itertools.product(*spans)))  # (box, D) cells
        self.terms = list(itertools.combinations_with_replacement(range(len(cells)), 2))
        x = self.box / self.sigma
        columns = [torch.ones(len(x), dtype=torch.float64), *x.T, *(x[:, a] * x[:, b] for a, b in self.terms)]
        weight = torch.exp(-x.square().sum(1) / 4)[:, None]  # square root of the Gaussian
        self.solve = torch.linalg.pinv(weight * torch.stack(columns, 1)) * weight.T  # (coefficients, box)

    def __call__(self, scores: Tensor, peak: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:
        """scores (B, L, *O), peak (B, L, K, D), height (B, L, K) -> centres and variances along each axis (B, L, K, D),
        both float64 in cells; a centre stays within one sigma (or one cell) of its peak."""
        middle = torch.minimum(torch.maximum(peak, self.radius), self.size - 1 - self.radius)
        values = self._values(scores, middle)
        values = torch.maximum(values, torch.nan_to_num(height, neginf=0.0)[..., None] - NO_LOWER_THAN)
        coefficients = values @ self.solve.T
        d = len(self.sigma)
        gradient = coefficients[..., 1 : d + 1]
        curvature = torch.zeros(*gradient.shape, d, dtype=torch.float64)  # minus the Hessian, in units of sigma
        for i, (a, b) in enumerate(self.terms):
            curvature[..., a, b] -= coefficients[..., d + 1 + i]
            curvature[..., b, a] -= coefficients[..., d + 1 + i]
        values, axes = torch.linalg.eigh(curvature)
        covariance = (axes / values.clamp(min=WIDEST**-2)[..., None, :]) @ axes.mT
        centre = middle + (covariance @ gradient[..., None])[..., 0] * self.sigma
        furthest = self.sigma.clamp(min=1.0)
        centre = torch.minimum(torch.maximum(centre, peak - furthest), peak + furthest)
        return centre, covariance.diagonal(dim1=-2, dim2=-1) * self.sigma**2

    def _values(self, scores: Tensor, middle: Tensor) -> Tensor:
        cell = middle[..., None, :] + self.box  # (B, L, K, box, D)
        flat = _flat(cell, scores.shape[2:])
        there = flat.flatten(2).to(scores.device, non_blocking=True)
        return scores.flatten(2).gather(2, there).view(flat.shape).double().cpu()
