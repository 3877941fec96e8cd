"""Rows by status of each part, kept beside the parts, so that ten million rows are counted by reading one file.

The parts stay the only ledger: a part that is not in here is read. What is in here is true, as the one writer takes a
part out before it writes it.
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from looptagger.archive.storage import Folder
from looptagger.errors import UserError

NAME = "_run/counts.json"
SAVED_S = 30.0
"""A killed job leaves the parts of its last so many seconds to be read."""


def of(column: pa.ChunkedArray) -> Counter[Any]:
    """How often each value of a column comes."""
    return Counter({pair["values"]: pair["counts"] for pair in pc.value_counts(column).to_pylist()})


def load(folder: Folder) -> dict[str, Counter[str]]:
    """Part -> rows by status; empty where nothing is kept, or nothing that can be read."""
    try:
        kept = json.loads(folder.read(NAME) or b"{}")
        return {part: Counter({str(name): int(count) for name, count in each.items()}) for part, each in kept.items()}
    except (ValueError, AttributeError, TypeError, RecursionError):
        return {}


def store(folder: Folder, counts: Mapping[str, Counter[str]]) -> None:
    """Keep counts. Raises UserError."""
    folder.write(NAME, json.dumps(counts, separators=(",", ":")).encode())


class Keeper:
    """Keeps the counts while a job writes. Raises UserError where stale ones can't be withdrawn."""

    def __init__(self, folder: Folder, replaced: Iterable[str]) -> None:
        self.folder, self.counts = folder, load(folder)
        self.saved = time.monotonic()
        if stale := self.counts.keys() & set(replaced):
            for part in stale:
                del self.counts[part]
            store(folder, self.counts)

    def count(self, part: str, table: pa.Table) -> None:
        """Take in a part that was written just now."""
        self.counts[part] = of(table.column("status"))
        if time.monotonic() - self.saved >= SAVED_S:
            self.save()

    def save(self) -> None:
        """Store the counts. They can be had from the parts: an output that can't be written says so elsewhere."""
        self.saved = time.monotonic()
        with suppress(UserError):
            store(self.folder, self.counts)
