"""16-bit products, made of 8-bit ones, against float32. They are right wherever those are; quick with AMX only."""

import copy
import pickle

import numpy as np
import pytest
import soundfile
import torch

from looptagger.config import Audio, Chunking, Compute, Model
from looptagger.model import checkpoint, integers
from looptagger.model.folded import FoldedHCNN
from looptagger.model.hcnn import HCNN
from looptagger.model.integers import LEAST_CHANNELS, Int16Conv
from looptagger.model.predictor import Predictor
from tests.conftest import LOOPS
from tests.model.test_int8 import maps, needs_products


def in_integers(network: FoldedHCNN) -> list[int]:
    """Which blocks of the trunk multiply so."""
    return [at for at, block in enumerate(network.trunk) if isinstance(getattr(block, "second", None), Int16Conv)]


@needs_products
@pytest.mark.parametrize("shape", [(1, 16, 64, 94), (2, 64, 17, 19), (1, 128, 2, 2)])
def test_a_convolution_is_within_its_steps(shape: tuple[int, int, int, int]) -> None:
    seen = maps(*shape)
    conv = torch.nn.Conv2d(shape[1], 32, 3, padding=1)
    with torch.inference_mode():
        wanted, found = conv(seen), Int16Conv(conv)(seen)
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


@needs_products
def test_weights_whose_halves_are_at_their_ends_come_back_whole() -> None:
    weight = torch.tensor([32_512.0, -32_512, 128, -128, 127, 129, 32_384, -32_384, 384, 0])
    conv = torch.nn.Conv2d(1, len(weight), 3, padding=1)
    seen = torch.zeros(1, 1, 5, 5)
    seen[0, 0, 2, 2] = 255.0  # its low half is 0, so nothing is left out
    with torch.inference_mode():
        conv.weight.zero_()[:, 0, 1, 1] = weight
        conv.weight[:, 0, 0, 0] = 32_512  # so that a step is 1 in each channel
        conv.bias.zero_()  # type: ignore[union-attr]
        found = Int16Conv(conv)(seen.to(memory_format=torch.channels_last))
    assert found[0, :, 2, 2].tolist() == (255 * weight).tolist()


@needs_products
def test_silence_is_the_bias() -> None:
    conv = torch.nn.Conv2d(64, 64, 3, padding=1)
    with torch.inference_mode():
        found = Int16Conv(conv)(torch.zeros(1, 64, 8, 8).to(memory_format=torch.channels_last))
        assert torch.allclose(found, conv.get_parameter("bias")[None, :, None, None].expand_as(found), atol=1e-6)


@needs_products
@pytest.mark.parametrize("model", ["starter", "untrained"])
def test_a_models_scores_stay_within_the_bound(model: str) -> None:
    network, _ = checkpoint.load(checkpoint.resolve(model), model)
    quick = FoldedHCNN(network, products="int16").eval()
    assert in_integers(quick) == [1, 2, 3]
    heard = Predictor.load("starter", Compute(device="cpu"))
    for path in sorted(LOOPS.glob("*.flac")):
        pcm = heard.chunks(*soundfile.read(path, dtype="float32"), chunking=Chunking())
        chunk = torch.from_numpy(pcm[:1].astype(np.float32) / 32768)
        with torch.inference_mode():
            difference = torch.sigmoid(quick(chunk)[0]) - torch.sigmoid(network(chunk))
        assert difference.abs().max() < 1e-4


def unlike(times: float) -> bytes:
    """The starter model with one channel of a block so much louder inside: the same function, in floats."""
    network, card = checkpoint.load(checkpoint.resolve("starter"), "starter")
    block = network.trunk[1]
    with torch.no_grad():
        block.norm1.weight[0] *= times
        block.norm1.bias[0] *= times
        block.conv2.weight[:, 0] /= times
    return checkpoint.dump(network, card)


@needs_products
@pytest.mark.parametrize(("times", "blocks"), [(1.0, 3), (1000.0, 0)])
def test_a_model_that_does_not_agree_stays_in_floats(
    monkeypatch: pytest.MonkeyPatch, times: float, blocks: int
) -> None:
    monkeypatch.setattr(integers, "is_quick", lambda: True)
    predictor = Predictor(unlike(times), compute=Compute(device="cpu"))
    assert len(in_integers(predictor.network)) == blocks


@needs_products
def test_a_predictor_is_copied_and_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integers, "is_quick", lambda: True)
    predictor = Predictor.load("starter", Compute(device="cpu"))
    pcm = np.random.default_rng(0).integers(-9000, 9000, (1, 48_000)).astype(np.int16)
    wanted = predictor.chunk_scores(pcm)[0]
    for other in (copy.deepcopy(predictor), pickle.loads(pickle.dumps(predictor))):
        assert np.array_equal(other.chunk_scores(pcm)[0], wanted)
    assert torch.isfinite(predictor.network(torch.zeros(1, 48_000))[0]).all()  # with gradients on, too


def test_narrow_blocks_stay_in_floats() -> None:
    quick = FoldedHCNN(HCNN(Model(channels=LEAST_CHANNELS // 2), Audio()).eval(), products="int16")
    assert not in_integers(quick)


@pytest.mark.parametrize(
    ("precision", "amx", "blocks"),
    [pytest.param("auto", True, 3, marks=needs_products), ("auto", False, 0), ("float32", True, 0)],
)
def test_they_are_taken_where_they_are_quick_and_floats_were_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, precision: str, amx: bool, blocks: int
) -> None:
    monkeypatch.setattr(integers, "is_quick", lambda: amx)
    predictor = Predictor.load("starter", Compute(device="cpu", precision=precision))  # type: ignore[arg-type]
    assert len(in_integers(predictor.network)) == blocks
