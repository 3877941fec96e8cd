"""Weights in float32 laid out once, for CPUs: convolutions as oneDNN wants them, and a matrix without its zeros.

PyTorch's own convolutions lay them out in each forward. Without that the smallest maps take half the time, and grouped
convolutions a third. The operators are those of torch.compile.
"""

import warnings

import torch
from torch import Tensor, nn

ONE = [1, 1]
"""A convolution's stride or dilation, along both axes."""


def is_there() -> bool:
    """Whether torch was built with the operators, for a CPU whose kernels have been tried: x86 with AVX2 or AVX-512."""
    has_them = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    return has_them and torch.backends.cpu.get_cpu_capability().startswith("AVX")


class PackedConv:
    """A convolution of maps, channels last: (n, groups x c_in, h, w) -> (n, c_out, h, w). Its kernel is square and odd.

    Weights are (c_out, c_in, k, k), biases (c_out,). They are laid out for maps of the first size that comes; others
    may take longer.
    """

    def __init__(self, weight: Tensor, bias: Tensor, groups: int = 1) -> None:
        self.weight, self.bias, self.groups = weight, bias, groups
        self.geometry = [weight.shape[-1] // 2] * 2, ONE, ONE, groups
        self.laid: Tensor | None = None

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "PackedConv":
        """A module's convolution."""
        return cls(conv.weight.detach().float(), conv.get_parameter("bias").detach().float())

    def __reduce__(self) -> tuple[type["PackedConv"], tuple[Tensor, Tensor, int]]:
        """Copied and pickled as plain weights: what oneDNN has laid out is opaque."""
        return PackedConv, (self.weight, self.bias, self.groups)

    def __call__(self, maps: Tensor) -> Tensor:
        """The convolution. No ReLU is left to oneDNN, whose makes 0 of what is no number."""
        if self.laid is None:  # not before, for a size that is guessed: that may take a hundred times as long
            self.laid = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self.geometry, list(maps.shape))
        operator = torch.ops.mkldnn._convolution_pointwise
        found: Tensor = operator(maps, self.laid, self.bias, *self.geometry, "none", [], "")
        return found


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
