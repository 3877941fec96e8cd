import copy
import pickle
from typing import Literal

import numpy as np
import pytest
import torch

from looptagger.config import Chunking, Compute, Model
from looptagger.errors import UserError
from looptagger.model import checkpoint
from looptagger.model.predictor import Predictor, is_short_of_memory, segment_means
from looptagger.roles import ROLES
from tests.conftest import tone
from tests.model.test_int8 import needs_products


@pytest.fixture(scope="module")
def predictor(tiny_model: str) -> Predictor:
    return Predictor.load(tiny_model, Compute(device="cpu"))


def test_an_array_in_roles_out(predictor: Predictor) -> None:
    found = predictor(tone(4.0, rate=44_100), 44_100)
    assert list(found.scores) == list(ROLES)
    assert all(0 <= score <= 1 for score in found.scores.values())
    assert found.roles == [role for role in ROLES if found.scores[role] >= 0.5]


def test_roles_are_those_at_or_above_each_one_s_own_threshold() -> None:
    network, card = checkpoint.load(checkpoint.untrained(Model(channels=4)), "untrained")
    thresholds = {role: 0.25 + i / 8 for i, role in enumerate(ROLES)}  # halves of halves: exact in float32
    card = card.model_copy(update={"thresholds": thresholds})
    predictor = Predictor(checkpoint.dump(network, card), compute=Compute(device="cpu"))
    at = np.array(list(thresholds.values()), np.float32)
    assert predictor.roles(at) == list(ROLES)
    for i, role in enumerate(ROLES):
        under = at.copy()
        under[i] = np.nextafter(at[i], np.float32(0))
        assert predictor.roles(under) == [each for each in ROLES if each != role]


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


def test_silence_has_no_vote(predictor: Predictor) -> None:
    sound = tone(3.0)
    padded = np.concatenate([np.zeros(48_000, np.float32), sound, np.zeros(96_000, np.float32)])
    assert predictor(padded, 16_000) == predictor(sound, 16_000)
    with pytest.raises(ValueError, match="without a sample over -80 dBFS"):
        predictor(np.zeros(48_000, np.float32), 16_000)


def test_a_quiet_clip_scores_as_a_louder_one(predictor: Predictor) -> None:
    sound = np.random.default_rng(0).uniform(-0.25, 0.25, 48_000).astype(np.float32)
    wanted = predictor(sound, 16_000).scores
    found = predictor(sound * 0.01, 16_000).scores  # -52 dBFS
    assert list(found.values()) == pytest.approx(list(wanted.values()), abs=0.01)
    as_it_is = predictor(sound * 0.01, 16_000, Chunking(quiet_db=-60)).scores
    assert list(as_it_is.values()) != pytest.approx(list(wanted.values()), abs=0.01)


@pytest.mark.parametrize("bad", [(tone() * 32_000).astype(np.int16), np.zeros((2, 16_000)), np.zeros((2, 2, 2))])
def test_other_types_and_shapes_are_refused(predictor: Predictor, bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"floats in \[-1, 1\], \(samples,\) or \(samples, channels\)"):
        predictor(bad, 16_000)


def test_clips_without_chunks_are_refused_and_no_clips_have_no_scores(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="at least one chunk"):
        predictor.clip_scores([np.zeros((1, 48_000), np.int16), np.zeros((0, 48_000), np.int16)])
    assert predictor.clip_scores([]).shape == (0, 6)


@pytest.mark.parametrize("block", [0, 1, 4, 5])
@pytest.mark.parametrize(("precision", "times"), [("float16", 1e9), ("float32", 1e38)])
def test_scores_that_are_no_numbers_are_an_error(
    precision: Literal["float16", "float32"], times: float, block: int
) -> None:
    """In half floats what is over 65,504 is infinite."""
    network, card = checkpoint.load(checkpoint.untrained(Model(channels=4)), "untrained")
    with torch.no_grad():
        for each in network.trunk[block].modules():
            if isinstance(each, torch.nn.BatchNorm2d):
                each.weight *= times
    predictor = Predictor(checkpoint.dump(network, card), compute=Compute(device="cpu", precision=precision))
    with pytest.raises(UserError, match="no numbers; try compute.precision=float32"):
        predictor.chunk_scores(np.full((1, 48_000), 9_000, np.int16))


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


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_a_machine_whose_memory_is_short_gets_fewer_chunks(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    predictor = Predictor.load(tiny_model, Compute(device="cpu"))
    pcm = np.random.default_rng(0).integers(-9, 9, (7, 48_000)).astype(np.int16)
    expected, plain = predictor.chunk_scores(pcm)[0], predictor._forward

    def short(most: int) -> None:
        def forward(part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if len(part) > most:
                raise error
            return plain(part)

        predictor.batch = 8
        monkeypatch.setattr(predictor, "_forward", forward)

    short(2)
    assert np.allclose(predictor.chunk_scores(pcm)[0], expected, atol=1e-5)
    assert predictor.batch == 2
    short(0)
    with pytest.raises(UserError, match="does not hold one chunk"):
        predictor.chunk_scores(pcm)


def test_a_cpu_whose_memory_is_short_says_so_in_words_only() -> None:
    said = "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 B."
    assert is_short_of_memory(RuntimeError(said))
    assert is_short_of_memory(RuntimeError("GET was unable to find an engine to execute this computation"))  # cuDNN's
    assert not is_short_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


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


@pytest.mark.parametrize("precision", ["auto", pytest.param("int8", marks=needs_products)])
def test_it_is_copied_and_pickled_and_minds_no_gradients(precision: Literal["auto", "int8"]) -> None:
    predictor = Predictor.load("starter", Compute(device="cpu", precision=precision))
    pcm = np.random.default_rng(0).integers(-9000, 9000, (1, 48_000)).astype(np.int16)
    wanted = predictor.chunk_scores(pcm)[0]
    for other in (copy.deepcopy(predictor), pickle.loads(pickle.dumps(predictor))):
        assert np.array_equal(other.chunk_scores(pcm)[0], wanted)
    assert torch.isfinite(predictor.network(torch.zeros(1, 48_000, requires_grad=True))[0]).all()
