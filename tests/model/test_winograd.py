"""Winograd's convolutions against PyTorch's own."""

import copy
import pickle

import pytest
import torch
from torch import nn

from looptagger.config import Audio, Model
from looptagger.model import checkpoint
from looptagger.model.folded import FoldedHCNN
from looptagger.model.hcnn import HCNN, ResidualBlock
from looptagger.model.winograd import LEAST_CHANNELS, WinogradBlock
from tests.model.test_packed import needs_packed

pytestmark = needs_packed


def _bare(block: ResidualBlock) -> ResidualBlock:
    block.norm1, block.norm2 = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    return block.eval()


@pytest.mark.parametrize("shape", [(2, 64, 94), (1, 32, 47), (1, 17, 19), (1, 16, 16), (1, 2, 300), (3, 4, 5)])
def test_a_block_is_the_same_at_all_sizes(shape: tuple[int, int, int]) -> None:
    n, height, width = shape
    torch.manual_seed(0)
    block = _bare(ResidualBlock(16))
    maps = torch.randn(n, 16, height, width).relu().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        wanted, found = block(maps), WinogradBlock(block)(maps)
    assert found.shape == wanted.shape
    assert torch.allclose(found, wanted, atol=1e-5)


def test_the_full_network_scores_the_same_by_it() -> None:
    network, _ = checkpoint.load(checkpoint.untrained(), "untrained")
    quick = FoldedHCNN(network, products="winograd")
    assert sum(isinstance(block, WinogradBlock) for block in quick.trunk) == 3
    waveform = torch.randn(2, 48_000, generator=torch.Generator().manual_seed(0)) / 10
    with torch.inference_mode():
        logits, _ = quick(waveform)
        assert torch.allclose(torch.sigmoid(logits), torch.sigmoid(network(waveform)), atol=1e-5)


def test_a_block_is_copied_and_pickled() -> None:
    block = WinogradBlock(_bare(ResidualBlock(16)))
    seen = torch.randn(1, 16, 9, 13).relu().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
            assert torch.equal(other(seen), block(seen))


def test_narrow_blocks_stay_as_they_are() -> None:
    settings = Model(channels=LEAST_CHANNELS // 2)
    quick = FoldedHCNN(HCNN(settings, Audio()).eval(), products="winograd")
    assert not any(isinstance(block, WinogradBlock) for block in quick.trunk[1:4])
