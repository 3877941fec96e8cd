"""The trunk's wide blocks in 16-bit integers made of 8-bit halves, for CPUs with AMX.

Such CPUs multiply 8-bit integers some twelve times as fast as floats, so three products take a third of the time of
one. Of (256 x1 + x0) (256 w1 + w0), x0 w0 is left out, being of the size of what rounding to 16 bits loses. Sums are
exact; scales are found as int8.py does it, for all channels together. The scores of 3,000 chunks of the starter's data
moved by 8e-5 at most.
"""

import torch
from torch import Tensor, nn

from looptagger.model.hcnn import ResidualBlock
from looptagger.model.int8 import (
    LEAST,
    LEVELS,
    ONE,
    WEIGHT_LEVELS,
    IntegerResidualBlock,
    Packed,
    bare,
    convolved,
)

LEAST_CHANNELS = 64
"""Of a block. Below, cutting the maps into halves costs what the products save."""
HALF = 256
"""Steps of the low half in one of the high half."""
MIDDLE = HALF // 2
"""What stands for 0 in the low half of the maps: the high half is rounded, so the rest can be negative."""


def is_quick() -> bool:
    """Whether this machine has the products, and torch the operators."""
    there = hasattr(torch.ops.onednn, "qconv2d_pointwise") and torch.cpu._is_amx_tile_supported()
    return there and torch.cpu._init_amx()  # a kernel may deny what the CPU has


class Int16Conv:
    """A 3x3 convolution of maps that are not negative: (n, c_in, h, w), channels last -> (n, c_out, h, w), float32."""

    def __init__(self, conv: nn.Conv2d) -> None:
        weight = conv.weight.detach().double().contiguous()
        scale = weight.abs().amax(dim=(1, 2, 3)).clamp(min=LEAST) / (WEIGHT_LEVELS * HALF)
        whole = torch.round(weight / scale[:, None, None, None])
        high = torch.floor(whole / HALF + 0.5)
        self.high, self.low = Packed(high, scale * HALF), Packed(whole - HALF * high, scale)
        self.bias = conv.get_parameter("bias").detach().float()

    @torch.no_grad()
    def __call__(self, maps: Tensor, then: str = "none") -> Tensor:
        """The convolution, and what follows it in one go: `none` or `relu`."""
        step = max(float(maps.amax()), LEAST) / LEVELS
        high = torch.quantize_per_tensor(maps, step, 0, torch.quint8)
        rest = high.dequantize()
        low = torch.quantize_per_tensor(torch.sub(maps, rest, out=rest), step / HALF, MIDDLE, torch.quint8)
        found = convolved(bare(high), step, self.high, self.bias, "none")
        _add(bare(high), step, 0, self.low, found, "none")
        _add(bare(low), step / HALF, MIDDLE, self.high, found, then)
        return found


def _add(maps: Tensor, scale: float, zero: int, weight: Packed, found: Tensor, then: str) -> None:
    """Add the convolution of other maps to what was found, in place."""
    operator = torch.ops.onednn.qconv2d_pointwise.binary
    floats = 1.0, 0, torch.float32, 1.0, 0
    operator(maps, scale, zero, *weight.operands, found, None, ONE, ONE, ONE, 1, *floats, "sum", 1.0, then, [], "")


def in_int16(block: nn.Module) -> nn.Module:
    """A folded block in 16-bit integers, where it is a wide residual one."""
    if isinstance(block, ResidualBlock) and block.conv1.in_channels >= LEAST_CHANNELS:
        return IntegerResidualBlock(block, Int16Conv)
    return block
