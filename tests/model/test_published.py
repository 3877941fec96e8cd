import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from looptagger.config import Audio, Compute, Model
from looptagger.errors import UserError
from looptagger.model import checkpoint, published
from looptagger.model.hcnn import HCNN
from looptagger.model.predictor import Predictor
from tests.conftest import SHARED, same_decibels

GOLDEN = SHARED / "golden"


def published_key(key: str) -> str | None:
    """The published code's name for one of ours: the inverse of the import, written out again by hand."""
    if key in ("front.bin_hz", "front.centre_hz"):
        return None
    if key.startswith("trunk."):
        _, block, layer, rest = key.split(".")
        number = int(block) + 1
        layer = layer.replace("norm", "bn") if number in (1, 5) else f"{layer[:-1].replace('norm', 'bn')}_{layer[-1]}"
        return f"conv_2d.res{number}.{layer}.{rest}"
    heads = {"front.q": "hstft.bw_Q", "front.spectrogram.window": "hstft.spec.window"}
    names = {"norm": "hstft_bn", "dense": "conv_2d.fc_1", "dense_norm": "conv_2d.bn", "out": "conv_2d.fc_2"}
    return heads.get(key) or f"{names[key.split('.')[0]]}.{key.split('.')[1]}"


@pytest.fixture
def narrow(tmp_path: Path) -> tuple[HCNN, Path]:
    """A narrow network and a file of its weights under the published names."""
    torch.manual_seed(3)
    network = HCNN(Model(channels=3), Audio()).train()
    network(torch.randn(4, 48_000))
    path = tmp_path / "narrow.pth"
    torch.save({name: value for key, value in network.state_dict().items() if (name := published_key(key))}, path)
    return network.eval(), path


def test_import_keeps_every_weight(narrow: tuple[HCNN, Path]) -> None:
    network, path = narrow
    imported, card = published.convert(path, "narrow", "CC0-1.0")
    assert card.model.channels == 3
    wave = torch.randn(2, 48_000)
    with torch.no_grad():
        assert torch.equal(imported(wave), network(wave))


def test_wrong_files_are_refused_by_name(narrow: tuple[HCNN, Path], tmp_path: Path) -> None:
    state = torch.load(narrow[1], weights_only=True)

    def refused(content: object, says: str) -> None:
        path = tmp_path / "bad.pth"
        torch.save(content, path)
        with pytest.raises(UserError, match=says) as error:
            published.convert(path, "bad", "unknown")
        assert "bad.pth" in str(error.value)

    refused({**state, "conv_2d.res8.weight": torch.zeros(1)}, r"do not fit the published HCNN: Unexpected key.*res8")
    refused({key: value for key, value in state.items() if "fc_2" not in key}, r'Missing key.* "out\.')
    refused({**state, "conv_2d.fc_1.weight": torch.zeros(3, 3)}, r"size mismatch for dense\.weight")
    for shape in ((2048, 6, 3, 3), (0, 6, 3, 3), (7,)):
        refused({**state, "conv_2d.res1.conv.weight": torch.zeros(shape)}, "the first convolution is of shape")
    refused({**state, "conv_2d.res8.conv_1.weight": torch.zeros(1)}, "Unexpected key")
    refused({**state, "conv_2d.fc_2.bias": torch.full((6,), torch.inf)}, "not all numbers")
    refused({**state, "front.bin_hz": torch.zeros(513)}, "has front.bin_hz, which the published HCNN has not")
    refused([1, 2], "no state dict")
    with zipfile.ZipFile(narrow[1]) as plain, zipfile.ZipFile(tmp_path / "small.pth", "w") as small:
        for each in plain.infolist():
            small.writestr(each.filename, plain.read(each), zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="is compressed"):
        published.convert(tmp_path / "small.pth", "bad", "unknown")
    with pytest.raises(UserError, match="cannot be read"):
        published.convert(tmp_path / "none.pth", "x", "y")


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    (tmp_path / "bomb.pth").write_bytes(pickle.dumps({"w": Bomb()}))
    with pytest.raises(UserError, match="not a file of plain PyTorch weights"):
        published.convert(tmp_path / "bomb.pth", "x", "y")
    assert not (tmp_path / "ran").exists()


def by_hand(state: dict[str, Tensor], maps: Tensor) -> Tensor:
    """The published network behind its front end, written out again by its own names: maps to scores (n, 6)."""

    def norm(x: Tensor, name: str) -> Tensor:
        parts = ("running_mean", "running_var", "weight", "bias")
        mean, variance, weight, bias = (state[f"{name}.{part}"].view(-1, *(1,) * (x.ndim - 2)) for part in parts)
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def applied(of: Callable[..., Tensor], x: Tensor, name: str, **how: int) -> Tensor:
        return of(x, state[f"{name}.weight"], state[f"{name}.bias"], **how)

    x = norm(maps, "hstft_bn")
    for name in (f"conv_2d.res{number}" for number in range(1, 8)):
        if f"{name}.conv.weight" in state:
            x = norm(applied(F.conv2d, x, f"{name}.conv", padding=1), f"{name}.bn")
        else:
            inner = norm(applied(F.conv2d, x, f"{name}.conv_1", padding=1), f"{name}.bn_1").relu()
            x = norm(applied(F.conv2d, inner, f"{name}.conv_2", padding=1), f"{name}.bn_2") + x
        x = F.max_pool2d(x, 2).relu()
    x = norm(applied(F.linear, x.amax(dim=(2, 3)), "conv_2d.fc_1"), "conv_2d.bn").relu()
    return applied(F.linear, x, "conv_2d.fc_2").sigmoid()


def test_scores_are_those_of_the_architecture_written_out_by_hand(narrow: tuple[HCNN, Path]) -> None:
    """Its scores are within 1e-6 of the full reference's, of which this machine need not have the weights."""
    network, path = narrow
    imported, card = published.convert(path, "narrow", "CC0-1.0")
    pcm = (np.random.default_rng(0).normal(0, 3000, (3, 48_000))).astype(np.int16)
    with torch.no_grad():
        expected = by_hand(torch.load(path, weights_only=True), network.front(torch.from_numpy(pcm) / 32768)).numpy()
    assert expected.std(axis=0).min() > 1e-4
    scores, _ = Predictor(checkpoint.dump(imported, card), compute=Compute(device="cpu")).chunk_scores(pcm)
    assert np.abs(scores - expected).max() < 1e-5


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the shared folder with the full-size reference is not here")
def test_the_full_reference_is_met() -> None:
    network, card = published.convert(GOLDEN / "hcnn_reference.pth", "reference", "unknown")
    with np.load(GOLDEN / "hcnn_reference.npz") as stored:
        golden = dict(stored)
    wave = torch.from_numpy(golden["waveform_int16"]).float() / 32768
    with torch.no_grad():
        scores = torch.sigmoid(network(wave)).numpy()
        maps = network.front(wave[:1])[0].numpy()
    assert np.abs(scores - golden["scores"]).max() < 1e-5
    with torch.no_grad():
        again = by_hand(torch.load(GOLDEN / "hcnn_reference.pth", weights_only=True), network.front(wave)).numpy()
    assert np.abs(again - golden["scores"]).max() < 1e-6
    assert same_decibels(maps, golden["harmonic_spectrogram_db_first"])
    predictor = Predictor(checkpoint.dump(network, card), compute=Compute(device="cpu"))
    folded, _ = predictor.chunk_scores(golden["waveform_int16"])
    assert np.abs(folded - golden["scores"]).max() < 1e-5
