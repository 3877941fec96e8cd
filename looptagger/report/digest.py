"""An output's rows boiled down to what a page can show: counts, histograms, and a few clips drawn at random. Pure.

Rows come in tables, one after another; what is kept does not grow with their number.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from looptagger.archive import counts
from looptagger.roles import ROLES

COLUMNS = ("id", "uri", "status", "error", *ROLES, "roles", "duration_s", "sample_rate", "codec")
"""What is read of a part."""
BINS = 20
"""Bars of a confidence histogram, each 0.05 wide."""
LENGTHS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 60.0, 300.0)
"""Edges between the bars of the clips' lengths."""
DRAWN = 8
"""Clips shown of each role, and of the uncertain ones."""
MOST_REASONS = 200
"""Kinds of failures kept apart."""
CLOSE = 0.1
"""Highest scores nearer to one another than this are uncertain."""
EXAMPLES = 3
"""Clips named for each reason of a failure."""

Row = dict[str, Any]


@dataclass
class Draw:
    """A sample of rows, each as likely as any other (Vitter's reservoir, by random keys: the largest stay)."""

    rng: np.random.Generator
    most: int = DRAWN
    kept: list[tuple[float, Row]] = field(default_factory=list)

    def add(self, table: pa.Table, places: NDArray[np.int64]) -> None:
        """Let rows at some places take part."""
        keys = self.rng.random(len(places))
        least = self.kept[-1][0] if len(self.kept) == self.most else -1.0
        best = np.argsort(-keys)[: self.most]
        best = best[keys[best] > least]
        rows = table.take(pa.array(places[best])).to_pylist()
        self.kept += list(zip(keys[best].tolist(), rows, strict=True))
        self.kept = sorted(self.kept, key=lambda each: -each[0])[: self.most]

    @property
    def rows(self) -> list[Row]:
        """The rows drawn."""
        return [row for _, row in self.kept]


class Digest:
    """What has been seen of an output so far."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.statuses = Counter[str]()
        self.codecs, self.rates = Counter[str](), Counter[int]()
        self.reasons: dict[tuple[str, str], tuple[int, list[str]]] = {}
        self.audio_s = 0.0
        self.lengths = np.zeros(len(LENGTHS_S) + 1, np.int64)
        self.scores = np.zeros((len(ROLES), BINS), np.int64)
        self.together = np.zeros((len(ROLES), len(ROLES)), np.int64)
        self.said = np.zeros(len(ROLES) + 1, np.int64)
        self.by_role = [Draw(rng) for _ in ROLES]
        self.uncertain = Draw(rng)

    @property
    def clips(self) -> int:
        """Rows seen."""
        return self.statuses.total()

    @property
    def ok(self) -> int:
        """Those with tags."""
        return self.statuses["ok"]

    def add(self, table: pa.Table) -> None:
        """Take in some rows of an output."""
        status = table.column("status").cast(pa.string())
        self.statuses.update(counts.of(status))
        failed = table.filter(pc.not_equal(status, "ok"))
        self._fail(failed.column("status").to_pylist(), failed.column("error").to_pylist(), failed.column("id"))
        tagged = table.filter(pc.equal(status, "ok"))
        if not tagged.num_rows:
            return
        seconds = tagged.column("duration_s").to_numpy()
        self.audio_s += float(seconds.sum())
        self.lengths += np.bincount(np.searchsorted(LENGTHS_S, seconds, "right"), minlength=len(self.lengths))
        self.codecs.update(counts.of(tagged.column("codec")))
        self.rates.update(counts.of(tagged.column("sample_rate")))
        self._score(tagged)

    def _score(self, tagged: pa.Table) -> None:
        scores = np.column_stack([tagged.column(role).to_numpy() for role in ROLES])
        bins = np.clip((scores * BINS).astype(int), 0, BINS - 1)
        on = roles_of(tagged)
        self.said += np.bincount(on.sum(axis=1), minlength=len(self.said))
        self.together += on.T.astype(np.int64) @ on.astype(np.int64)
        for i, draw in enumerate(self.by_role):
            self.scores[i] += np.bincount(bins[:, i], minlength=BINS)
            draw.add(tagged, np.flatnonzero(on[:, i]))
        ordered = np.sort(scores, axis=1)
        doubtful = ~on.any(axis=1) | (ordered[:, -1] - ordered[:, -2] < CLOSE)
        self.uncertain.add(tagged, np.flatnonzero(doubtful))

    def _fail(self, statuses: Sequence[str], errors: Sequence[str | None], ids: pa.ChunkedArray) -> None:
        for i, (status, error) in enumerate(zip(statuses, errors, strict=True)):
            key = (status, general(error or ""))
            count, examples = self.reasons.get(key, (0, []))
            if len(examples) < EXAMPLES:
                examples.append(ids[i].as_py())
            if count or len(self.reasons) < MOST_REASONS:
                self.reasons[key] = (count + 1, examples)


def general(reason: str) -> str:
    """A reason without its numbers, so that `8,123 bytes` and `9,456 bytes` count as one."""
    words = ["…" if any(c.isdigit() for c in word) else word for word in reason.split()]
    return " ".join(words)


def roles_of(table: pa.Table) -> NDArray[np.bool_]:
    """The column `roles` as (rows, 6) booleans."""
    column = table.column("roles").combine_chunks()
    on = np.zeros((len(column), len(ROLES)), bool)
    parents = pc.list_parent_indices(column).to_numpy()
    places = pc.index_in(pc.list_flatten(column), pa.array(ROLES)).to_numpy(zero_copy_only=False)
    on[parents, places] = True
    return on
