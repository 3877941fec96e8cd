"""The trunk's convolutions in integers, for CPUs: in 8 bits, or in 16 that are made of 8-bit halves.

Weights have a scale for each output channel, the maps before a convolution one for each chunk (see `folded.ALONE`),
found from their largest value: nothing is calibrated. The first convolution stays in float32, as what it sees has a
sign. The arithmetic is oneDNN's, through the operators that torch.compile itself uses for quantised networks.

8 bits are 1.6 to 1.8 times as fast as floats, scores a little off (jobs/README.md).

16 bits are for CPUs with AMX, which multiply 8-bit integers some twelve times as fast as floats, so three products take
a third of the time of one. Of (256 x1 + x0) (256 w1 + w0), x0 w0 is left out, being of the size of what rounding to 16
bits loses. Sums are exact. The scores of 3,000 chunks of the starter's data moved by 8e-5 at most.
"""

import torch
from torch import Tensor, nn

from looptagger.errors import UserError
from looptagger.model.packed import ONE

LEVELS, WEIGHT_LEVELS = 255, 127
LEAST = 1e-12
"""Taken for the largest value where all are 0, so that silence divides by something."""
LEAST_CHANNELS = 64
"""Of a block in 16 bits. Below, cutting the maps into halves costs what the products save."""
HALF = 256
"""Steps of the low half in one of the high half."""
MIDDLE = HALF // 2
"""What stands for 0 in the low half of the maps: the high half is rounded, so the rest can be negative."""


def check() -> None:
    """Raise UserError where this machine has no fast 8-bit products, or torch none of the operators."""
    if not hasattr(torch.ops.onednn, "qconv2d_pointwise") or not torch.cpu._is_vnni_supported():
        raise UserError("compute.precision: int8 needs an x86 CPU with AVX-512 VNNI; use auto.")


def is_quick() -> bool:
    """Whether this machine has the products that make 16 bits pay, and torch the operators."""
    there = hasattr(torch.ops.onednn, "qconv2d_pointwise") and torch.cpu._is_amx_tile_supported()
    return there and torch.cpu._init_amx()  # a kernel may deny what the CPU has


class PackedIntegers:
    """Weights (c_out, c_in, 3, 3), whole numbers from -128 to 127 with a scale (c_out,), as oneDNN wants them."""

    def __init__(self, whole: Tensor, scale: Tensor) -> None:
        self.whole, self.scale = whole.to(torch.int8), scale.float()
        laid = torch.ops.onednn.qconv_prepack(self.whole, self.scale, 1.0, 0, ONE, ONE, ONE, 1, None)
        self.operands = laid, self.scale, torch.zeros(len(whole), dtype=torch.int64)

    def __reduce__(self) -> tuple[type["PackedIntegers"], tuple[Tensor, Tensor]]:
        """Copied and pickled as plain weights: what oneDNN has laid out is opaque."""
        return PackedIntegers, (self.whole, self.scale)


def bare(maps: Tensor) -> Tensor:
    """The bytes of quantised maps, as the operators take them."""
    return torch.empty(0, dtype=torch.uint8).set_(maps.untyped_storage(), 0, maps.shape, maps.stride())


def convolved(maps: Tensor, scale: float, weight: PackedIntegers, bias: Tensor) -> Tensor:
    """A 3x3 convolution of `bare` maps, in float32."""
    found: Tensor = torch.ops.onednn.qconv2d_pointwise(
        maps, scale, 0, *weight.operands, bias, ONE, ONE, ONE, 1, 1.0, 0, torch.float32, "none", [], ""
    )
    return found


class Int8Conv:
    """A 3x3 convolution of maps that are not negative: (n, c_in, h, w), channels last -> (n, c_out, h, w), float32."""

    def __init__(self, conv: nn.Conv2d) -> None:
        weight = conv.weight.detach().float().contiguous()
        scale = weight.abs().amax(dim=(1, 2, 3)).clamp(min=LEAST) / WEIGHT_LEVELS
        self.weight = PackedIntegers(torch.round(weight / scale[:, None, None, None]), scale)
        self.bias = conv.get_parameter("bias").detach().float()

    def __call__(self, maps: Tensor) -> Tensor:
        """The convolution."""
        scale = max(float(maps.amax()), LEAST) / LEVELS
        whole = torch.quantize_per_tensor(maps, scale, 0, torch.quint8)
        return convolved(bare(whole), scale, self.weight, self.bias)


class Int16Conv:
    """A 3x3 convolution of maps that are not negative: (n, c_in, h, w), channels last -> (n, c_out, h, w), float32."""

    def __init__(self, conv: nn.Conv2d) -> None:
        weight = conv.weight.detach().double().contiguous()
        scale = weight.abs().amax(dim=(1, 2, 3)).clamp(min=LEAST) / (WEIGHT_LEVELS * HALF)
        whole = torch.round(weight / scale[:, None, None, None])
        high = torch.floor(whole / HALF + 0.5)
        self.high, self.low = PackedIntegers(high, scale * HALF), PackedIntegers(whole - HALF * high, scale)
        self.bias = conv.get_parameter("bias").detach().float()

    def __call__(self, maps: Tensor) -> Tensor:
        """The convolution."""
        step = max(float(maps.amax()), LEAST) / LEVELS
        high = torch.quantize_per_tensor(maps, step, 0, torch.quint8)
        rest = high.dequantize()
        low = torch.quantize_per_tensor(torch.sub(maps, rest, out=rest), step / HALF, MIDDLE, torch.quint8)
        found = convolved(bare(high), step, self.high, self.bias)
        _add(bare(high), step, 0, self.low, found)
        _add(bare(low), step / HALF, MIDDLE, self.high, found)
        return found


def _add(maps: Tensor, scale: float, zero: int, weight: PackedIntegers, found: Tensor) -> None:
    """Add the convolution of other maps to what was found, in place."""
    operator = torch.ops.onednn.qconv2d_pointwise.binary
    floats = 1.0, 0, torch.float32, 1.0, 0
    operator(maps, scale, zero, *weight.operands, found, None, ONE, ONE, ONE, 1, *floats, "sum", 1.0, "none", [], "")
