import numpy as np
import pytest
import torch

from looptagger.config import Chunking, Compute
from looptagger.errors import UserError
from looptagger.model.predictor import Predictor, segment_means
from looptagger.roles import ROLES
from tests.conftest import tone


@pytest.fixture(scope="module")
def predictor(tiny_model: str) -> Predictor:
    return Predictor.load(tiny_model, Compute(device="cpu"))


def test_an_array_in_roles_out(predictor: Predictor) -> None:
    found = predictor(tone(4.0, rate=44_100), 44_100)
    assert list(found.scores) == list(ROLES)
    assert all(0 <= score <= 1 for score in found.scores.values())
    assert found.roles == [role for role in ROLES if found.scores[role] >= 0.5]


def test_channels_and_rate_do_not_matter_much(predictor: Predictor) -> None:
    one = predictor(tone(3.0), 16_000).scores
    other = predictor(np.stack([tone(3.0, rate=48_000)] * 2, axis=1), 48_000).scores
    assert np.allclose(list(one.values()), list(other.values()), atol=0.02)


@pytest.mark.parametrize("bad", [np.empty(0, np.float32), np.array([0.0, np.nan], np.float32)])
def test_no_samples_and_no_numbers_are_refused(predictor: Predictor, bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="finite"):
        predictor(bad, 16_000)


def test_samples_too_few_to_hear_are_refused_and_those_over_full_scale_clipped(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="too short to hear"):
        predictor(np.ones(1, np.float32), 192_000)
    loud = tone(level=1.5, rate=44_100)
    assert predictor(loud, 44_100) == predictor(loud.clip(-1, 1), 44_100)


def test_a_clip_s_score_is_the_mean_of_its_chunks_whatever_its_neighbours(predictor: Predictor) -> None:
    rng = np.random.default_rng(0)
    clips = [rng.integers(-3000, 3000, (n, 48_000)).astype(np.int16) for n in (1, 3, 2)]
    together = predictor.clip_scores(clips)
    for clip, row in zip(clips, together, strict=True):
        assert np.allclose(predictor.chunk_scores(clip)[0].mean(axis=0), row, atol=1e-5)
    assert np.allclose(predictor.clip_scores(clips[::-1]), together[::-1], atol=1e-5)


def test_batches_do_not_change_scores(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    pcm = np.random.default_rng(0).integers(-3000, 3000, (5, 48_000)).astype(np.int16)
    one, _ = predictor.chunk_scores(pcm)
    monkeypatch.setattr(predictor, "batch", 4)
    assert np.allclose(predictor.chunk_scores(pcm)[0], one, atol=1e-5)


def test_a_card_whose_memory_is_short_gets_fewer_chunks(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor.load(tiny_model, Compute(device="cpu"))
    pcm = np.random.default_rng(0).integers(-9, 9, (7, 48_000)).astype(np.int16)
    expected, plain = predictor.chunk_scores(pcm)[0], predictor._forward

    def short(most: int) -> None:
        def forward(part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if len(part) > most:
                raise torch.OutOfMemoryError
            return plain(part)

        predictor.batch = 8
        monkeypatch.setattr(predictor, "_forward", forward)

    short(2)
    assert np.allclose(predictor.chunk_scores(pcm)[0], expected, atol=1e-5)
    assert predictor.batch == 2
    short(0)
    with pytest.raises(UserError, match="does not hold one chunk"):
        predictor.chunk_scores(pcm)


def test_segment_means() -> None:
    values = np.array([[1.0], [2.0], [4.0], [5.0]], np.float32)
    assert segment_means(values, np.array([1, 2, 1])).tolist() == [[1], [3], [5]]


def test_hop_gives_overlapping_chunks(predictor: Predictor) -> None:
    assert len(predictor.chunks(tone(6.0), 16_000, Chunking(hop_s=1.0))) == 4


def test_a_gpu_that_is_not_there_is_named(tiny_model: str) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="no GPU"):
        Predictor.load(tiny_model, Compute(device="cuda"))
