"""A residual encoder, global pooling and a linear head: one vector for a whole window, such as coordinates.

With features (64, 64, 128, 256, 512), 1, 3, 4, 6 and 3 blocks a stage, a first kernel of 7 and strides of 2 it is
ResNet-34 (He et al., CVPR 2016) to the parameter, with two differences of ResNet-D (He et al., CVPR 2019): a shortcut
pools where a stage halves, and a stride takes the place of the max-pooling.
"""

from __future__ import annotations

from typing import Any

from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op, get_matching_instancenorm
from dynamic_network_architectures.building_blocks.residual import StackedResidualBlocks
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from autolmk.networks.unet import NEGATIVE_SLOPE, Head
from autolmk.plans import Architecture

HEAD_STD = 0.01  # of the head's first weights: outputs begin near 0, the middle of the window


class ResNet(nn.Module):
    """(B, n_channels, *S) -> (B, n_outputs) float32. The first stage of the architecture is plain, the others residual.

    The architecture's decoder is not built. ValueError without a residual stage.
    """

    def __init__(self, architecture: Architecture, n_channels: int, n_outputs: int, ndim: int) -> None:
        super().__init__()
        a, features = architecture, architecture.features_per_stage
        if len(features) < 2:
            raise ValueError("a residual network has 2 stages at least")
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
        """See the class."""
        features: Tensor = self.stages(self.stem(data))
        pooled = features.float().mean(tuple(range(2, features.ndim)), keepdim=True)
        output: Tensor = self.head(pooled).flatten(1)
        return output
