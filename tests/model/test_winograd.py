"""Winograd's convolutions against PyTorch's own."""

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from looptagger.config import Audio, Compute, Model
from looptagger.model import checkpoint, tiles
from looptagger.model.folded import FoldedHCNN
from looptagger.model.hcnn import HCNN, ResidualBlock
from looptagger.model.predictor import Predictor
from looptagger.model.remade import RemadeBlock
from looptagger.model.winograd import LEAST_CHANNELS, WinogradBlock
from tests.model.test_packed import needs_packed

pytestmark = needs_packed


def bare_block(channels: int) -> ResidualBlock:
    block = ResidualBlock(channels)
    block.norm1, block.norm2 = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    return block.eval()


def maps(n: int, channels: int, height: int, width: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(n, channels, height, width).relu().to(memory_format=torch.channels_last)


def kinds(network: FoldedHCNN) -> list[type]:
    return [type(block) for block in network.trunk[1:4]]


@pytest.mark.parametrize(
    "shape", [(2, 64, 94), (1, 32, 47), (1, 17, 19), (1, 16, 16), (1, 2, 300), (3, 4, 5), (1, 1, 9)]
)
@pytest.mark.parametrize("channels", [16, 33])
def test_a_block_is_the_same_at_all_sizes(channels: int, shape: tuple[int, int, int]) -> None:
    n, height, width = shape
    torch.manual_seed(0)
    block, seen = bare_block(channels), maps(n, channels, height, width)
    if height == 1:  # nothing is left of it, which PyTorch's own pooling refuses
        assert WinogradBlock(block)(seen).shape == (n, channels, 0, width // 2)
        return
    with torch.inference_mode():
        wanted = block(seen)
        for given in (seen, seen.contiguous()):
            found = WinogradBlock(block)(given)
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


def test_the_full_network_scores_the_same_by_it() -> None:
    network, _ = checkpoint.load(checkpoint.untrained(), "untrained")
    quick = FoldedHCNN(network, products="winograd")
    assert kinds(quick) == [WinogradBlock] * 3
    waveform = torch.randn(2, 48_000, generator=torch.Generator().manual_seed(0)) / 10
    with torch.inference_mode():
        logits, _ = quick(waveform)
        assert torch.allclose(torch.sigmoid(logits), torch.sigmoid(network(waveform)), atol=1e-5)


def test_a_block_is_copied_and_pickled() -> None:
    block, seen = WinogradBlock(bare_block(16)), maps(1, 16, 9, 13)
    with torch.inference_mode():
        for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
            assert torch.equal(other(seen), block(seen))


def test_narrow_blocks_stay_as_they_are() -> None:
    settings = Model(channels=LEAST_CHANNELS // 2)
    assert WinogradBlock not in kinds(FoldedHCNN(HCNN(settings, Audio()).eval(), products="winograd"))


def test_without_compiled_loops_the_scores_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Predictor.load("starter", Compute(device="cpu"))
    assert kinds(usual.network) == [WinogradBlock] * 3
    monkeypatch.setattr(tiles, "spread", tiles.spread.py_func)  # type: ignore[attr-defined]
    predictor = Predictor.load("starter", Compute(device="cpu"))
    assert kinds(predictor.network) == [RemadeBlock] * 3
    pcm = np.random.default_rng(0).integers(-9000, 9000, (2, 48_000)).astype(np.int16)
    assert np.allclose(predictor.chunk_scores(pcm)[0], usual.chunk_scores(pcm)[0], atol=1e-4)


@pytest.mark.parametrize("how", [{"NUMBA_DISABLE_JIT": "1"}, {"PYTHONPATH": "{}"}])
def test_where_numba_cannot_be_used_there_are_none(tmp_path: Path, how: dict[str, str]) -> None:
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 2.9 or less')")
    environment = os.environ | {name: value.format(tmp_path) for name, value in how.items()}
    script = "from looptagger.model import tiles; print(tiles.are_there())"
    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False"]


def test_loops_are_compiled_where_there_is_no_place_to_keep_them() -> None:
    of_no_file: dict[str, Callable[[Any], Any]] = {}
    exec("def twice(x): return 2 * x", of_no_file)
    assert tiles.compiled(of_no_file["twice"])(4) == 8
