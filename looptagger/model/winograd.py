"""A residual block by Winograd's minimal filtering, F(4x4, 3x3): a quarter of the multiplications, same scores to 1e-5.

Source: Lavin and Gray (CVPR 2016), "Fast algorithms for convolutional neural networks"; their matrices. PyTorch's own
3x3 convolution runs at a core's peak already, so only fewer multiplications make it faster: at 128 channels 1.7 times
with AVX-512; told to use AVX2 alone, whose multiplications cost more, 2.6 times, and at 64 channels 1.6 times.
"""

import torch
from torch import Tensor, nn

from looptagger.model.hcnn import ResidualBlock
from looptagger.model.packed import PackedConv
from looptagger.model.remade import pooled

LEAST_CHANNELS = 128 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 64
"""Of a map. Below, the transforms cost what the multiplications save."""
TILE = 4
"""Outputs of a tile, along each axis; it is computed from TILE + 2 inputs."""
AT_ONCE = 6144
"""Channels of all tiles done at once, in whole rows: what they need stays in a core's cache."""
INPUTS, OUTPUTS, POOLED = (TILE + 2, TILE, 0), (TILE, TILE, 1), (TILE // 2, TILE // 2, 0)
"""Where tiles lie in padded maps, and the pooled ones: their size, the step between them, the place of the first."""

INPUT = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=torch.float64,
)
FILTER = (
    torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64) / 24
)
OUTPUT = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=torch.float64
)


class WinogradBlock(nn.Module):
    """A residual block whose norms are folded away: maps (n, c, h, w) -> (n, c, h // 2, w // 2), channels last."""

    input: Tensor
    output: Tensor

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.conv1, self.conv2 = _of_tiles(block.conv1), _of_tiles(block.conv2)
        self.register_buffer("input", INPUT.float())
        self.register_buffer("output", OUTPUT.float())

    def forward(self, maps: Tensor) -> Tensor:
        """Each chunk's maps by themselves."""
        done = [self._one(each) for each in maps.permute(0, 2, 3, 1)]
        return torch.stack(done).permute(0, 3, 1, 2)

    def _one(self, maps: Tensor) -> Tensor:
        """(h, w, c) -> (h // 2, w // 2, c)."""
        height, width, c = maps.shape
        rows, columns = -(-height // TILE), -(-width // TILE)
        seen = maps.new_zeros(TILE * rows + 2, TILE * columns + 2, c)
        seen[1 : height + 1, 1 : width + 1] = maps
        inner = torch.zeros_like(seen)
        small = maps.new_empty(rows * TILE // 2, columns * TILE // 2, c)
        step = max(1, AT_ONCE // (columns * c))
        strips = [slice(first, min(first + step, rows)) for first in range(0, rows, step)]
        for strip in strips:
            found = self._convolved(_tiles(seen, strip, INPUTS), self.conv1)
            _tiles(inner, strip, OUTPUTS).copy_(found.relu_())
        inner[height + 1 :] = 0  # what tiles computed beyond the edge is padding to the next convolution
        inner[:, width + 1 :] = 0
        for strip in strips:
            found = self._convolved(_tiles(inner, strip, INPUTS), self.conv2).add_(_tiles(seen, strip, OUTPUTS))
            _tiles(small, strip, POOLED).copy_(pooled(found).relu_())
        return small[: height // 2, : width // 2]

    def _convolved(self, tiles: Tensor, conv: PackedConv) -> Tensor:
        """Tiles' inputs (rows, columns, 6, 6, c) -> their outputs (rows, columns, 4, 4, c)."""
        moved = _both(self.input, tiles)
        found = conv(moved.flatten(2).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
        return _both(self.output, found.reshape(moved.shape))


def _of_tiles(conv: nn.Conv2d) -> PackedConv:
    """A 3x3 convolution as one of tiles: its 36 products of channels, a group each, with weights (36 c, c, 1, 1)."""
    moved = torch.einsum("ka,oiab,lb->kloi", FILTER, conv.weight.detach().double(), FILTER)
    biases = moved.new_zeros(moved.shape[:3])
    biases[1, 1] = conv.get_parameter("bias").detach()  # from there OUTPUT carries 1 to each of a tile's outputs
    return PackedConv(moved.flatten(0, 2)[..., None, None].float(), biases.flatten().float(), groups=(TILE + 2) ** 2)


def _both(matrix: Tensor, tiles: Tensor) -> Tensor:
    """A transform of tiles along both of their axes: (a, b), (rows, columns, b, b, c) -> (rows, columns, a, a, c)."""
    (a, b), (rows, columns, *_, c) = matrix.shape, tiles.shape
    once = torch.matmul(matrix, tiles.reshape(-1, b, b * c))
    return torch.matmul(matrix, once.view(-1, b, c)).view(rows, columns, a, a, c)


def _tiles(maps: Tensor, strip: slice, place: tuple[int, int, int]) -> Tensor:
    """A view of a strip of the tiles of maps (h, w, c): (rows, columns, size, size, c)."""
    size, step, first = place
    row, column, channel = maps.stride()
    shape = (strip.stop - strip.start, (maps.shape[1] - 2 * first) // step, size, size, maps.shape[2])
    offset = (step * strip.start + first) * row + first * column
    return maps.as_strided(shape, (step * row, step * column, row, column, channel), offset)
