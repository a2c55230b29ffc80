"""A residual encoder, global pooling and a linear head: one vector for a whole window, such as coordinates.

With `resnet34`'s architecture, features (64, 64, 128, 256, 512), 1, 3, 4, 6 and 3 blocks a stage, a first kernel of 7
and strides of 2, it is ResNet-34 (He et al., CVPR 2016) to the parameter, with two differences of ResNet-D (He et al.,
CVPR 2019): a shortcut pools where a stage halves, and a stride takes the place of the max-pooling. `PublishedResNet`
has neither.
"""

from __future__ import annotations

from typing import Any, Literal

from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op, get_matching_instancenorm
from dynamic_network_architectures.building_blocks.residual import StackedResidualBlocks
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from autolmk.errors import AutolmkError
from autolmk.networks.apga import BlockStyle, ResidualBlock
from autolmk.networks.unet import NEGATIVE_SLOPE, Head
from autolmk.plans import Architecture

Norm = Literal["instance", "published"]
POOLS: dict[int, Any] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
HEAD_STD = 0.01  # of the head's first weights: outputs begin near 0, the middle of the window


class ResNet(nn.Module):
    """Residual network that answers with numbers: (B, n_channels, *S) -> (B, n_outputs) float32. The first stage of the
    architecture is plain, the others residual.

    The architecture's decoder is not built. AutolmkError without a residual stage.
    """

    def __init__(self, architecture: Architecture, n_channels: int, n_outputs: int, ndim: int) -> None:
        super().__init__()
        a, features = architecture, architecture.features_per_stage
        require_stages(a)
        convolution = convert_dim_to_conv_op(ndim)
        blocks: dict[str, Any] = {
            "conv_bias": False,
            "norm_op": get_matching_instancenorm(convolution),
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": nn.LeakyReLU,
            "nonlin_kwargs": {"negative_slope": NEGATIVE_SLOPE, "inplace": True},
        }
        kernels, strides = [list(k) for k in a.kernel_sizes], [list(s) for s in a.strides]
        self.stem = StackedConvBlocks(
            a.n_conv_per_stage[0], convolution, n_channels, features[0], kernels[0], strides[0], **blocks
        )
        self.stages = nn.Sequential(
            *(
                StackedResidualBlocks(
                    a.n_conv_per_stage[i], convolution, features[i - 1], features[i], kernels[i], strides[i], **blocks
                )
                for i in range(1, len(features))
            )
        )
        self.head = Head(convolution(features[-1], n_outputs, 1, bias=True))
        self.apply(InitWeights_He(NEGATIVE_SLOPE))
        nn.init.normal_(self.head.convolution.weight, std=HEAD_STD)

    def forward(self, data: Tensor) -> Tensor:
        """Apply the network: (B, n_channels, *S) -> (B, n_outputs) float32."""
        return pooled_head(self.stages(self.stem(data)), self.head)


class PublishedResNet(nn.Module):
    """The ResNet as He et al. published it: batch norm and ReLU, max-pooling of 3 in front of the first residual stage,
    whose stride it takes, and shortcuts that stride.
    """

    def __init__(self, architecture: Architecture, n_channels: int, n_outputs: int, ndim: int) -> None:
        super().__init__()
        a, blocks = architecture, BlockStyle(ndim, published=True)
        require_stages(a)
        pool, one = a.strides[1], (1,) * ndim
        kernel = tuple(3 if s > 1 else 1 for s in pool)
        layers: list[nn.Module] = []
        before = n_channels
        for i in range(a.n_conv_per_stage[0]):
            stride = one if i else a.strides[0]
            layers += blocks.normalized(before, a.features_per_stage[0], a.kernel_sizes[0], stride)
            layers.append(blocks.activation())
            before = a.features_per_stage[0]
        layers.append(POOLS[ndim](kernel, pool, tuple(k // 2 for k in kernel)))
        for i in range(1, len(a.features_per_stage)):
            width, size, stride = a.features_per_stage[i], a.kernel_sizes[i], one if i == 1 else a.strides[i]
            for j in range(a.n_conv_per_stage[i]):
                layers.append(ResidualBlock(blocks, before, width, size, one if j else stride))
                before = width
        self.layers = nn.Sequential(*layers)
        self.head = Head(blocks.convolution(before, n_outputs, 1, bias=True))
        self.apply(InitWeights_He(0.0))
        nn.init.normal_(self.head.convolution.weight, std=HEAD_STD)

    def forward(self, data: Tensor) -> Tensor:
        """Apply the network: (B, n_channels, *S) -> (B, n_outputs) float32."""
        return pooled_head(self.layers(data), self.head)


def pooled_head(features: Tensor, head: Head) -> Tensor:
    """Apply a head to the mean over all places: (B, F, *S) -> (B, n_outputs)."""
    pooled = features.float().mean(tuple(range(2, features.ndim)), keepdim=True)
    output: Tensor = head(pooled).flatten(1)
    return output


def require_stages(architecture: Architecture) -> None:
    """Raise AutolmkError without a residual stage."""
    if len(architecture.features_per_stage) < 2:
        raise AutolmkError(
            "a residual network has 2 stages at least, and the images have too few voxels for that",
            found=f"strides {architecture.strides}",
            remedy="learn heatmaps instead: plan with --set coarse=heatmap, or leave coarse out",
        )


def resnet34(ndim: int) -> Architecture:
    """ResNet-34's: a voxel of its last stage spans 32."""
    return Architecture(
        features_per_stage=(64, 64, 128, 256, 512),
        kernel_sizes=((7,) * ndim, *((3,) * ndim,) * 4),
        strides=((2,) * ndim,) * 5,
        n_conv_per_stage=(1, 3, 4, 6, 3),
        n_conv_per_stage_decoder=(),
        output_stride=(32,) * ndim,
    )
