"""Losses that work from the points, without dense targets but in `squared_error`; and one of label maps.

Shapes: B batch, L landmarks, G label maps, D image axes, *S input voxels, *O output cells.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autolmk.codecs import HeatmapTarget
from autolmk.label_maps import UNKNOWN
from autolmk.landmarks import Status

RADIUS = 4.0  # sigmas to each side of a point that its sampled Gaussian reaches
SMOOTH = 1.0  # cells that Dice counts as found: a region that a window does not show costs little
CHUNK = 2**18  # logits handled at a time on the CPU, so that the passes over them stay in its cache


def spatial_cross_entropy(logits: Tensor, target: HeatmapTarget, status: Tensor, *, in_place: bool = False) -> Tensor:
    """Cross-entropy between softmax over (a channel's cells, elsewhere) and a normalised Gaussian at the point; scalar.

    logits: (B, L, *O). status: (B, L) int8 of `Status`. A present landmark's target is its Gaussian; mass that falls
    beyond the window is elsewhere's. An absent landmark's target is elsewhere alone. Unknown ones are masked. Windows
    that hold the landmark and windows that lack it are averaged separately and the two means added, or one kind drowns
    the other. 0 where nothing is known. At least float32 whatever the logits' type; gradients reach logits and
    `target.elsewhere`.

    in_place: the gradient overwrites the logits where that can be done (contiguous float32 or float64, not a leaf),
    which saves a buffer of their size; they then hold no logits any more. Without gradients it changes nothing.
    """
    present = status == Status.PRESENT
    shape = logits.shape[2:]
    size = torch.tensor(shape, dtype=torch.float64, device=logits.device)
    inside = ((target.centres >= -0.5) & (target.centres <= size - 0.5)).all(-1)  # False for NaN
    holding = present & inside
    lacking = (status != Status.UNKNOWN) & ~holding
    weight = sum(kind.double() / kind.sum().clamp(min=1) for kind in (holding, lacking))
    cells, mass = sampled_gaussian(target.centres, target.sigma, shape, present)
    result: Tensor = _FusedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        logits, target.elsewhere, cells, mass, weight, in_place and torch.is_grad_enabled() and not logits.is_leaf
    )
    return result


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
    """Sum of weight * cross-entropy. The forward pass leaves the gradient, weight * (softmax - target), in one buffer
    of the logits' size, or in the logits themselves; the backward pass hands it over. In place, the logits' version
    counter moves, so that autograd refuses to go on where another operation needs their values."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, elsewhere: Tensor, cells: Tensor, mass: Tensor, weight: Tensor, in_place: bool
    ) -> Tensor:
        z = logits.detach().flatten(0, 1).flatten(1)
        z = z if z.dtype in (torch.float32, torch.float64) else z.float()
        e = elsewhere.detach().to(z.dtype).expand(logits.shape[:2]).flatten()
        cells, q, w = cells.flatten(0, 1), mass.flatten(0, 1).to(z.dtype), weight.flatten().to(z.dtype)
        at_target = q * z.gather(1, cells)
        gradient = z if in_place else torch.empty_like(z, memory_format=torch.contiguous_format)
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

    An absent landmark's heatmap is 0, unknown ones are masked; 0 where nothing is known.
    """
    present = status == Status.PRESENT
    centres = target.centres.masked_fill(~present[..., None], 0.0).clamp(-1e6, 1e6)
    dense = (height * present).to(output.dtype).view(*present.shape, *(1,) * (output.ndim - 2))
    for axis, (s, n) in enumerate(zip(target.sigma, output.shape[2:], strict=True)):
        away = torch.arange(n, device=output.device) - centres[..., axis, None]
        line = torch.exp(-away.square() / (2 * s * s)).to(output.dtype)
        dense = dense * line.view(*line.shape[:2], *(n if a == axis else 1 for a in range(output.ndim - 2)))
    known = (status != Status.UNKNOWN).to(output.dtype)
    error = (output - dense).square().flatten(2).mean(2)
    return (error * known).sum() / known.sum().clamp(min=1)


def soft_dice(probability: Tensor, labels: Tensor) -> Tensor:
    """1 minus the Dice overlap of a batch, mean over label maps; scalar, differentiable.

    probability: (B, G, *O). labels: (B, G, *S) uint8 of `label_maps`; a cell's target is the share of its voxels that
    lie in the region, and voxels of which that is unknown do not count.
    """
    stride = [n // m for n, m in zip(labels.shape[2:], probability.shape[2:], strict=True)]
    pool = F.avg_pool2d if len(stride) == 2 else F.avg_pool3d
    inside, known = (pool(of.to(probability.dtype), stride) for of in (labels == 1, labels != UNKNOWN))
    axes = [0, *range(2, probability.ndim)]
    overlap = (probability * inside).sum(axes)
    total = (probability * known + inside).sum(axes)
    return (1 - (2 * overlap + SMOOTH) / (total + SMOOTH)).mean()
