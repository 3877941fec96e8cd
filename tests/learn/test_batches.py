"""Crops, augmentation, mixing, sampling, and the order of loops."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
import torch

from looptagger.config import Audio, Augment, Train
from looptagger.errors import UserError
from looptagger.learn import table
from looptagger.learn.augment import crops, mixed, tensors
from looptagger.learn.batches import Batch, TrainingLoop, ahead, batches, cut, longest, loops, partners, shuffled
from looptagger.learn.scoring import windows
from looptagger.learn.task import Census
from looptagger.roles import ROLES
from looptagger.settings import load

SIZE = 1000


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def settings(*overrides: str) -> Train:
    return load(Train, None, ["audio.chunk_samples=100", "batch=8", "balance=none", "augment.mix=0", *overrides])


def loops_table(count: int, labels: np.ndarray | None = None, samples: int = 250) -> pa.Table:
    """Loops whose samples all say which loop it is."""
    labels = np.eye(6, dtype=bool)[np.arange(count) % 6] if labels is None else labels
    columns = {"id": [f"l{i}" for i in range(count)], "duration_s": [1.0] * count}
    columns |= {"waveform": [np.full(samples, i + 1, np.int16) for i in range(count)]}
    columns |= {role: labels[:, i] for i, role in enumerate(ROLES)}
    columns |= {name: ["train"] * count for name in ("paper", "stratified", "grouped")}
    return pa.table(
        {name: columns.get(name, pa.nulls(count, pa.string())) for name in table.SCHEMA.names}, schema=table.SCHEMA
    )


def heard(found: list[Batch]) -> list[int]:
    return [int(row[0]) for batch in found for row in batch.samples]


def crop(waveform: np.ndarray, size: int, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    """One crop, all the way."""
    samples = np.empty((1, longest(size, augment)), np.int16)
    need, gain = cut(samples[0], waveform, size, augment, rng)
    nothing = np.zeros(1, np.float32), np.zeros((1, 6), np.float32)
    batch = Batch(samples, np.array([need]), np.array([gain], np.float32), np.zeros(1, np.int64), *nothing)
    found: np.ndarray = crops(tensors(batch, pinned=False), size)[0][0].numpy()
    return found


def test_crops_come_from_anywhere_in_a_long_loop_and_never_from_outside() -> None:
    waveform = np.arange(5000, dtype=np.int16)
    first = [round(crop(waveform, SIZE, Augment(), rng(seed))[0] * 32768) for seed in range(200)]
    assert min(first) < 300
    assert 3700 < max(first) <= 4000
    assert np.array_equal(crop(waveform[:SIZE], SIZE, Augment(), rng()) * 32768, waveform[:SIZE])


@pytest.mark.parametrize("count", [1, 7, 999, 1000, 1001])
@pytest.mark.parametrize("augment", [Augment(), Augment(wrap=True), Augment(wrap=True, speed_semitones=12, gain_db=6)])
def test_crops_of_any_loop_have_the_wanted_length(count: int, augment: Augment) -> None:
    waveform = rng().integers(-1000, 1000, count).astype(np.int16)
    for seed in range(20):
        samples = crop(waveform, SIZE, augment, rng(seed))
        assert samples.shape == (SIZE,)
        assert samples.dtype == np.float32
        assert np.isfinite(samples).all()


def test_short_loops_are_repeated_and_wrapped_ones_begin_anywhere() -> None:
    waveform = np.array([1, 2, 3], np.int16)
    assert np.array_equal(crop(waveform, 7, Augment(), rng()) * 32768, [1, 2, 3, 1, 2, 3, 1])
    begins = {float(crop(waveform, 7, Augment(wrap=True), rng(seed))[0] * 32768) for seed in range(30)}
    assert begins == {1, 2, 3}


def test_gain_and_polarity_change_the_level_and_the_sign_only() -> None:
    waveform = (rng().normal(0, 3000, SIZE)).astype(np.int16)
    plain = crop(waveform, SIZE, Augment(), rng())
    gains = [
        float(crop(waveform, SIZE, Augment(gain_db=6, polarity=True), rng(seed))[5] / plain[5]) for seed in range(200)
    ]
    assert {np.sign(gain) for gain in gains} == {-1, 1}
    assert 10 ** (-6 / 20) - 1e-6 <= min(map(abs, gains)) < 0.6
    assert 1.8 < max(map(abs, gains)) <= 10 ** (6 / 20) + 1e-6


def test_speed_shifts_a_tone_by_as_much_as_it_may() -> None:
    waveform = (10_000 * np.sin(2 * np.pi * 1000 * np.arange(64_000) / 16_000)).astype(np.int16)
    found = []
    for seed in range(40):
        samples = crop(waveform, 16_000, Augment(speed_semitones=2), rng(seed))
        found.append(int(np.argmax(np.abs(np.fft.rfft(samples)))))  # 1 Hz a bin
    low, high = 1000 * 2 ** (-2 / 12), 1000 * 2 ** (2 / 12)
    assert low - 1 <= min(found) < 920
    assert 1090 < max(found) <= high + 1


def test_a_stretch_keeps_a_wave_what_it_is() -> None:
    time = np.arange(64_000) / 16_000
    waveform = (10_000 * np.sin(2 * np.pi * 500 * time)).astype(np.int16)
    samples = crop(waveform[:20_000], 16_000, Augment(speed_semitones=2), rng(3))
    bins = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    peak = int(np.argmax(bins))
    assert bins[peak] > 2000 * np.delete(bins, np.arange(peak - 20, peak + 21)).max()


def test_mixed_crops_have_both_roles_and_do_not_clip() -> None:
    labels = torch.eye(6)
    waveform = torch.full((6, 50), 0.9) * torch.arange(1, 7)[:, None] / 6
    others, levels = (torch.from_numpy(each) for each in partners(6, 1.0, rng()))
    both, roles = mixed(waveform, labels, others, levels)
    assert (roles.sum(dim=1) == 2).all()
    assert (roles >= labels).all()
    assert both.abs().max() <= 1.0
    assert not torch.isclose(both, waveform).any()
    same, own = mixed(waveform, labels, others, torch.zeros(6))
    assert torch.equal(same, waveform)
    assert torch.equal(own, labels)
    loud, _ = mixed(2 * waveform, labels, others, torch.zeros(6))
    assert torch.allclose(loud.abs().amax(dim=1), (2 * waveform).abs().amax(dim=1).clamp(max=1.0)), "nor do others"


def test_partners_are_others_and_as_many_as_asked() -> None:
    others, levels = partners(1000, 0.4, rng())
    assert (others != np.arange(1000)).all()
    assert 0.35 < (levels > 0).mean() < 0.45
    assert levels[levels > 0].min() >= 0.5
    assert levels.max() <= 2.0


def test_an_epoch_has_every_loop_once_and_fills_the_last_batch() -> None:
    found = list(batches(loops(loops_table(20)), settings(), Census(20, (4,) * 6), 0))
    assert [len(batch.samples) for batch in found] == [8, 8, 8]
    assert sorted(set(heard(found))) == list(range(1, 21))
    assert sorted(heard(found)[:20]) == list(range(1, 21))


def test_a_worker_without_loops_says_so() -> None:
    with pytest.raises(UserError, match="no loops to train on"):
        next(batches([], settings(), Census(20, (4,) * 6), 0))


def test_epochs_differ_and_can_be_had_again() -> None:
    rows, census = loops_table(40), Census(40, (7,) * 6)
    first, again, other = (heard(list(batches(loops(rows), settings(), census, epoch))) for epoch in (0, 0, 1))
    assert first == again != other


def test_a_loop_that_comes_twice_in_a_batch_is_cut_twice() -> None:
    rows = loops_table(2).set_column(
        1, "waveform", pa.array([list(range(5000))] * 2, table.SCHEMA.field("waveform").type)
    )
    (first, *_) = batches(loops(rows), settings(), Census.of(table.truth(rows)), 0)
    assert len(set(heard([first]))) > 6, "of 8 crops of two loops"


def test_whether_a_loop_is_repeated_tells_nothing_of_its_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy takes a seed's zeros at the end for none."""
    drawn: list[tuple[int, ...]] = []
    make = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: drawn.append(tuple(seed)) or make(seed))
    list(batches(loops(loops_table(20)), settings("balance=sampling"), Census(20, (4,) * 6), 0))
    states = {tuple(np.random.SeedSequence(seed).generate_state(2)) for seed in drawn}
    assert len(states) == len(set(drawn)) == len(drawn)


