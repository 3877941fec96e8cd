from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from looptagger.config import Audio
from looptagger.errors import UserError
from looptagger.learn import table
from looptagger.paper import features
from looptagger.paper.features import CHUNK, CROP, NAMES, WINDOW, Extractor, extracted, statistics
from tests.conftest import RATE, tone

AUDIO = Audio()


def pcm(samples: np.ndarray) -> np.ndarray:
    return np.rint(samples * 32767).astype(np.int16)


def rows(*seconds: float) -> pa.Table:
    waves = [pcm(tone(each, 220 * (i + 1))) for i, each in enumerate(seconds)]
    return pa.table({"id": [f"loop{i}" for i in range(len(waves))], "waveform": waves}).cast(
        pa.schema([table.SCHEMA.field("id"), table.SCHEMA.field("waveform")])
    )


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return Extractor(RATE)


def of(found: np.ndarray, name: str) -> float:
    return float(found[NAMES.index(name)])


def test_there_are_104_numbers_each_with_a_name_of_its_own() -> None:
    assert len(NAMES) == len(set(NAMES)) == 104
    assert features.SCHEMA.names[-104:] == list(NAMES)


def test_statistics_are_means_and_deviations_of_values_and_steps() -> None:
    frames = np.arange(26 * 4, dtype=float).reshape(4, 26) ** 2
    found = statistics(frames)
    assert of(found, "mfcc0_mean") == pytest.approx(frames[:, 0].mean())
    assert of(found, "chroma11_std") == pytest.approx(frames[:, 25].std())
    assert of(found, "pitch_delta_mean") == pytest.approx(np.diff(frames[:, 13]).mean())
    assert of(found, "mfcc1_delta_std") == pytest.approx(np.diff(frames[:, 1]).std())
    assert (statistics(frames[:1])[26:52] == 0).all()
    with pytest.raises(ValueError, match="mfcc2_mean is not finite"):
        statistics(np.where(np.arange(26) == 2, np.nan, frames))


def test_a_tone_has_its_pitch_and_its_chroma(extractor: Extractor) -> None:
    for hz, chroma in ((440.0, 0), (523.25, 3), (220.0, 0)):  # counted from A
        found = extractor(pcm(tone(3.0, hz)))
        assert of(found, "pitch_mean") == pytest.approx(hz, rel=0.02)
        assert int(np.argmax([of(found, f"chroma{i}_mean") for i in range(12)])) == chroma
        assert of(found, "pitch_std") < 0.02 * hz


def test_silence_and_noise_are_finite(extractor: Extractor) -> None:
    for samples in (np.zeros(48_000), np.random.default_rng(0).normal(0, 0.2, 48_000).clip(-1, 1)):
        found = extractor(pcm(samples))
        assert np.isfinite(found).all()
        assert (found == extractor(pcm(samples))).all()


def test_what_is_heard_of_a_loop_depends_on_its_part(extractor: Extractor) -> None:
    found = extracted(rows(7.0, 2.0, 4.0), extractor, AUDIO, ["train", "validation", "test"])
    heard = list(zip(found.column("id").to_pylist(), found.column("heard").to_pylist(), strict=True))
    assert [heard.count(("loop0", kind)) for kind in (CHUNK, CROP, WINDOW)] == [3, 1, 0]
    assert [heard.count(("loop1", kind)) for kind in (CHUNK, CROP, WINDOW)] == [1, 0, 0]
    assert [heard.count(("loop2", kind)) for kind in (CHUNK, CROP, WINDOW)] == [2, 0, 16]
    assert found.schema == features.SCHEMA
    assert found.column("error").null_count == found.num_rows


def test_a_chunk_on_which_essentia_fails_is_a_row_with_its_reason() -> None:
    def failing(samples: np.ndarray) -> np.ndarray:
        if samples[1] == pcm(tone(1.0, 440))[1]:
            raise RuntimeError("HPCP: no peaks\nat all")
        return np.ones(104, np.float32)

    stand_in: Callable[[np.ndarray], np.ndarray] = failing
    found = extracted(rows(1.0, 1.0, 1.0), stand_in, AUDIO, ["validation"] * 3)  # type: ignore[arg-type]
    assert found.column("error").to_pylist() == [None, "HPCP: no peaks at all", None]
    assert found.column("pitch_mean").to_pylist() == [1.0, None, 1.0]


def test_a_crop_lies_in_the_loop_or_the_loop_in_zeros() -> None:
    wave = np.arange(1, 101, dtype=np.int16)
    cut = features.crop(wave, 30, seed=3)
    assert (np.diff(cut) == 1).all()
    assert (cut == features.crop(wave, 30, seed=3)).all()
    padded = features.crop(wave, 150, seed=3)
    assert len(padded) == 150
    assert padded[padded > 0].tolist() == wave.tolist()
    assert {int(features.crop(wave, 30, seed)[0]) for seed in range(20)} != {int(cut[0])}


def test_without_the_extra_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "PACKAGES", ("essentia", "scikit-multilearn-of-old"))
    with pytest.raises(UserError, match=r"scikit-multilearn-of-old not installed.*pip install .* '\.\[paper\]'"):
        features.require()
    assert list(features.known()) == ["essentia"]
