"""Convolutions with weights laid out once, against PyTorch's own."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from looptagger.config import Compute
from looptagger.model import packed
from looptagger.model.hcnn import ConvBlock, ResidualBlock
from looptagger.model.packed import PackedConv
from looptagger.model.predictor import Predictor
from looptagger.model.remade import RemadeBlock, remade
from tests.model.test_int8 import maps

needs_packed = pytest.mark.skipif(not packed.is_there(), reason="torch without oneDNN, or another CPU")


@needs_packed
@pytest.mark.parametrize(
    ("c_in", "c_out", "kernel", "groups"), [(16, 32, 3, 1), (5, 7, 3, 1), (4, 4, 1, 1), (72, 144, 1, 36)]
)
def test_a_convolution_is_torchs(c_in: int, c_out: int, kernel: int, groups: int) -> None:
    seen = maps(2, c_in, 9, 12)
    weight, bias = torch.randn(c_out, c_in // groups, kernel, kernel), torch.randn(c_out)
    conv = PackedConv(weight, bias, groups)
    with torch.inference_mode():
        wanted = F.conv2d(seen, weight, bias, padding=kernel // 2, groups=groups)
        for each in (conv, copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
            assert torch.allclose(each(seen), wanted, atol=1e-4)


@needs_packed
@pytest.mark.parametrize("block", [ConvBlock(16, 32), ResidualBlock(16)])
@pytest.mark.parametrize("shape", [(2, 8, 11), (1, 5, 2)])
def test_a_block_is_the_same(block: nn.Module, shape: tuple[int, int, int]) -> None:
    n, height, width = shape
    for name in ("norm", "norm1", "norm2"):
        if hasattr(block, name):
            setattr(block, name, nn.Identity())
    seen = maps(n, 16, height, width)
    with torch.inference_mode():
        assert torch.allclose(remade(block, PackedConv.of)(seen), block(seen), atol=1e-4)


@needs_packed
@pytest.mark.parametrize(("block", "conv"), [(ConvBlock(16, 32), "conv"), (ResidualBlock(16), "conv1")])
def test_what_is_no_number_is_not_taken_for_silence(block: nn.Module, conv: str) -> None:
    with torch.inference_mode():
        getattr(block, conv).bias.fill_(torch.nan)
        found = remade(block, PackedConv.of)(maps(1, 16, 8, 8))
    assert torch.isnan(found).all()


@needs_packed
@pytest.mark.parametrize(("cpu", "there"), [("AVX2", True), ("DEFAULT", False), ("SVE256", False)])
def test_a_predictor_takes_them_where_they_were_tried(monkeypatch: pytest.MonkeyPatch, cpu: str, there: bool) -> None:
    usual = Predictor.load("starter", Compute(device="cpu"))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: cpu)
    predictor = Predictor.load("starter", Compute(device="cpu", precision="float32"))
    assert isinstance(predictor.network.trunk[4], RemadeBlock) is there
    assert bool(predictor.network.front.sparse) is there
    pcm = np.random.default_rng(0).integers(-9000, 9000, (2, 48_000)).astype(np.int16)
    assert np.allclose(predictor.chunk_scores(pcm)[0], usual.chunk_scores(pcm)[0], atol=1e-4)
