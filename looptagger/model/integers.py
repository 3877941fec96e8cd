"""The trunk's convolutions in 8-bit integers, for CPUs with AVX-512 VNNI.

Weights have a scale for each output channel, the maps before a convolution one for each chunk (see `folded.ALONE`),
found from their largest value: nothing is calibrated. The first convolution stays in float32, as what it sees has a
sign. The arithmetic is oneDNN's, through the operators that torch.compile itself uses for quantised networks. Scores
are a little off (jobs/README.md).
"""

import torch
from torch import Tensor, nn

from looptagger.errors import UserError
from looptagger.model.packed import ONE

LEVELS, WEIGHT_LEVELS = 255, 127
LEAST = 1e-12
"""Taken for the largest value where all are 0, so that silence divides by something."""


def check() -> None:
    """Raise UserError where this machine has no fast 8-bit products, or torch none of the operators."""
    if not hasattr(torch.ops.onednn, "qconv2d_pointwise") or not torch.cpu._is_vnni_supported():
        raise UserError("compute.precision: int8 needs an x86 CPU with AVX-512 VNNI; use auto.")


class PackedIntegers:
    """Weights (c_out, c_in, 3, 3), whole numbers from -127 to 127 with a scale (c_out,), as oneDNN wants them."""

    def __init__(self, whole: Tensor, scale: Tensor) -> None:
        self.whole, self.scale = whole.to(torch.int8), scale.float()
        laid = torch.ops.onednn.qconv_prepack(self.whole, self.scale, 1.0, 0, ONE, ONE, ONE, 1, None)
        self.operands = laid, self.scale, torch.zeros(len(whole), dtype=torch.int64)

    def __reduce__(self) -> tuple[type["PackedIntegers"], tuple[Tensor, Tensor]]:
        """Copied and pickled as plain weights: what oneDNN has laid out is opaque."""
        return PackedIntegers, (self.whole, self.scale)


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
        bare = torch.empty(0, dtype=torch.uint8).set_(whole.untyped_storage(), 0, whole.shape, whole.stride())
        found: Tensor = torch.ops.onednn.qconv2d_pointwise(
            bare, scale, 0, *self.weight.operands, self.bias, ONE, ONE, ONE, 1, 1.0, 0, torch.float32, "none", [], ""
        )
        return found
