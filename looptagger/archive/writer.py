"""Gathers tagged rows, which come in any order, into parts, and writes each part once all of its rows are there."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from looptagger.archive import counts, tags
from looptagger.archive.output import CHUNKS, Work, check_there
from looptagger.archive.patience import patiently
from looptagger.archive.storage import Folder
from looptagger.errors import UserError
from looptagger.roles import ROLES

PART, ROW, CHUNK_SCORES, CHUNK_STARTS = "_part", "_row", "_chunk_scores", "_chunk_starts"
"""Columns that travel with the rows and are not written: their part, their place in it, and their chunks'."""

STOPPED = "stopped"
"""A status that is never written. Raised in a worker, an error would leave Ray Data's actors holding their CPUs for as
long as Python keeps its traceback; a row comes through, and the driver raises.
"""


MERGED_ROWS, MERGES = 16_384, 8
"""Clips that are tried again are put into their part so many at a time, and not much more often: one that was compacted
may have half a million of them, and what is not in it is lost with the job."""

TAKEN_ROWS = 65_536
"""Rows picked at once: Arrow picks out of no more than 2 GiB of text, which a compacted part may have."""

Check = Callable[[], None]
"""Raises UserError when the output is no longer this job's to write: see lock.held."""


class PartWriter:
    """The job's only writer. Rows of a part that is never completed are simply tagged again by the next run."""

    def __init__(
        self, folder: Folder, works: Sequence[Work], schema: pa.Schema, chunks: bool, check: Check = lambda: None
    ) -> None:
        self.folder, self.works, self.schema, self.chunks, self.check = folder, works, schema, chunks, check
        self.expected = Counter[str]()
        for work in works:
            self.expected[work.part] += work.rows
        self.merged: dict[str, set[int]] = {work.part: set() for work in works if work.only is not None}
        """Places in a part whose rows are of another try, and in it."""
        self.pending: dict[str, list[pa.Table]] = {}
        self.written: set[str] = set()
        self.left = self.expected.total()
        """Rows of parts that are not written yet."""
        self.by_status = Counter[str]()
        self.audio_s = 0.0
        """Of the rows that this job has written."""
        self.keeper = counts.Keeper(folder, self.expected)

    def add(self, table: pa.Table) -> None:
        """Take in tagged rows, of one part or several; write what they complete."""
        for name in pc.unique(table.column(PART)).to_pylist():
            if name in self.written:
                continue  # a retried task has delivered it twice
            rows = self._new(name, table.filter(pc.equal(table.column(PART), name)))
            gathered = self.pending.setdefault(name, [])
            gathered.append(rows)
            if sum(part.num_rows for part in gathered) >= self._enough(name):
                self._complete(name, _once(pa.concat_tables(gathered)))

    def _enough(self, name: str) -> int:
        """Rows with which a part is written: all, or of those of another try a good many."""
        if name not in self.merged:
            return self.expected[name]
        most = max(MERGED_ROWS, self.expected[name] // MERGES)
        return max(1, min(most, self.expected[name] - len(self.merged[name])))

    def _new(self, name: str, rows: pa.Table) -> pa.Table:
        """Rows without those that are in their part already, should a retried task have delivered some twice."""
        known = self.merged.get(name)
        return rows.filter(pa.array([row not in known for row in rows.column(ROW).to_pylist()])) if known else rows

    def close(self) -> None:
        """Keep the counts of what was written, where the output is still this job's; how that ended is the caller's."""
        with suppress(UserError):
            self.check()
            self.keeper.save()

    def _complete(self, name: str, table: pa.Table) -> None:
        """Write a part whose rows are all there. Chunks first: the part itself is what says that they are done."""
        if table.num_rows < self._enough(name):
            return
        del self.pending[name]
        rows = table.select(self.schema.names).cast(self.schema)
        chunks = exploded(table) if self.chunks else None
        if name in self.merged:
            rows = _replaced(self._read(name), rows, table.column(ROW).to_numpy())
            if chunks is not None:
                old = self._read(f"{CHUNKS}/{name}")
                chunks = pa.concat_tables([_without(old, table.column("id")), chunks])
        if chunks is not None:
            self._write(f"{CHUNKS}/{name}", chunks)
        self._write(name, rows)
        self.left -= table.num_rows
        self.by_status.update(counts.of(table.column("status")))
        self.audio_s += pc.sum(table.column("duration_s")).as_py() or 0.0
        if name in self.merged:
            self.merged[name].update(table.column(ROW).to_pylist())
            if len(self.merged[name]) < self.expected[name]:
                return  # its counts are not of what will be in it
        self.written.add(name)
        self.keeper.count(name, rows)

    def _read(self, name: str) -> pa.Table:
        with tags.present(self.folder, name):
            return patiently(lambda: tags.read_part(self.folder, name), self.folder.storage)

    def _write(self, name: str, rows: pa.Table) -> None:
        self.check()
        check_there(self.folder)
        patiently(lambda: tags.write_part(self.folder, name, rows), self.folder.storage)


def _once(table: pa.Table) -> pa.Table:
    """Rows in the manifest's order, each once, should a retried task have delivered some twice."""
    _, first = np.unique(table.column(ROW).to_numpy(), return_index=True)
    return table.take(pa.array(first))


def _replaced(old: pa.Table, new: pa.Table, places: NDArray[np.int64]) -> pa.Table:
    """A part's rows with new ones at some places; the order stays the manifest's."""
    merged = []
    for start in range(0, old.num_rows, TAKEN_ROWS):
        some = old.slice(start, TAKEN_ROWS).cast(new.schema)
        (here,) = np.nonzero((places >= start) & (places < start + TAKEN_ROWS))
        order = np.arange(some.num_rows)
        order[places[here] - start] = some.num_rows + np.arange(len(here))
        merged.append(pa.concat_tables([some, new.take(pa.array(here))]).take(pa.array(order)))
    return pa.concat_tables(merged)


def _without(table: pa.Table, ids: pa.ChunkedArray) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table.column("id"), ids.combine_chunks())))


def exploded(table: pa.Table) -> pa.Table:
    """The chunk rows of tagged clips: id, chunk, start_s and six scores."""
    counts = table.column("n_chunks").to_numpy()
    scores = pc.list_flatten(table.column(CHUNK_SCORES)).to_numpy().reshape(-1, len(ROLES))
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    columns = {
        "id": table.column("id").take(pa.array(np.repeat(np.arange(len(counts)), counts))),
        "chunk": pa.array(number, pa.int32()),
        "start_s": pc.list_flatten(table.column(CHUNK_STARTS)),
        **{role: pa.array(scores[:, i], pa.float32()) for i, role in enumerate(ROLES)},
    }
    return pa.table(columns, schema=tags.CHUNK_SCHEMA)
