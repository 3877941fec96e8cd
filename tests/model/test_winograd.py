"""Winograd's convolutions against PyTorch's own."""

import copy
import pickle

import pytest
import torch
from torch import nn

from looptagger.config import Audio, Model
from looptagger.model import checkpoint
from looptagger.model.folded import FoldedHCNN
from looptagger.model.hcnn import HCNN, ConvBlock, ResidualBlock
from looptagger.model.winograd import FirstWinogradBlock, WinogradBlock
from tests.model.test_packed import needs_packed

pytestmark = needs_packed


def bare_block(channels: int) -> ResidualBlock:
    block = ResidualBlock(channels)
    block.norm1, block.norm2 = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    return block.eval()


def bare_first_block(channels: int) -> ConvBlock:
    torch.manual_seed(0)
    block = ConvBlock(6, channels)
    block.norm = nn.Identity()  # type: ignore[assignment]
    return block.eval()


def maps(n: int, channels: int, height: int, width: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(n, channels, height, width).relu().to(memory_format=torch.channels_last)


def kinds(network: FoldedHCNN) -> list[type]:
    return [type(block) for block in network.trunk[:4]]


@pytest.mark.parametrize(
    "shape", [(2, 64, 94), (1, 32, 47), (1, 17, 19), (1, 16, 16), (1, 2, 300), (3, 4, 5), (1, 9, 1), (1, 1, 9)]
)
@pytest.mark.parametrize("channels", [16, 33])
def test_a_block_is_the_same_at_all_sizes(channels: int, shape: tuple[int, int, int]) -> None:
    n, height, width = shape
    torch.manual_seed(0)
    block, seen = bare_block(channels), maps(n, channels, height, width)
    if 1 in (height, width):  # nothing is left of it, which PyTorch's own pooling refuses
        assert WinogradBlock(block)(seen).shape == (n, channels, height // 2, width // 2)
        return
    with torch.inference_mode():
        wanted = block(seen)
        for given in (seen, seen.contiguous()):
            found = WinogradBlock(block)(given)
            assert found.shape == wanted.shape
            assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 128, 188), (1, 17, 35), (1, 5, 2), (3, 4, 40)])
@pytest.mark.parametrize("channels", [16, 33])
def test_a_first_block_is_the_same_at_all_sizes(channels: int, shape: tuple[int, int, int]) -> None:
    block = bare_first_block(channels)
    n, height, width = shape
    seen = torch.randn(n, 6, height, width)
    with torch.inference_mode():
        wanted = block(seen)
        for given in (seen, seen.to(memory_format=torch.channels_last)):
            found = FirstWinogradBlock(block)(given)
            assert found.shape == wanted.shape
            assert torch.allclose(found, wanted, atol=1e-5)


def test_strips_of_the_tiles_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    block, seen = bare_block(16), maps(1, 16, 30, 46)
    with torch.inference_mode():
        found = []
        for at_once in (1, 500, 10**6):
            monkeypatch.setattr("looptagger.model.winograd.AT_ONCE", at_once)
            found.append(WinogradBlock(block)(seen))
        assert torch.allclose(found[0], found[2], atol=1e-6)
        assert torch.allclose(found[1], found[2], atol=1e-6)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [(0, 0), (8, 8), (10, 13), (15, 18)])
def test_what_is_no_number_is_not_taken_for_silence(place: tuple[int, int], value: float) -> None:
    seen = maps(1, 16, 16, 19)
    seen[0, 3, *place] = value
    with torch.inference_mode():
        assert not torch.isfinite(WinogradBlock(bare_block(16))(seen)).all()
        block = bare_block(16)
        block.conv2.bias.fill_(value)  # type: ignore[union-attr]
        assert not torch.isfinite(WinogradBlock(block)(maps(1, 16, 16, 19))).any()
        block = bare_first_block(16)
        assert not torch.isfinite(FirstWinogradBlock(block)(seen[:, :6])).all()
        block.conv.bias.fill_(value)  # type: ignore[union-attr]
        assert not torch.isfinite(FirstWinogradBlock(block)(maps(1, 6, 16, 19))).any()


def test_the_full_network_scores_the_same_by_it() -> None:
    network, _ = checkpoint.load(checkpoint.untrained(), "untrained")
    quick = FoldedHCNN(network, products="winograd")
    assert kinds(quick) == [FirstWinogradBlock, *[WinogradBlock] * 3]
    waveform = torch.randn(2, 48_000, generator=torch.Generator().manual_seed(0)) / 10
    with torch.inference_mode():
        logits, _ = quick(waveform)
        assert torch.allclose(torch.sigmoid(logits), torch.sigmoid(network(waveform)), atol=1e-5)


def test_a_block_is_copied_and_pickled() -> None:
    block = nn.Sequential(FirstWinogradBlock(bare_first_block(16)), WinogradBlock(bare_block(16)))
    seen = maps(1, 6, 19, 23)
    with torch.inference_mode():
        for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
            assert torch.equal(other(seen), block(seen))


@pytest.mark.parametrize(("channels", "blocks"), [(31, 0), (32, 3)])
def test_narrow_blocks_stay_as_they_are(channels: int, blocks: int) -> None:
    found = kinds(FoldedHCNN(HCNN(Model(channels=channels), Audio()).eval(), products="winograd"))
    assert found.count(WinogradBlock) == blocks
    assert found.count(FirstWinogradBlock) == bool(blocks)
