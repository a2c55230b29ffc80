"""Networks that see a window a landmark: (B, W, C, *S) and landmarks (B, W) -> (B, W, *S / output_stride)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from autolmk.codecs.constants import constant
from autolmk.codecs.slices import Group, SliceOutput
from autolmk.networks.grouped import CONVOLUTIONS, GroupedUNet
from autolmk.networks.slice_fusion import SliceFusion, along
from autolmk.networks.unet import NEGATIVE_SLOPE, Head, build_unet, without_autocast
from autolmk.plans import Architecture


class SharedUNet(nn.Module):
    """One U-Net for the windows of all landmarks, with a head a landmark, of which each window gets its own."""

    def __init__(self, architecture: Architecture, n_channels: int, n_landmarks: int, ndim: int) -> None:
        super().__init__()
        self.unet = build_unet(architecture, n_channels, n_landmarks, ndim)

    def forward(self, data: Tensor, landmarks: Tensor) -> Tensor:
        """Apply the network: (B, W, C, *S), (B, W) int64 -> (B, W, *O) float32."""
        features = self.unet.features(data.flatten(0, 1))
        head, which = self.unet.head.convolution, landmarks.flatten()
        with without_autocast(features):
            weight = head.weight.flatten(1)[which].float()
            assert head.bias is not None
            logits = torch.baddbmm(
                head.bias[which].float()[:, None, None], weight[:, None], features.float().flatten(2)
            )
        return logits.view(*landmarks.shape, *features.shape[2:])


class OwnUNets(nn.Module):
    """A U-Net a landmark, side by side in one module. It takes the windows of all landmarks, in order."""

    def __init__(self, architecture: Architecture, n_channels: int, n_landmarks: int, ndim: int) -> None:
        super().__init__()
        self.unets = GroupedUNet(architecture, n_channels, n_landmarks, ndim)
        self.head = heads(n_landmarks, self.unets.features, ndim)
        self.apply(InitWeights_He(NEGATIVE_SLOPE))

    def forward(self, data: Tensor, landmarks: Tensor) -> Tensor:
        """Apply the networks: (B, L, C, *S), (B, L) 0 ... L - 1 -> (B, L, *O) float32."""
        found = self.unets.encode(data.flatten(1, 2))
        output: Tensor = self.head(self.unets.decode(found[-1], found))
        return output


class CorrelatedUNets(nn.Module):
    """U-Nets as `OwnUNets` that see the windows of a group, whose landmarks lie on one slice, together; see `slices`.

    groups: axis and landmarks of each; the landmarks of none of them are independent. shared: one U-Net serves all
    windows, else each landmark has its own. key_slices: whether to look for each group's slice, whose logits are added
    to those of the group's landmarks along the axis: the heatmap that is trained, and decoded, is the product of both.
    Raises ValueError as `GroupedUNet`.
    """

    def __init__(
        self,
        architecture: Architecture,
        n_channels: int,
        n_landmarks: int,
        ndim: int,
        groups: Sequence[Group],
        *,
        shared: bool,
        key_slices: bool,
    ) -> None:
        super().__init__()
        self.shared, self.groups, self.output_stride = shared, tuple(groups), architecture.output_stride
        self.unets = GroupedUNet(architecture, n_channels, 1 if shared else n_landmarks, ndim)
        self.head = heads(n_landmarks, self.unets.features, ndim)
        self.fusions = nn.ModuleList(
            SliceFusion(
                axis,
                len(rows),
                ndim,
                architecture.features_per_stage,
                [stride[axis] for stride in architecture.strides],
                shared=shared,
                key_slice=key_slices,
            )
            for axis, rows in groups
        )
        self.apply(InitWeights_He(NEGATIVE_SLOPE))

    def forward(self, data: Tensor, landmarks: Tensor) -> Tensor | SliceOutput:
        """Apply the networks: (B, L, C, *S), (B, L) 0 ... L - 1 -> (B, L, *O) float32, with key slices as
        `SliceOutput`.
        """
        found = self.unets.encode(self._side_by_side(data))
        deep = found[-1].reshape(*data.shape[:2], -1, *found[-1].shape[2:])
        slices = []
        groups = [constant(rows, deep.device, torch.int64) for _, rows in self.groups]
        for rows, fusion in zip(groups, self.fusions, strict=True):
            merged, logits = fusion(deep.index_select(1, rows))
            deep = deep.index_copy(1, rows, merged.to(deep.dtype))
            slices.append(logits)
        features = self.unets.decode(self._side_by_side(deep), found)
        heatmaps: Tensor = self.head(features.reshape(data.shape[0], -1, *features.shape[2:]))
        if not slices or slices[0] is None:
            return heatmaps
        for (axis, _), rows, logits in zip(self.groups, groups, slices, strict=True):
            added = across(logits, axis, heatmaps.ndim, self.output_stride[axis])
            added = added.expand(-1, len(rows), *heatmaps.shape[2:])
            heatmaps = heatmaps.index_add(1, rows, added)
        return {"heatmaps": heatmaps, "slices": slices}

    def _side_by_side(self, x: Tensor) -> Tensor:
        """(B, L, F, *S) as the U-Nets take it."""
        return x.flatten(0, 1) if self.shared else x.flatten(1, 2)


def across(logits: Tensor, axis: int, ndim: int, stride: int) -> Tensor:
    """Lay slices' logits along an array axis: (B, n) -> (B, 1, *) with `ndim` axes, n / stride output cells along
    `axis`, 1 along the others.

    A cell gets the mean of its voxels' logits, which leaves a Gaussian's centre and width as they are.
    """
    return along(logits.view(logits.shape[0], 1, -1, stride).mean(3), axis, ndim)


def heads(n_landmarks: int, features: int, ndim: int) -> Head:
    """The heads that give each landmark an output from its own features: (B, L * features, *O) -> (B, L, *O)."""
    return Head(CONVOLUTIONS[ndim](n_landmarks * features, n_landmarks, 1, groups=n_landmarks))
