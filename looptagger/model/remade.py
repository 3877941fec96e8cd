"""The trunk's blocks, their norms folded away, around another kind of convolution: `packed`, or 8-bit."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Conv = Callable[[Tensor], Tensor]
"""Maps (n, c_in, h, w), channels last -> maps (n, c_out, h, w)."""


class RemadeBlock(nn.Module):
    """A block of one convolution, or a residual one of two: maps (n, c_in, h, w) -> (n, c_out, h // 2, w // 2)."""

    def __init__(self, first: Conv, second: Conv | None = None) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, maps: Tensor) -> Tensor:
        """Maps to maps of half the size."""
        found = self.first(maps)
        if self.second:
            found = self.second(found.relu_()).add_(maps)
        return pooled(found).relu_()


def pooled(maps: Tensor) -> Tensor:
    """2x2 max pooling of the third and fourth axes. PyTorch's own also writes down where the largest are, which takes
    as long.
    """
    height, width = (size // 2 * 2 for size in maps.shape[2:4])
    higher = torch.maximum(maps[:, :, 0:height:2], maps[:, :, 1:height:2])
    return torch.maximum(higher[:, :, :, 0:width:2], higher[:, :, :, 1:width:2])


def remade(block: nn.Module, conv: Callable[[nn.Conv2d], Conv]) -> nn.Module:
    """A folded block of the trunk with its convolutions made anew."""
    return RemadeBlock(*(conv(each) for each in block.children() if isinstance(each, nn.Conv2d)))
