"""A residual block by Winograd's minimal filtering, F(4x4, 3x3): a quarter of the multiplications, same scores to 1e-5.

Source: Lavin and Gray (CVPR 2016), "Fast algorithms for convolutional neural networks"; their matrices. PyTorch's own
3x3 convolution runs at a core's peak already, so only fewer multiplications make it faster: 1.2 to 1.5 times at 128
channels, by how busy the memory is; at 64, not surely.
"""

import torch
from torch import Tensor, nn

from looptagger.model.hcnn import ResidualBlock

LEAST_CHANNELS = 128
"""Of a map. Below, the transforms cost what the multiplications save."""
TILE = 4
"""Outputs of a tile, along each axis; it is computed from TILE + 2 inputs."""
AT_ONCE = 48
"""Tiles done at once, in whole rows: what they need stays in a core's cache."""
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

    weight1: Tensor
    weight2: Tensor
    bias1: Tensor
    bias2: Tensor
    input: Tensor
    output: Tensor

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        for name, conv in (("1", block.conv1), ("2", block.conv2)):
            weight = conv.weight.detach().double()
            moved = torch.einsum("ka,oiab,lb->klio", FILTER, weight, FILTER)
            self.register_buffer(f"weight{name}", moved.flatten(0, 1).float().contiguous())
            self.register_buffer(f"bias{name}", conv.get_parameter("bias").detach().clone())
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
        pooled = maps.new_empty(rows * TILE // 2, columns * TILE // 2, c)
        step = max(1, AT_ONCE // columns)
        strips = [slice(first, min(first + step, rows)) for first in range(0, rows, step)]
        for strip in strips:
            found = self._convolved(_tiles(seen, strip, INPUTS), self.weight1)
            _tiles(inner, strip, OUTPUTS).copy_(found.add_(self.bias1).relu_())
        inner[height + 1 :] = 0  # what tiles computed beyond the edge is padding to the next convolution
        inner[:, width + 1 :] = 0
        for strip in strips:
            found = self._convolved(_tiles(inner, strip, INPUTS), self.weight2) + _tiles(seen, strip, OUTPUTS)
            found = torch.maximum(found[0::2], found[1::2])
            found = torch.maximum(found[:, 0::2], found[:, 1::2])
            _tiles(pooled, strip, POOLED).copy_(found.add_(self.bias2).relu_())
        return pooled[: height // 2, : width // 2]

    def _convolved(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """Tiles' inputs (6, 6, rows, columns, c) -> their outputs (4, 4, rows, columns, c)."""
        product = torch.bmm(_both(self.input, inputs).flatten(0, 1).flatten(1, 2), weight)
        return _both(self.output, product.view(inputs.shape[:2] + inputs.shape[2:]))


def _both(matrix: Tensor, tiles: Tensor) -> Tensor:
    """A transform of tiles along both of their axes: (a, b), (b, b, rows, columns, c) -> (a, a, rows, columns, c)."""
    (a, b), rest = matrix.shape, tiles.shape[2:]
    once = (matrix @ tiles.reshape(b, -1)).view(a, b, -1)
    return torch.matmul(matrix, once).view(a, a, *rest)


def _tiles(maps: Tensor, strip: slice, place: tuple[int, int, int]) -> Tensor:
    """A view of a strip of the tiles of maps (h, w, c), by their elements: (size, size, rows, columns, c)."""
    size, step, first = place
    row, column, channel = maps.stride()
    shape = (size, size, strip.stop - strip.start, (maps.shape[1] - 2 * first) // step, maps.shape[2])
    offset = (step * strip.start + first) * row + first * column
    return maps.as_strided(shape, (row, column, step * row, step * column, channel), offset)
