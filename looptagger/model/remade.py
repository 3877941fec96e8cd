"""The trunk's blocks, their norms folded away, around another kind of convolution: `packed`, 8-bit or 16-bit."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from looptagger.model.hcnn import ConvBlock, ResidualBlock

Conv = Callable[[Tensor], Tensor]
"""Maps (n, c_in, h, w), channels last -> maps (n, c_out, h, w)."""


class RemadeConvBlock(nn.Module):
    """A convolution block: maps (n, c_in, h, w) -> (n, c_out, h // 2, w // 2)."""

    def __init__(self, conv: Conv) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, maps: Tensor) -> Tensor:
        """Maps to maps of half the size."""
        return pooled(self.conv(maps)).relu_()


class RemadeResidualBlock(nn.Module):
    """A residual block: maps (n, c, h, w) -> (n, c, h // 2, w // 2)."""

    def __init__(self, conv1: Conv, conv2: Conv) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv1, conv2

    def forward(self, maps: Tensor) -> Tensor:
        """Maps to maps of half the size."""
        return pooled(self.conv2(self.conv1(maps).relu_()).add_(maps)).relu_()


def pooled(maps: Tensor) -> Tensor:
    """2x2 max pooling of the third and fourth axes. PyTorch's own also writes down where the largest are, which takes
    as long.
    """
    height, width = (size // 2 * 2 for size in maps.shape[2:4])
    higher = torch.maximum(maps[:, :, 0:height:2], maps[:, :, 1:height:2])
    return torch.maximum(higher[:, :, :, 0:width:2], higher[:, :, :, 1:width:2])


def remade(block: nn.Module, conv: Callable[[nn.Conv2d], Conv]) -> nn.Module:
    """A folded block of the trunk with its convolutions made anew."""
    if isinstance(block, ResidualBlock):
        return RemadeResidualBlock(conv(block.conv1), conv(block.conv2))
    return RemadeConvBlock(conv(cast(ConvBlock, block).conv))
