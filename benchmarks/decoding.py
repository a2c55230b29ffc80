"""Error of decoding, as documentation/methods/heatmap.md quotes it, of noisy heatmaps and of heatmaps that were rounded
to bfloat16: the quadratic fit of HeatmapCodec against a parabola through three cells an axis."""

from __future__ import annotations

import torch
from torch import Tensor

from autolmk.codecs import HeatmapCodec

POINTS, SIDE = 200, 16


def main() -> None:
    """Print the tables."""
    print("| sigma (voxels) | noise | parabola through three cells an axis | this fit |\n|---|---|---|---|")
    for sigma, noise in ((0.75, 0.3), (1.0, 0.3), (1.5, 0.3), (1.5, 1.0)):
        parabola, fit = errors(sigma, noise)
        print(f"| {sigma} | {noise} | {parabola:.2f} | {fit:.2f} |")
    print("\n| sigma (voxels), rounded to bfloat16 | parabola | this fit |\n|---|---|---|")
    for sigma in (0.75, 1.0, 1.5, 2.0):
        parabola, fit = errors(sigma, 0.0, torch.bfloat16)
        print(f"| {sigma} | {parabola:.2f} | {fit:.2f} |")


def errors(sigma: float, noise: float, dtype: torch.dtype = torch.float32) -> tuple[float, float]:
    """Mean distance in voxels between decoded and true points, by parabola and by fit. dtype: of the heatmap's logits,
    which peak at 20."""
    generator = torch.Generator().manual_seed(1)
    codec = HeatmapCodec(POINTS, (SIDE,) * 3, (1,) * 3, (sigma,) * 3)
    points = 5 + 5 * torch.rand(POINTS, 3, generator=generator, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(*[torch.arange(SIDE)] * 3, indexing="ij"), -1)
    squared = (grid - points[:, None, None, None]).square().sum(-1)
    scores = (20 - squared / (2 * sigma**2)).float()
    scores += noise * torch.randn(scores.shape, generator=generator)
    scores = scores.to(dtype).float()
    fitted = codec.decode(scores[None]).voxels[0, :, 0]
    return tuple(float((found - points).norm(dim=1).mean()) for found in (parabolas(scores), fitted))


def parabolas(scores: Tensor) -> Tensor:
    """(L, D): the highest cell, moved to the vertex of the parabola through it and its neighbours on each axis."""
    found = []
    for row in scores:
        at = torch.stack(torch.unravel_index(row.argmax(), row.shape))
        low, middle, high = (torch.stack([row[tuple(at + i * e)] for e in torch.eye(3).long()]) for i in (-1, 0, 1))
        found.append(at + (low - high) / (2 * (low - 2 * middle + high)))
    return torch.stack(found)


if __name__ == "__main__":
    main()
