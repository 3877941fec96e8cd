"""The digest of an output as one HTML page that needs nothing else: no network, no scripts, no other files."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import numpy as np

from looptagger.archive import output
from looptagger.archive.status import settled
from looptagger.archive.storage import Folder, local_path, scheme
from looptagger.report.digest import BINS, COLUMNS, LENGTHS_S, Digest, Row
from looptagger.roles import COLOURS, ROLES

PLAYABLE = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".webm")
"""What browsers play."""
MOST_CODECS = 12
SHOWN_REASONS = 40


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart: its name, what it counts, its length in percent of the longest."""

    name: str
    count: int
    percent: float
    share: float
    colour: str = "var(--bar)"


@settled
def digest(folder: Folder, progress: Callable[[int, int], None] = lambda done, total: None) -> Digest:
    """Read an output, part by part. Raises UserError where there is none."""
    record = output.require(folder)
    found = Digest()
    for rows in output.rows(folder, COLUMNS):
        found.add(rows)
        progress(found.clips, record.rows)
    return found


def html(found: Digest, where: str, model: str, total: int) -> str:
    """The page."""
    import jinja2

    reasons = sorted(found.reasons.items(), key=lambda each: -each[1][0])[:SHOWN_REASONS]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("looptagger", "report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(
        where=where,
        model=model,
        total=total,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        found=found,
        failed=found.clips - found.ok,
        hours=found.audio_s / 3600,
        roles=ROLES,
        colours=COLOURS,
        by_role=bars(zip(ROLES, found.together.diagonal(), strict=True), found.ok, list(COLOURS.values())),
        said=bars(zip(("none", *map(str, range(1, len(ROLES) + 1))), found.said, strict=True), found.ok),
        histograms=[histogram(found.scores[i]) for i in range(len(ROLES))],
        together=(found.together / np.maximum(found.together.diagonal(), 1)[:, None]).tolist(),
        lengths=bars(zip(length_names(), found.lengths, strict=True), found.ok),
        codecs=bars(found.codecs.most_common(MOST_CODECS), found.ok),
        rates=bars(((f"{rate / 1000:g} kHz", n) for rate, n in found.rates.most_common(8)), found.ok),
        statuses=bars((pair for pair in found.statuses.most_common() if pair[0] != "ok"), found.clips),
        reasons=reasons,
        otherwise=found.clips - found.ok - sum(count for _, (count, _) in reasons),
        samples=[(role, list(clips(draw.rows))) for role, draw in zip(ROLES, found.by_role, strict=True)],
        uncertain=list(clips(found.uncertain.rows)),
        bins=BINS,
    )


def bars(counts: Iterable[tuple[str, int]], of: int, colours: Sequence[str] = ()) -> list[Bar]:
    """A bar chart's rows; shares are of `of`."""
    heights = [(name, int(count)) for name, count in counts]
    most = max((count for _, count in heights), default=0) or 1
    return [
        Bar(name, count, 100 * count / most, count / max(of, 1), *colours[i : i + 1])
        for i, (name, count) in enumerate(heights)
    ]


def histogram(counts: Iterable[int]) -> list[tuple[float, int]]:
    """A histogram's bars: height in percent, on a root scale so that rare scores show, and count."""
    heights = [int(count) for count in counts]
    return [(100 * (count / (max(heights) or 1)) ** 0.5, count) for count in heights]


def length_names() -> list[str]:
    """What the bars of the clips' lengths are called."""
    middle = [f"{a:g} to {b:g} s" for a, b in pairwise(LENGTHS_S)]
    return [f"under {LENGTHS_S[0]:g} s", *middle, f"{LENGTHS_S[-1]:g} s and more"]


def clips(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Clips as the page shows them, with what a browser on this machine can play."""
    for row in rows:
        local = os.fsencode(local_path(row["uri"])) if scheme(row["uri"]) == "file" else b""
        plays = row["uri"].lower().endswith(PLAYABLE) and os.path.exists(local)
        yield {
            "id": row["id"],
            "name": row["id"].rstrip("/").rpartition("/")[2] or row["id"],
            "src": f"file://{quote(os.path.abspath(local))}" if plays else None,
            "seconds": row["duration_s"],
            "scores": [(role, row[role]) for role in ROLES],
            "roles": row["roles"],
        }
