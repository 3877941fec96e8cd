"""What people see: notes, a progress line that stays truthful, a summary, a table of tags. Rich does the drawing."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from looptagger.archive.storage import local_path
from looptagger.roles import ROLES

if TYPE_CHECKING:
    from looptagger.archive.status import Status
    from looptagger.cluster.progress import Progress
    from looptagger.cluster.tagging_job import Summary

err = Console(stderr=True, highlight=False, emoji=False)
out = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 120)

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that a terminal obeys, that turn text around, or that are none: a file's name may hold any."""
EVERY_S = 5.0
"""Seconds between progress lines where the output is a file or a pipe."""


def plain(text: str) -> Text:
    """Text as it is, for rich: no markup or emoji codes in it, and nothing that a terminal would obey."""
    return Text(CONTROL.sub("\ufffd", text))


def note(text: str) -> None:
    """A line for the user, beside the output."""
    err.print(plain(text), soft_wrap=True)


def plural(count: int, noun: str) -> str:
    """`1 part`, `2,000 parts`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 4:05."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def progress_line(progress: "Progress") -> str:
    """Done, failed, speed, time left, and cost where a price is known. Start-up does not distort the speed."""
    percent = 100 * progress.done // progress.total if progress.total else 100
    line = f"{progress.done:,}/{progress.total:,} clips ({percent}%), {progress.failed:,} failed"
    rates, left_s = progress.rates, progress.left_s
    if rates is None or left_s is None:
        line = f"{line}, {clock(progress.seconds)} since the start"
    else:
        line = f"{line}, {rates[0]:,.1f} clips/s, {rates[1]:,.0f} s of audio/s, {clock(left_s)} left"
    if progress.cost is None:
        return line
    spent, whole = progress.cost
    return f"{line}, cost {spent:,.2f}{'' if whole is None else f' of {whole:,.2f}'}"


class ProgressView:
    """The progress line: redrawn in place on a terminal, a line every few seconds elsewhere."""

    def __init__(self, live: Live | None) -> None:
        self.live, self.last = live, 0.0

    def listed(self, rows: int) -> None:
        """Rows of the manifest stored so far."""
        self.show(f"{plural(rows, 'clip')} listed", rows == 0)

    def progress(self, progress: "Progress") -> None:
        """The state of tagging."""
        self.show(progress_line(progress), progress.done == progress.total)

    def of(self, what: str) -> Callable[[int, int], None]:
        """Shows how many of how many are done: `12/40 loops scored`."""
        return lambda done, total: self.show(f"{done:,}/{total:,} {what}", done == total)

    def show(self, line: str, always: bool) -> None:
        """Any other line; on a file or a pipe every few seconds only, unless `always`."""
        if self.live:
            self.live.update(Text(line))
        elif always or time.monotonic() - self.last >= EVERY_S:
            self.last = time.monotonic()
            note(line)


@contextmanager
def progress_view() -> Iterator[ProgressView]:
    """A progress line for as long as the block runs."""
    if not err.is_terminal:
        yield ProgressView(None)
        return
    with Live(Text(""), console=err, refresh_per_second=4) as live:
        yield ProgressView(live)


def summary(done: "Summary", where: str) -> None:
    """What a run did, and how to look at it."""
    if not done.clips:
        note(f"Nothing to do: {done.before:,} of {done.total:,} clips have a row in {where}.")
    else:
        speed = f"{done.clips / max(done.seconds, 1e-9):,.1f} clips/s, {done.audio_s / 3600:,.2f} h of audio"
        failures = f"{done.failed:,} failed{_reasons(done.by_status)}"
        cost = "" if done.cost is None else f", cost {done.cost:,.2f}"
        note(f"{plural(done.clips, 'clip')} in {clock(done.seconds)} ({speed}), {failures}{cost}.")
        note(f"{done.before + done.clips:,} of {done.total:,} are in {where}.")
    note(f"Look: looptagger show {where}    The surest bass loops: looptagger show {where} --role bass")


def _reasons(by_status: Mapping[str, int]) -> str:
    failures = [f"{count:,} {status}" for status, count in sorted(by_status.items()) if status != "ok" and count]
    return f" ({', '.join(failures)})" if failures else ""


def query(where: str) -> str:
    """A first query for DuckDB, which knows no %-escapes."""
    place = re.sub(r"[\[*?]", r"[\g<0>]", os.fsdecode(local_path(where))).replace("'", "''")
    return f"select id, roles, bass from '{place}/*.parquet' where bass > 0.5 order by bass desc limit 10"


def tags_table(rows: pa.Table, strip: str) -> Table:
    """File, roles, six confidences, length, and the reason of those that failed."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("clip", no_wrap=True, overflow="ellipsis", max_width=36)
    for name in (*("perc", "bass", "chord", "mel", "fx", "voice"), "length"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("roles, or why not", min_width=24)
    for row in rows.to_pylist():
        table.add_row(*_cells(row, strip))
    return table


def _cells(row: Mapping[str, Any], strip: str) -> list[str | Text]:
    scores = ["" if row[role] is None else f"{row[role]:.2f}" for role in ROLES]
    length = "" if row["duration_s"] is None else f"{row['duration_s']:.2f} s"
    if row["roles"] is None:
        last = f"{row['status']}: {row['error']}"
    else:
        last = ", ".join(row["roles"]) or "none over its threshold"
    return [plain(row["id"].removeprefix(strip)), *scores, length, plain(last)]


def show(rows: pa.Table, where: str) -> None:
    """An output's rows as a table, and how to ask for more."""
    if not rows.num_rows:
        note(f"{where}: no clips to show; `looptagger status {where}` says why.")
        return
    ids = rows.column("id").to_pylist()
    named = [text for text in ids if text.startswith("/")] or [text for text in ids if "://" in text]
    folders = [text.rpartition("/")[0] for text in named]
    same = takewhile(lambda names: len({*names}) == 1, zip(*(each.split("/") for each in folders), strict=False))
    strip = "".join(f"{names[0]}/" for names in same)
    out.print(tags_table(rows, strip))
    out.print()
    out.print(plain(f"Ask more, in DuckDB: {query(where)}"), soft_wrap=True)


def status(found: "Status", where: str) -> None:
    """Counts of an output."""
    writing = f", {found.holder} is writing" if found.holder else ""
    speed = f", {found.clips_per_s:,.1f} clips/s so far" if found.clips_per_s else ""
    note(
        f"{where}: {found.done:,} of {found.total:,} clips have a row in {plural(found.parts, 'part')}, "
        f"{found.left:,} left, {found.failed:,} failed{_reasons(found.by_status)}{speed}{writing}."
    )
