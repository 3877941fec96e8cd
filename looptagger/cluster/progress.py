"""How far a run is, and how fast it has been of late. Pure, but for the clock."""

import time
from collections import Counter, deque
from dataclasses import dataclass, field

import pyarrow as pa

from looptagger.archive import counts

WINDOW_S = 120.0
"""Speed is that of so many seconds: long enough to be steady, short enough to stay true when a cluster changes."""
SAMPLE_S = 1.0


@dataclass
class Progress:
    """Clips of this run, not of the output. `price` is what an hour of all machines costs, where that is known."""

    total: int
    price: float | None = None
    by_status: Counter[str] = field(default_factory=Counter)
    audio_s: float = 0.0
    started: float = field(default_factory=lambda: time.monotonic())
    samples: deque[tuple[float, int, float]] = field(default_factory=deque)
    """When, clips done by then, and seconds of audio; the first is when rows first came, so start-up does not count."""

    @property
    def done(self) -> int:
        """Clips tagged or failed."""
        return sum(self.by_status.values())

    @property
    def failed(self) -> int:
        """Clips whose row is a reason."""
        return self.done - self.by_status["ok"]

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    @property
    def rates(self) -> tuple[float, float] | None:
        """Clips, and seconds of audio, a second of late; None until there is something to measure, for long enough."""
        if not self.samples:
            return None
        then, clips, audio_s = self.samples[0]
        seconds = time.monotonic() - then
        if self.done == clips or seconds < SAMPLE_S:
            return None
        return (self.done - clips) / seconds, (self.audio_s - audio_s) / seconds

    @property
    def left_s(self) -> float | None:
        """Seconds to the end at that speed."""
        return (self.total - self.done) / self.rates[0] if self.rates else None

    @property
    def cost(self) -> tuple[float, float | None] | None:
        """What the run has cost, and will have at its end; None without a price."""
        if self.price is None:
            return None
        whole = None if self.left_s is None else (self.seconds + self.left_s) * self.price / 3600
        return self.seconds * self.price / 3600, whole

    def count(self, table: pa.Table) -> None:
        """Take in tagged rows."""
        self.by_status.update(counts.of(table.column("status")))
        self.audio_s += sum(filter(None, table.column("duration_s").to_pylist()))
        now = time.monotonic()
        if not self.samples or now - self.samples[-1][0] >= SAMPLE_S:
            self.samples.append((now, self.done, self.audio_s))
        while len(self.samples) > 2 and now - self.samples[1][0] >= WINDOW_S:
            self.samples.popleft()
