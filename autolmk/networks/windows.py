"""Networks that see a window a landmark: (B, W, C, *S) and landmarks (B, W) -> (B, W, *S / output_stride)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autolmk.networks.unet import build_unet
from autolmk.plans import Architecture


class SharedUNet(nn.Module):
    """One U-Net for the windows of all landmarks, with a head a landmark, of which each window gets its own."""

    def __init__(self, architecture: Architecture, n_channels: int, n_landmarks: int, ndim: int) -> None:
        super().__init__()
        self.unet = build_unet(architecture, n_channels, n_landmarks, ndim)

    def forward(self, data: Tensor, landmarks: Tensor) -> Tensor:
        """(B, W, C, *S), (B, W) int64 -> (B, W, *O) float32."""
        features = self.unet.features(data.flatten(0, 1))
        head, which = self.unet.head.convolution, landmarks.flatten()
        with torch.autocast(features.device.type, enabled=False):
            weight = head.weight.flatten(1)[which].float()
            assert head.bias is not None
            logits = torch.baddbmm(
                head.bias[which].float()[:, None, None], weight[:, None], features.float().flatten(2)
            )
        return logits.view(*landmarks.shape, *features.shape[2:])
