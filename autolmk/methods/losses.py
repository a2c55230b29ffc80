"""Losses that work from the points, without dense targets but in `squared_error`; and one of label maps.

Shapes: B batch, L landmarks, G label maps, D image axes, *S input voxels, *O output cells.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autolmk import ranks
from autolmk.codecs import HeatmapTarget
from autolmk.codecs.constants import constant
from autolmk.data.label_maps import UNKNOWN
from autolmk.landmarks import Status

RADIUS = 4.0  # sigmas to each side of a point that its sampled Gaussian reaches
SMOOTH = 1.0  # cells that Dice counts as found: a region that a window does not show costs little
HEAVIER = 2.0  # times as much as the other kind, that windows of a rare kind weigh at most: single ones upset training
CHUNK = 2**18  # logits handled at a time on the CPU, so that the passes over them stay in its cache


def spatial_cross_entropy(
    logits: Tensor, target: HeatmapTarget, status: Tensor, *, in_place: bool | None = None
) -> Tensor:
    """Cross-entropy between softmax over (a channel's cells, elsewhere) and a normalised Gaussian at the point; scalar.

    logits: (B, L, *O). status: (B, L) int8 of `Status`. A present landmark's target is its Gaussian; mass that falls
    beyond the window is elsewhere's. An absent landmark's target is elsewhere alone. Unknown ones are masked, the
    others weighted as `balanced` says. 0 where nothing is known. At least float32 whatever the logits' type; gradients
    reach logits and `target.elsewhere`. The logits are only read, so that other terms of a loss may read them too.
    Differentiating twice raises a RuntimeError.

    in_place: has no effect any more; earlier versions overwrote the logits.
    """
    if in_place is not None:
        warnings.warn("in_place has no effect any more: leave it out", DeprecationWarning, stacklevel=2)
    present = status == Status.PRESENT
    shape = logits.shape[2:]
    size = constant(shape, logits.device)
    inside = ((target.centres >= -0.5) & (target.centres <= size - 0.5)).all(-1)  # False for NaN
    weight, offset = balanced(present & inside, status, target.share)
    cells, mass = sampled_gaussian(target.centres, target.sigma, shape, present)
    result: Tensor = _FusedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        logits, target.elsewhere, offset, cells, mass, weight
    )
    return result


def balanced(holding: Tensor, status: Tensor, share: Tensor | None) -> tuple[Tensor, Tensor]:
    """The weights and offsets, (B, L) float64 each, with which log-odds that are no surer of "here" than of "elsewhere"
    end at 0, whatever `share` of a landmark's windows hold it. The loss is the sum of weights times cross-entropies,
    those of "here" and "elsewhere" at log-odds + offset.

    holding: (B, L) bool. status: (B, L), rows that are unknown weigh 0. share: (B, L), see `Target`; None: windows that
    hold their landmark are averaged over the batch, and so are those that lack it, without an offset.
    An offset alone, the logarithm of the odds share / (1 - share) (logit adjustment; Menon et al., ICLR 2021), leaves a
    frequent kind of windows without a gradient; a weight alone, 1 / share, lets single windows of a rare kind decide a
    step. So each does half of it, the weight by the root of the odds, `HEAVIER` at most. Weights average 1 over a
    landmark's windows, before they are divided by the number of known rows; they are 1 at a share of 1/2, where the
    offset is 0.
    """
    known = status != Status.UNKNOWN
    if share is None:
        return _mean(holding & known) + _mean(known & ~holding), torch.zeros_like(known, dtype=torch.float64)
    heavier = (share / (1 - share)).sqrt().clamp(1 / HEAVIER, HEAVIER)  # a window that lacks it than one that holds it
    weight = torch.where(holding, torch.ones_like(share), heavier) / (share + (1 - share) * heavier)
    return _mean(known) * weight, torch.logit(share) - heavier.log()


def weighted(values: Tensor, weight: Tensor) -> Tensor:
    """Sum of values (B, L) times weights (B, L), without those of weight 0, which may be anything."""
    return (values.masked_fill(weight == 0, 0.0) * weight.to(values.dtype)).sum()


def _mean(known: Tensor) -> Tensor:
    """(B, L) float64 weights of a mean over the batch's rows that are known, all ranks' together; all 0 where none
    is."""
    return known.double() / ranks.normaliser(known)


def sampled_gaussian(
    centres: Tensor, sigma: tuple[float, ...], shape: torch.Size, present: Tensor
) -> tuple[Tensor, Tensor]:
    """The Gaussians' cells near their centres: flat indices (B, L, N) into a channel, and masses (B, L, N) float64.

    Each Gaussian sums to 1 over the unbounded grid; cells outside the window and landmarks not present have mass 0.
    """
    centres = centres.masked_fill(~present[..., None], 0.0).clamp(-1e6, 1e6)
    cells, mass = torch.zeros_like(present, dtype=torch.int64)[..., None], present.double()[..., None]
    for axis, (s, n) in enumerate(zip(sigma, shape, strict=True)):
        reach = math.ceil(RADIUS * s)
        centre = centres[..., axis, None]
        cell = centre.round().long() + torch.arange(-reach, reach + 1, device=centres.device)
        density = torch.exp(-((cell - centre) ** 2) / (2 * s * s))
        density = density / density.sum(-1, keepdim=True) * ((cell >= 0) & (cell < n))
        cells = (cells[..., :, None] * n + cell.clamp(0, n - 1)[..., None, :]).flatten(-2)
        mass = (mass[..., :, None] * density[..., None, :]).flatten(-2)
    return cells, mass


class _FusedCrossEntropy(torch.autograd.Function):
    """Sum of weight * cross-entropy, of logits + offset against elsewhere.

    The forward pass leaves the gradient, weight * (softmax - target), in one buffer of the logits' size, and the
    backward pass hands it over: the logits themselves are neither kept nor changed.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        elsewhere: Tensor,
        offset: Tensor,
        cells: Tensor,
        mass: Tensor,
        weight: Tensor,
    ) -> Tensor:
        z = logits.detach().flatten(0, 1).flatten(1)
        z = z if z.dtype in (torch.float32, torch.float64) else z.float()
        e = (elsewhere.detach() - offset).to(z.dtype).flatten()
        cells, q, w = cells.flatten(0, 1), mass.flatten(0, 1).to(z.dtype), weight.flatten().to(z.dtype)
        at_target = q * z.gather(1, cells)
        gradient = torch.empty_like(z, memory_format=torch.contiguous_format)
        log_sum = torch.empty_like(e)
        rows = max(1, CHUNK // z.shape[1]) if z.device.type == "cpu" else len(z)
        for i in range(0, len(z), rows):
            part = slice(i, i + rows)
            log_sum[part] = _weighted_softmax(z[part], e[part], w[part], gradient[part])
        beyond = (1.0 - mass.sum(-1).flatten()).to(z.dtype)  # absent: all of it
        loss = w * (log_sum - at_target.sum(1) - beyond * e)
        gradient.scatter_add_(1, cells, -w[:, None] * q)
        of_elsewhere = (w * (torch.exp(e - log_sum) - beyond)).view(logits.shape[:2]).sum_to_size(elsewhere.shape)
        ctx.save_for_backward(gradient.view(logits.shape).to(logits.dtype), of_elsewhere.to(elsewhere.dtype))
        return loss.sum()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # it is a constant to autograd
            raise RuntimeError("the spatial cross-entropy cannot be differentiated twice: leave create_graph out")
        gradient, of_elsewhere = ctx.saved_tensors
        (scale,) = outputs
        if scale.device.type == "cpu" and float(scale) == 1.0:  # the usual case, without a copy
            return gradient, of_elsewhere, None, None, None, None
        return (gradient * scale).to(gradient.dtype), of_elsewhere * scale, None, None, None, None


def _weighted_softmax(z: Tensor, e: Tensor, w: Tensor, out: Tensor) -> Tensor:
    """Write w * softmax over (z (N, V), e (N,)) for the V cells into out; return the log-sum-exp (N,)."""
    top = torch.maximum(z.amax(1), e)
    torch.sub(z, top[:, None], out=out)
    out.exp_()
    total = out.sum(1) + torch.exp(e - top)
    out.mul_((w / total)[:, None])
    return top + total.log()


def squared_error(output: Tensor, target: HeatmapTarget, status: Tensor, height: float) -> Tensor:
    """Mean squared difference between heatmaps (B, L, *O) and Gaussians of `height` at the points; scalar.

    An absent landmark's heatmap is 0, unknown ones are masked; 0 where nothing is known. Windows that hold a landmark
    and windows that lack it weigh 1/2 over their share, see `Target`: so what is as likely as not has half the height.
    """
    present = status == Status.PRESENT
    size = constant(output.shape[2:], output.device)
    holding = present & ((target.centres >= -0.5) & (target.centres <= size - 0.5)).all(-1)
    centres = target.centres.masked_fill(~present[..., None], 0.0).clamp(-1e6, 1e6)
    dense = (height * present).to(output.dtype).view(*present.shape, *(1,) * (output.ndim - 2))
    for axis, (s, n) in enumerate(zip(target.sigma, output.shape[2:], strict=True)):
        away = torch.arange(n, device=output.device) - centres[..., axis, None]
        line = torch.exp(-away.square() / (2 * s * s)).to(output.dtype)
        dense = dense * line.view(*line.shape[:2], *(n if a == axis else 1 for a in range(output.ndim - 2)))
    weight = _mean(status != Status.UNKNOWN)
    if target.share is not None:
        weight = weight * 0.5 / torch.where(holding, target.share, 1 - target.share)
    return weighted((output - dense).square().flatten(2).mean(2), weight)


def soft_dice(probability: Tensor, labels: Tensor) -> Tensor:
    """The soft Dice loss: 1 minus the Dice overlap of a batch, mean over label maps; scalar, differentiable.

    probability: (B, G, *O). labels: (B, G, *S) uint8 of `label_maps`; a cell's target is the share of its voxels that
    lie in the region, and voxels of which that is unknown do not count.
    """
    stride = [n // m for n, m in zip(labels.shape[2:], probability.shape[2:], strict=True)]
    pool = F.avg_pool2d if len(stride) == 2 else F.avg_pool3d
    inside, known = (pool(of.to(probability.dtype), stride) for of in (labels == 1, labels != UNKNOWN))
    axes = [0, *range(2, probability.ndim)]
    sums = torch.stack([(probability * inside).sum(axes), (probability * known + inside).sum(axes)])
    overlap, total = ranks.total(sums).unbind()
    return (1 - (2 * overlap + SMOOTH) / (total + SMOOTH)).mean()
