"""8-bit products against float32 ones."""

import pytest
import torch

from looptagger.config import Compute
from looptagger.errors import UserError
from looptagger.model import integers
from looptagger.model.hcnn import ConvBlock, ResidualBlock
from looptagger.model.integers import Int8Conv
from looptagger.model.predictor import Predictor
from looptagger.model.remade import remade
from tests.conftest import LOOPS

try:
    integers.check()
    lacking = ""
except UserError as why:
    lacking = str(why)
needs_products = pytest.mark.skipif(bool(lacking), reason=lacking)


def maps(n: int, c: int, h: int, w: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(n, c, h, w).relu().to(memory_format=torch.channels_last)


@needs_products
@pytest.mark.parametrize("shape", [(1, 16, 64, 94), (2, 64, 17, 19), (1, 128, 2, 2)])
def test_a_convolution_is_within_its_steps(shape: tuple[int, int, int, int]) -> None:
    seen = maps(*shape)
    conv = torch.nn.Conv2d(shape[1], 32, 3, padding=1)
    with torch.inference_mode():
        wanted, found = conv(seen), Int8Conv(conv)(seen)
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() < 0.02 * wanted.abs().max()


@needs_products
@pytest.mark.parametrize("block", [ConvBlock(16, 32), ResidualBlock(16)])
def test_a_block_is_close_and_silence_stays_finite(block: torch.nn.Module) -> None:
    block = block.eval()
    for name in ("norm", "norm1", "norm2"):
        if hasattr(block, name):
            setattr(block, name, torch.nn.Identity())
    seen = maps(1, 16, 30, 46)
    with torch.inference_mode():
        wanted, found = block(seen), remade(block, Int8Conv)(seen)
        assert (found - wanted).abs().max() < 0.03 * wanted.abs().max()
        assert torch.isfinite(remade(block, Int8Conv)(torch.zeros_like(seen))).all()


@needs_products
@pytest.mark.parametrize("model", ["starter", "untrained"])
def test_a_models_scores_move_little(model: str) -> None:
    import soundfile

    exact, quick = (
        Predictor.load(model, Compute(device="cpu", precision=precision)) for precision in ("float32", "int8")
    )
    assert (quick.model_id, quick.embedding_size) == (exact.model_id, exact.embedding_size)
    for path in sorted(LOOPS.glob("*.flac")):
        waveform, rate = soundfile.read(path, dtype="float32")
        wanted, found = exact(waveform, rate).scores, quick(waveform, rate).scores
        assert max(abs(wanted[role] - found[role]) for role in wanted) < 0.05


def test_machines_without_it_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(UserError, match="int8 needs an x86 CPU with AVX-512 VNNI"):
        Predictor.load("starter", Compute(device="cpu", precision="int8"))
