from typing import Literal

import pytest
import torch

from looptagger.config import Audio, Model
from looptagger.model import checkpoint
from looptagger.model.folded import FoldedHCNN, Products
from looptagger.model.harmonic import decibels
from looptagger.model.hcnn import HCNN, ConvBlock, ResidualBlock
from looptagger.model.remade import RemadeBlock
from looptagger.model.winograd import FirstWinogradBlock, WinogradBlock
from tests.model.test_int8 import needs_products
from tests.model.test_packed import needs_packed


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_sizes() -> None:
    assert count(HCNN(Model(), Audio())) == 3_620_243
    harmonic_only = 1 + 2 * 5 + 128 * 5 * 9  # Q, five more map norms, five more input maps of the first convolution
    assert count(HCNN(Model(kind="cnn"), Audio())) == 3_620_243 - harmonic_only


@pytest.mark.parametrize("kind", ["hcnn", "cnn"])
def test_shapes_and_longer_inputs(kind: str) -> None:
    network = HCNN(Model(kind=kind, channels=4), Audio()).eval()
    with torch.no_grad():
        assert network.front(torch.randn(2, 48_000)).shape == (2, 6 if kind == "hcnn" else 1, 128, 188)
        assert network(torch.randn(3, 48_000)).shape == (3, 6)
        assert network(torch.randn(1, 160_000)).shape == (1, 6)
        assert network.embed(network.maps(torch.randn(1, 48_000))).shape == (1, 8)


@pytest.mark.parametrize("kind", ["hcnn", "cnn"])
def test_the_folded_network_gives_the_same_scores(kind: str) -> None:
    torch.manual_seed(1)
    network = HCNN(Model(kind=kind, channels=8), Audio()).train()
    for _ in range(3):  # norms away from their defaults
        network(torch.randn(8, 48_000) * 0.1)
    network.eval()
    wave = torch.randn(4, 48_000) * 0.1
    with torch.no_grad():
        logits, embedding = FoldedHCNN(network)(wave)
        assert torch.allclose(torch.sigmoid(logits), torch.sigmoid(network(wave)), atol=1e-5)
        assert torch.allclose(embedding, network.embed(network.maps(wave)), atol=1e-3)


@pytest.mark.parametrize("products", ["direct", pytest.param("winograd", marks=needs_packed)])
@pytest.mark.parametrize("kind", ["hcnn", "cnn"])
def test_filters_lose_nothing_with_their_zeros(kind: Literal["hcnn", "cnn"], products: Products) -> None:
    network = HCNN(Model(kind=kind, channels=8), Audio()).eval()
    if kind == "hcnn":
        network.front.q.data.fill_(0.5)
    folded = FoldedHCNN(network, products=products)
    wave = torch.randn(3, 60_000) * 0.1
    with torch.no_grad():
        power = network.front.power(wave)
        assert torch.allclose(
            decibels(folded.front.filtered(power)), decibels(network.front.filtered(power)), atol=1e-4
        )
        assert torch.allclose(folded(wave)[0], network(wave), atol=1e-4)


def test_a_folded_spectrogram_is_off_by_what_float32_rounds() -> None:
    """That of 64-bit floats is the measure of both: PyTorch's is as far from it."""
    network = HCNN(Model(channels=8), Audio()).eval()
    wave = torch.randn(3, 48_000) * torch.tensor([0.3, 1e-3, 0.03])[:, None]
    with torch.no_grad():
        found = FoldedHCNN(network).front.power(wave)
        exact = network.front.spectrogram.double()(wave.double())
    assert found.shape == exact.shape
    assert ((found - exact).abs() < 1e-6 * exact.amax(dim=1, keepdim=True)).all()


@pytest.mark.parametrize(
    ("products", "kinds"),
    [
        ("direct", {ConvBlock, ResidualBlock}),
        pytest.param("winograd", {FirstWinogradBlock, RemadeBlock, WinogradBlock}, marks=needs_packed),
        pytest.param("int8", {RemadeBlock}, marks=needs_products),
    ],
)
def test_a_chunk_scores_the_same_whatever_is_beside_it(products: Products, kinds: set[type]) -> None:
    network, _ = checkpoint.load(checkpoint.untrained(Model(channels=128)), "untrained")
    wave = torch.randn(5, 48_000) * torch.tensor([0.3, 0.001, 0.1, 0.03, 0.01])[:, None]
    with torch.inference_mode():
        folded = FoldedHCNN(network, products=products)
        assert {type(block) for block in folded.trunk} == kinds
        logits, embedding = folded(wave)
        for size in (1, 3):
            other = FoldedHCNN(network, products=products)  # weights are laid out for the first maps
            parts = [other(part) for part in wave.split(size)]
            assert torch.equal(torch.cat([part[0] for part in parts]), logits)
            assert torch.equal(torch.cat([part[1] for part in parts]), embedding)


def test_half_precision_trunk_stays_close() -> None:
    torch.manual_seed(1)
    network = HCNN(Model(channels=8), Audio()).eval()
    wave = torch.randn(4, 48_000) * 0.1
    with torch.no_grad():
        exact = torch.sigmoid(network(wave))
        close = torch.sigmoid(FoldedHCNN(network, torch.bfloat16)(wave)[0])
    assert (exact - close).abs().max() < 2e-2
