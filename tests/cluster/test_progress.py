"""The progress line's figures, by a clock that the test turns."""

import time

import pyarrow as pa
import pytest

from looptagger.cluster.progress import WINDOW_S, Progress
from looptagger.terminal import progress_line


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    turned = Clock()
    monkeypatch.setattr(time, "monotonic", turned)
    return turned


def rows(count: int, failed: int = 0) -> pa.Table:
    status = ["ok"] * (count - failed) + ["missing"] * failed
    return pa.table({"status": status, "duration_s": [4.0] * (count - failed) + [None] * failed})


def test_start_up_is_not_counted_and_speed_is_that_of_late(clock: Clock) -> None:
    progress = Progress(100_000)
    assert progress_line(progress) == "0/100,000 clips (0%), 0 failed, 0:00 since the start"
    clock.now += 30
    progress.count(rows(100))
    assert progress.rates is None
    for _ in range(600):  # ten minutes at 10 clips a second
        clock.now += 1
        progress.count(rows(10, failed=1))
    assert progress.rates == pytest.approx((10, 36))
    for _ in range(int(WINDOW_S) + 5):  # then a larger cluster
        clock.now += 1
        progress.count(rows(50))
    assert progress.rates
    assert progress.rates[0] == pytest.approx(50, rel=0.02)
    assert len(progress.samples) <= WINDOW_S + 2
    assert progress.left_s == pytest.approx((100_000 - progress.done) / 50, rel=0.02)


def test_the_first_clips_of_several_workers_are_no_speed(clock: Clock) -> None:
    progress = Progress(12)
    clock.now += 9
    progress.count(rows(4))
    clock.now += 0.01
    progress.count(rows(4))
    assert progress_line(progress) == "8/12 clips (66%), 0 failed, 0:09 since the start"
    clock.now += 1
    progress.count(rows(4))
    assert progress.rates == pytest.approx((8 / 1.01, 32 / 1.01))


def test_a_stall_shows(clock: Clock) -> None:
    progress = Progress(1000)
    for _ in range(10):
        progress.count(rows(10))
        clock.now += 1
    clock.now += 90
    assert progress.rates is not None
    assert progress.rates[0] < 1


def test_a_price_gives_what_it_costs(clock: Clock) -> None:
    progress = Progress(1000, price=36.0)
    assert progress.cost == (0.0, None)
    progress.count(rows(100))
    clock.now += 100
    progress.count(rows(100))
    spent, whole = progress.cost or (0.0, None)
    assert spent == pytest.approx(1.0)
    assert whole == pytest.approx(9.0)
    assert progress_line(progress).endswith("1.0 clips/s, 4 s of audio/s, 13:20 left, cost 1.00 of 9.00")
