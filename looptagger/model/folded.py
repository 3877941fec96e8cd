"""HCNN for inference: batch norms folded into the convolutions, filters computed once, channels last.

On a CPU, `winograd` makes one thread's forward at full size 3.1 to 3.4 times as fast as the plain module at its best
batch, 4.2 to 4.5 times at batches of 8 (an EPYC with AVX-512; `jobs/bench.py` prints both), with the same scores to
1e-5. There a chunk's scores are the same whatever is beside it.
"""

import copy
from collections.abc import Callable
from itertools import islice
from typing import Any, Literal

import scipy.fft
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from looptagger.model import integers, packed, tiles, winograd
from looptagger.model.harmonic import FrontEnd
from looptagger.model.hcnn import HCNN, ConvBlock, ResidualBlock
from looptagger.model.packed import PackedConv, SparseMatrix
from looptagger.model.remade import remade


class FixedFilters(FrontEnd):
    """A front end whose filters no longer change."""

    filters: Tensor

    def __init__(self, front: FrontEnd) -> None:
        nn.Module.__init__(self)
        self.spectrogram, self.n_map = front.spectrogram, front.n_map
        self.register_buffer("filters", front.filterbank().detach().T.contiguous())
        self.sparse = SparseMatrix(self.filters) if packed.is_there() else None

    def power(self, waveform: Tensor) -> Tensor:
        """Spectrograms; on a CPU by SciPy's FFT, as PyTorch's (MKL) takes three times as long for 513 samples."""
        if waveform.device.type != "cpu":
            return super().power(waveform)
        window, hop = self.spectrogram.window, self.spectrogram.hop_length
        padded = functional.pad(waveform[:, None], [len(window) // 2] * 2, mode="reflect")[:, 0]
        found = torch.from_numpy(scipy.fft.rfft((padded.unfold(1, len(window), hop) * window).numpy()))
        return (found.real.square() + found.imag.square()).transpose(1, 2)

    def filtered(self, power: Tensor) -> Tensor:
        """Spectrograms through the filters; on a CPU without their zeros, which are 98 in 100."""
        return self.sparse(power) if self.sparse and power.device.type == "cpu" else self.filters @ power


Products = Literal["direct", "winograd", "int8"]
"""How the trunk's convolutions are multiplied out."""

ALONE: dict[Products, int] = {"direct": 7, "winograd": 2, "int8": 7}
"""Blocks of the trunk that see one chunk at a time on a CPU: its cache holds one's large maps, integers have a scale
for each forward, and PyTorch's own products round by the batch. For small maps, weights are fetched once for a batch.
"""

PAIRS = {ConvBlock: (("conv", "norm"),), ResidualBlock: (("conv1", "norm1"), ("conv2", "norm2"))}
"""The convolutions of each kind of block, and the norm that follows each."""

EARLY = slice(1, 4)
"""The residual blocks of the trunk whose maps are large; weights for Winograd's of the later ones would lie idle."""


def _without_norms(block: nn.Module) -> nn.Module:
    for conv, norm in PAIRS[type(block)]:
        setattr(block, conv, fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm)))
        setattr(block, norm, nn.Identity())
    return block


def _multiplied(blocks: list[Any], products: Products) -> list[nn.Module]:
    """The trunk's blocks, those made anew that are quicker so."""
    channels = blocks[1].conv1.in_channels
    if products == "direct":
        return blocks
    done = [remade(each, PackedConv.of) for each in blocks]
    if products == "int8":
        done[1:] = [remade(each, integers.Int8Conv) for each in blocks[1:]]
    elif products == "winograd" and winograd.suits(channels):
        if blocks[0].conv.in_channels == tiles.MAPS:
            done[0] = winograd.FirstWinogradBlock(blocks[0])
        done[EARLY] = map(winograd.WinogradBlock, blocks[EARLY])
    return done


class FoldedHCNN(nn.Module):
    """Chunks (n, samples) -> logits (n, 6) and embeddings (n, 2 x channels) of a trained network.

    The front end runs in float32 whatever the trunk's precision: powers span 100 dB, more than half floats do.
    `winograd` and `int8` are for float32 on a CPU: see there.
    """

    def __init__(self, network: HCNN, precision: torch.dtype = torch.float32, products: Products = "direct") -> None:
        super().__init__()
        network = copy.deepcopy(network).eval()
        self.precision, self.alone = precision, ALONE[products]
        self.front = FixedFilters(network.front)
        self.norm = network.norm
        blocks = _multiplied([_without_norms(block) for block in network.trunk], products)
        self.trunk = nn.Sequential(*blocks).to(precision).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dense = fuse_linear_bn_eval(network.dense, network.dense_norm)
        self.out = network.out

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Chunks to logits and embeddings."""
        maps = _alone(self._large_maps, waveform)
        for block in islice(self.trunk, self.alone, None):  # a slice of it would be a module made in each forward
            maps = block(maps)
        embedding = torch.relu(_alone(self.dense, maps.amax(dim=(2, 3)).float()))
        return _alone(self.out, embedding), embedding

    def _large_maps(self, waveform: Tensor) -> Tensor:
        """Chunks through the front end and the first blocks."""
        maps: Tensor = self.norm(self.front(waveform)).to(self.precision, memory_format=torch.channels_last)
        for block in islice(self.trunk, self.alone):
            maps = block(maps)
        return maps


def _alone(work: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """Chunk by chunk on a CPU, whose products of matrices round by how many rows there are; elsewhere all at once."""
    return work(batch) if batch.device.type != "cpu" else torch.cat([work(each) for each in batch.split(1)])
