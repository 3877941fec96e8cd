"""What machines read: JSON lines on stderr, one an event, each with its time; a failed clip's with its id."""

import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from looptagger.cluster.progress import Progress
    from looptagger.cluster.tagging_job import Summary

EVERY_S = 5.0
"""Seconds between lines of progress."""


class JsonLines:
    """Takes the events of a tagging job in the place of the terminal's view."""

    def __init__(self) -> None:
        self.last = 0.0

    def line(self, event: str, **about: Any) -> None:
        """One event, its fractions to three digits."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        short = {name: round(value, 3) if isinstance(value, float) else value for name, value in about.items()}
        print(json.dumps({"time": now, "event": event} | short), file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """What a person would be told."""
        self.line("note", text=text)

    def listed(self, rows: int) -> None:
        """Rows of the manifest stored so far."""
        self.line("listed", clips=rows)

    def rows(self, table: pa.Table) -> None:
        """Tagged rows: those that failed, with their reasons."""
        failed = table.filter(pc.not_equal(table.column("status"), "ok")).select(["id", "uri", "status", "error"])
        for row in failed.to_pylist():
            self.line("failed", **row)

    def progress(self, progress: "Progress") -> None:
        """The state of tagging, every few seconds."""
        if progress.done < progress.total and time.monotonic() - self.last < EVERY_S:
            return
        self.last = time.monotonic()
        (cost, whole), (rate, audio_rate) = progress.cost or (None, None), progress.rates or (None, None)
        self.line(
            "progress",
            done=progress.done, total=progress.total, failed=progress.failed, clips_per_s=rate,
            audio_s_per_s=audio_rate, left_s=progress.left_s, seconds=progress.seconds,
            cost=cost, cost_at_end=whole,
        )  # fmt: skip

    def summary(self, done: "Summary", where: str) -> None:
        """What the run did."""
        self.line(
            "finished",
            out=where, total=done.total, before=done.before, clips=done.clips, by_status=done.by_status,
            seconds=done.seconds, audio_s=done.audio_s, cost=done.cost,
        )  # fmt: skip
