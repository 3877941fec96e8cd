"""Blocks by Winograd's minimal filtering, F(4x4, 3x3): a quarter of the multiplications, same scores to 1e-5.

Source: Lavin and Gray (CVPR 2016), "Fast algorithms for convolutional neural networks"; their matrices. PyTorch's own
3x3 convolution runs at a core's peak already, so only fewer multiplications make it faster: with AVX-512 2.5 times at
128 channels, 2.2 times at 64.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from looptagger.model import tiles
from looptagger.model.hcnn import ConvBlock, ResidualBlock
from looptagger.model.packed import PackedConv
from looptagger.model.tiles import SEEN, TILE, Floats

LEAST_CHANNELS = 32
"""Of a map. Below, the loops cost what the multiplications save."""
AT_ONCE = 12_288
"""Channels of all tiles done at once, in whole rows: what they need stays in a core's cache."""
FILTER = (
    torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64) / 24
)


def suits(channels: int) -> bool:
    """Whether it makes blocks of so many channels faster here."""
    return channels >= LEAST_CHANNELS and tiles.are_quick()


class _Block(nn.Module):
    """A block whose norms are folded away: maps (n, c, h, w) -> (n, c_out, h // 2, w // 2), channels last."""

    def forward(self, maps: Tensor) -> Tensor:
        """Each chunk's maps by themselves."""
        done = [self._one(np.ascontiguousarray(each)) for each in maps.permute(0, 2, 3, 1).numpy()]
        return torch.from_numpy(np.stack(done)).permute(0, 3, 1, 2)

    def _one(self, maps: Floats) -> Floats:
        """(h, w, c) -> (h // 2, w // 2, c_out)."""
        raise NotImplementedError


class WinogradBlock(_Block):
    """A residual block."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.conv1, self.conv2 = _of_tiles(block.conv1), _of_tiles(block.conv2)

    def _one(self, maps: Floats) -> Floats:
        height, width, channels = maps.shape
        inner = np.empty_like(maps)
        small = np.empty((height // 2, width // 2, channels), np.float32)
        for first, found in _strips(maps, self.conv1):
            tiles.joined(found, first, inner)
        for first, found in _strips(inner, self.conv2):
            tiles.pooled(found, first, maps, small)
        return small


class FirstWinogradBlock(_Block):
    """A block of one convolution of six maps."""

    def __init__(self, block: ConvBlock) -> None:
        super().__init__()
        self.weights = _moved(block.conv).transpose(2, 3).float().contiguous().numpy()
        self.biases = block.conv.get_parameter("bias").detach().float().numpy()

    def _one(self, maps: Floats) -> Floats:
        height, width, _ = maps.shape
        small = np.empty((height // 2, width // 2, len(self.biases)), np.float32)
        tiles.convolved(maps, self.weights, self.biases, small)
        return small


def _strips(maps: Floats, conv: PackedConv) -> Iterator[tuple[int, Floats]]:
    """The rows of tiles that are done at once: the first one's place, and their products (rows, columns, 6, 6, c)."""
    height, width, channels = maps.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    step = min(rows, max(1, AT_ONCE // (columns * channels)))
    room = np.empty((step, columns, SEEN, SEEN, channels), np.float32)
    for first in range(0, rows, step):
        moved = room[: rows - first]
        tiles.spread(maps, first, moved)
        found = conv(torch.from_numpy(moved).flatten(2).permute(2, 0, 1)[None])
        yield first, found[0].permute(1, 2, 0).numpy().reshape(moved.shape)


def _of_tiles(conv: nn.Conv2d) -> PackedConv:
    """A 3x3 convolution as one of tiles: its 36 products of channels, a group each, with weights (36 c, c, 1, 1)."""
    moved = _moved(conv)
    biases = moved.new_zeros(moved.shape[:3])
    biases[1, 1] = conv.get_parameter("bias").detach()  # from there it is carried to each of a tile's outputs as it is
    return PackedConv(moved.flatten(0, 2)[..., None, None].float(), biases.flatten().float(), groups=SEEN**2)


def _moved(conv: nn.Conv2d) -> Tensor:
    """A 3x3 convolution's filters, moved: (6, 6, c_out, c_in)."""
    return torch.einsum("ka,oiab,lb->kloi", FILTER, conv.weight.detach().double(), FILTER)
