"""Heatmaps in a window a landmark, and for each group of landmarks that lie on one slice a 1-D Gaussian: which slice.

The windows of a group share their interval along its axis, so that they count slices alike; see `stage_windows`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor, nn

from autolmk.codecs.balance import Shares
from autolmk.codecs.codec import Candidates, Codec, Target
from autolmk.codecs.constants import constant
from autolmk.codecs.heatmap import HeatmapCodec, HeatmapTarget
from autolmk.landmarks import Status

Group = tuple[int, tuple[int, ...]]  # (array axis across the slice, landmarks on it)


class SliceOutput(TypedDict):
    """The output of networks that look for the slices of groups. heatmaps: (B, L, *O) logits. slices: of each group (B,
    n) logits over the slices of its windows, n voxels.
    """

    heatmaps: Tensor
    slices: list[Tensor]


@dataclass(frozen=True)
class SliceTarget(Target):
    """The target of `SliceCodec`. slices: of each group a Gaussian on one axis, centres (B, 1, 1). status: of each
    group (B, 1) int8.
    """

    heatmaps: HeatmapTarget
    slices: tuple[HeatmapTarget, ...]
    status: tuple[Tensor, ...]


class SliceCodec(Codec):
    """Codec for networks that take the windows of all landmarks in order. Candidates are those of the heatmaps, to
    which such a network has added what it says of the slice (`networks.slice_fusion`).

    sigma_voxels: (D,) input voxels, of the heatmaps. elsewhere: (G,) logits of "the slice is not in these windows".

    >>> heatmaps = HeatmapCodec(2, patch_size=(16, 16), output_stride=(1, 1), sigma_voxels=(1.5, 1.5))
    >>> codec = SliceCodec(heatmaps, groups=[(0, (0, 1))], patch_size=(16, 16), sigma_voxels=(1.5, 1.5))
    >>> target = codec.encode(voxels=torch.tensor([[[5.0, 9.5], [6.0, 2.0]]]), status=torch.tensor([[1, 1]]))
    >>> target.slices[0].centres.tolist()  # the place of both along axis 0
    [[[5.5]]]
    """

    def __init__(
        self, heatmaps: HeatmapCodec, groups: Sequence[Group], patch_size: Sequence[int], sigma_voxels: Sequence[float]
    ) -> None:
        super().__init__()
        self.heatmaps, self.groups = heatmaps, tuple(groups)
        self.sigma = tuple(float(sigma_voxels[axis]) for axis, _ in groups)
        self.length = tuple(int(patch_size[axis]) for axis, _ in groups)
        self.shares = nn.ModuleList(Shares(1) for _ in groups)
        self.elsewhere = nn.Parameter(torch.tensor([math.log(patch_size[axis]) for axis, _ in groups]))

    def encode(self, voxels: Tensor, status: Tensor, landmarks: Tensor | None = None) -> SliceTarget:
        """Encode points and the slices of groups, see `Codec.encode`. A group's slice is the mean place of its present
        landmarks; it is absent where one is absent and none is present.
        """
        targets, states = [], []
        parts = zip(self.groups, self.sigma, self.elsewhere, self.length, self.shares, strict=True)
        for (axis, rows), sigma, elsewhere, length, shares in parts:
            members = constant(rows, status.device, torch.int64)
            own = status.index_select(1, members)
            present = own == Status.PRESENT
            place = voxels[..., axis].index_select(1, members).double().masked_fill(~present, 0.0)
            centre = place.sum(1) / present.sum(1).clamp(min=1)
            states.append(_group_status(own)[:, None])
            share = shares(centre[:, None, None], states[-1], [length])
            targets.append(HeatmapTarget(centre[:, None, None], (sigma,), elsewhere[None], share=share))
        return SliceTarget(self.heatmaps.encode(voxels, status, landmarks), tuple(targets), tuple(states))

    def scores(self, output: SliceOutput, landmarks: Tensor | None = None) -> Tensor:
        """The heatmaps' log-odds, see `HeatmapCodec.scores`."""
        return self.heatmaps.scores(output["heatmaps"], landmarks)

    def mirror(self, scores: Tensor, axis: int, partner: Sequence[int]) -> Tensor:
        """Mirror the scores along an array axis, see `Codec.mirror`."""
        return self.heatmaps.mirror(scores, axis, partner)

    def decode(self, scores: Tensor) -> Candidates:
        """Decode the best candidates of each heatmap, see `HeatmapCodec.decode`."""
        return self.heatmaps.decode(scores)


def _group_status(status: Tensor) -> Tensor:
    """(B, n) int8 of a group's landmarks -> (B,) of its slice."""
    present, absent = ((status == s).any(1) for s in (Status.PRESENT, Status.ABSENT))
    result = torch.full_like(status[:, 0], int(Status.UNKNOWN)).masked_fill(absent, int(Status.ABSENT))
    return result.masked_fill(present, int(Status.PRESENT))