def test_quiet_loops_are_learned_as_loud_as_they_are_tagged() -> None:
    rows = loops_table(1).set_column(
        1, "waveform", pa.array([[100, -200, 50] * 100], table.SCHEMA.field("waveform").type)
    )
    audio = Audio(chunk_samples=100)
    (tagged,) = {float(abs(windows("l0", np.array([100, -200, 50] * 100, np.int16), audio, "ours")).max())}
    for quiet, peak in (("raise_quiet=true", tagged), ("raise_quiet=false", 200.0)):
        (batch,) = batches(loops(rows), settings(quiet), Census(1, (1, 0, 0, 0, 0, 0)), 0)
        crop = crops(tensors(batch, pinned=False), 100)[0]
        assert np.allclose(crop.abs().amax(dim=1) * 32768, peak, atol=1)


def test_two_workers_part_the_batches_and_stay_in_step() -> None:
    census = Census(40, (7,) * 6)
    rows = loops_table(40)
    found = [
        list(batches(loops(rows.slice(half, 20 - half)), settings(), census, 0, rank, 2))
        for rank, half in ((0, 0), (1, 5))
    ]
    assert [[len(batch.samples) for batch in each] for each in found] == [[4] * 5] * 2


def test_rare_roles_come_more_often_when_asked() -> None:
    labels = np.zeros((60, 6), bool)
    labels[:, 0] = True
    labels[:4, 5] = True
    census = Census.of(labels)
    chosen = settings("balance=sampling")
    found = [
        number
        for epoch in range(30)
        for number in heard(list(batches(loops(loops_table(60, labels)), chosen, census, epoch)))
    ]
    rare = sum(number <= 4 for number in found) / 4
    common = sum(number > 4 for number in found) / 56
    assert rare / common == pytest.approx((60 / 4) ** 0.5, rel=0.1)
    assert census.positive_weights()[5] == pytest.approx((56 / 4) ** 0.5)


def test_the_pool_is_bounded() -> None:
    taken = 0

    def source() -> object:
        nonlocal taken
        for i in range(1000):
            taken += 1
            yield TrainingLoop(i, np.zeros(500, np.int16), np.zeros(6, np.float32))

    drawn = shuffled(source(), rng(), most_bytes=20_000)
    next(drawn)
    assert taken == 21
    assert len({loop.key for loop in drawn}) == 999


def test_work_ahead_hands_over_items_and_errors() -> None:
    assert list(ahead(iter(range(10)))) == list(range(10))

    def fails() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    made = ahead(fails())
    assert next(made) == 1
    with pytest.raises(ValueError, match="broken"):
        next(made)
