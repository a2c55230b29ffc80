"""The coordinate codec: a point a landmark as numbers, no map; for a network that sees the whole image at once.

Along each axis -1 and 1 are the window's borders (voxels -0.5 and n - 0.5), 0 is its middle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from autolmk.codecs.balance import Shares
from autolmk.codecs.codec import Candidates, Codec, Target
from autolmk.codecs.constants import constant
from autolmk.errors import AutolmkError


@dataclass(frozen=True)
class CoordinateTarget(Target):
    """The target of `CoordinateCodec`. places: (B, L, D) float64, -1 to 1 where the point lies in the window; anything,
    NaN too, where it does not.
    """

    places: Tensor


class CoordinateCodec(Codec):
    """Codec of coordinates, for an output (B, L, D + 1): D coordinates and the logit of "in this window". One candidate
    a landmark.

    patch_size: (D,) input voxels. presence: whether there is that logit; else outputs are (B, L, D), and every landmark
    is taken to be in the window, at even odds.

    >>> codec = CoordinateCodec((16, 16))
    >>> target = codec.encode(voxels=torch.tensor([[[5.25, 9.5]]]), status=torch.tensor([[1]]))
    >>> output = torch.cat([target.places, torch.tensor([[[2.0]]])], dim=2)  # of a network that knows the point
    >>> found = codec.decode(codec.scores(output))
    >>> found.voxels[0, 0, 0].round(decimals=3).tolist(), found.log_odds[0, 0, 0].item()
    ([5.25, 9.5], 2.0)
    """

    def __init__(self, patch_size: Sequence[int], presence: bool = True) -> None:
        super().__init__()
        self.patch_size, self.presence = tuple(patch_size), presence
        self.shares = Shares()

    def encode(self, voxels: Tensor, status: Tensor, landmarks: Tensor | None = None) -> CoordinateTarget:
        """Encode points as numbers relative to the window, see `Codec.encode`."""
        size = constant(self.patch_size, voxels.device)
        share = self.shares(voxels, status, self.patch_size, landmarks)
        return CoordinateTarget((2 * voxels.double() + 1) / size - 1, share=share)

    def scores(self, output: Tensor, landmarks: Tensor | None = None) -> Tensor:
        """The output itself, (B, L, D + 1) float32: coordinates and log-odds may both be averaged."""
        return output.float() if self.presence else F.pad(output.float(), (0, 1))

    def mirror(self, scores: Tensor, axis: int, partner: Sequence[int]) -> Tensor:
        """Mirror the scores along an array axis, see `Codec.mirror`."""
        result = scores.index_select(1, constant(partner, scores.device, torch.int64))
        result[..., axis].neg_()
        return result

    def heights(self, scores: Tensor) -> Tensor:
        """Raise AutolmkError: there is no map to show."""
        raise AutolmkError(
            "a network that gives coordinates has no heatmaps",
            expected="a configuration whose stage that sees the image makes heatmaps",
            remedy="predict without --save_heatmap_crops",
        )

    @torch.no_grad()
    def decode(self, scores: Tensor) -> Candidates:
        """Decode the coordinates, see `Codec.decode`. The spread is NaN: a single point does not tell how sure the
        network is of its place.
        """
        found = scores.double().cpu()[:, :, None]
        size = torch.tensor(self.patch_size, dtype=torch.float64)
        log_odds = found[..., -1]
        return Candidates(((found[..., :-1] + 1) * size - 1) / 2, log_odds, torch.full_like(log_odds, math.nan))
