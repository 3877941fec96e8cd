"""Weights in float32 laid out once, for CPUs: convolutions as oneDNN wants them, and a matrix without its zeros.

PyTorch's own convolutions lay them out in each forward. Without that small maps take half the time, and grouped
convolutions a third. The operators are those of torch.compile.
"""

import warnings

import torch
from torch import Tensor, nn

ONE = [1, 1]
"""A convolution's stride and dilation, along both axes."""


def is_there() -> bool:
    """Whether torch was built with the operators."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


class PackedConv:
    """A convolution of maps, channels last: (n, groups x c_in, h, w) -> (n, c_out, h, w). Its kernel is square and odd.

    Weights are (c_out, c_in, k, k), biases (c_out,).
    """

    def __init__(self, weight: Tensor, bias: Tensor, groups: int = 1) -> None:
        self.weight, self.bias, self.groups = weight, bias, groups
        self.shape = [weight.shape[-1] // 2] * 2, ONE, ONE, groups
        self.laid: Tensor | None = None

    def __reduce__(self) -> tuple[type["PackedConv"], tuple[Tensor, Tensor, int]]:
        """Copied and pickled as plain weights: what oneDNN has laid out is opaque."""
        return PackedConv, (self.weight, self.bias, self.groups)

    def __call__(self, maps: Tensor, then: str = "none") -> Tensor:
        """The convolution, and what follows it in one go: `none` or `relu`."""
        if self.laid is None:  # by the size of the maps: laid out for others, these may take a hundred times as long
            self.laid = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self.shape, list(maps.shape))
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(maps, self.laid, self.bias, *self.shape, then, [], "")
        return found


def packed(conv: nn.Conv2d) -> PackedConv:
    """A module's convolution."""
    return PackedConv(conv.weight.detach().float(), conv.get_parameter("bias").detach().float())


class SparseMatrix:
    """A matrix (m, k), most of it 0: (n, k, columns) -> (n, m, columns)."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        with warnings.catch_warnings():  # torch calls these a beta
            warnings.simplefilter("ignore", UserWarning)
            self.without_zeros = matrix.to_sparse_csr()

    def __reduce__(self) -> tuple[type["SparseMatrix"], tuple[Tensor]]:
        """Copied and pickled with its zeros, as torch does no others."""
        return SparseMatrix, (self.matrix,)

    def __call__(self, columns: Tensor) -> Tensor:
        """The product."""
        return torch.stack([self.without_zeros @ each for each in columns])
