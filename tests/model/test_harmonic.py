from pathlib import Path

import numpy as np
import pytest
import torch

from looptagger.config import Audio, Model
from looptagger.model import harmonic
from looptagger.model.hcnn import HCNN, front_end
from tests.conftest import same_decibels, tone

GOLDEN = Path(__file__).parents[1] / "data" / "golden.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    """From an independent implementation: filters and a spectrogram (every 16th band) at a learned Q."""
    with np.load(GOLDEN) as stored:
        return dict(stored)


@pytest.fixture
def front(golden: dict[str, np.ndarray]) -> harmonic.HarmonicFrontEnd:
    made = front_end(Model(), Audio())
    made.q.data.fill_(float(golden["q"]))
    return made


def test_centres_and_filters_are_the_reference_s(
    front: harmonic.HarmonicFrontEnd, golden: dict[str, np.ndarray]
) -> None:
    assert np.allclose(front.centre_hz, golden["centre_hz"], rtol=1e-6)
    assert np.allclose(front.filterbank().detach(), golden["filterbank"], atol=1e-6)


def test_spectrogram_is_the_reference_s(front: harmonic.HarmonicFrontEnd, golden: dict[str, np.ndarray]) -> None:
    wave = torch.from_numpy(golden["waveform_int16"]).float() / 32768
    with torch.no_grad():
        ours = front(wave[None])[0, :, ::16].numpy()
    assert same_decibels(ours, golden["spectrogram_db"])
    assert not same_decibels(ours + np.float32(2e-3), golden["spectrogram_db"])


def test_the_grid_stays_under_nyquist_and_is_the_nearest_note() -> None:
    model, audio = Model(), Audio()
    limit = audio.sample_rate / (2 * model.n_harmonic)
    assert model.last_midi == round(69 + 12 * np.log2(limit / 440))
    assert model.n_band == 128
    assert harmonic.centre_frequencies(24, 88, 2, 6).max() < audio.sample_rate / 2


@pytest.mark.parametrize("band", [20, 64, 110])
def test_a_pure_tone_lights_its_own_band_in_each_harmonic(band: int) -> None:
    front = front_end(Model(), Audio())
    f0 = float(front.centre_hz[0, band])
    for n in range(1, 7):
        with torch.no_grad():
            lit = front(torch.from_numpy(tone(3.0, n * f0))[None])[0, n - 1, :, 90].argmax()
        assert abs(float(front.centre_hz[n - 1, lit]) - n * f0) < 16_000 / 513  # a bin of the spectrogram


def test_decibels_have_a_floor() -> None:
    assert harmonic.decibels(torch.tensor([0.0, 1e-10, 1.0, 100.0])).tolist() == [-100, -100, 0, 20]


def test_buffers_follow_the_module_and_q_learns() -> None:
    network = HCNN(Model(channels=2), Audio())
    assert {"front.bin_hz", "front.centre_hz", "front.spectrogram.window", "front.q"} <= network.state_dict().keys()
    assert network.double().front.centre_hz.dtype == torch.float64
    network.float().train()
    network(torch.randn(2, 48_000)).sum().backward()
    assert network.front.q.grad is not None


def test_torch_compile_takes_the_whole_module() -> None:
    network = HCNN(Model(channels=2), Audio()).eval()
    wave = torch.randn(1, 48_000)
    with torch.no_grad():
        compiled = torch.compile(network, backend="aot_eager")(wave)
        assert torch.allclose(compiled, network(wave), atol=1e-4)
