"""Gathers tagged rows, which come in any order, into parts, and writes each part once all of its rows are there."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from looptagger.archive import counts, retrying, tags
from looptagger.archive.output import Work
from looptagger.archive.patience import patiently
from looptagger.archive.storage import Folder
from looptagger.roles import ROLES

PART, ROW, CHUNK_SCORES, CHUNK_STARTS = "_part", "_row", "_chunk_scores", "_chunk_starts"
"""Columns that travel with the rows and are not written: their part, their place in it, and their chunks'."""

MERGED_ROWS, MERGES = 16_384, 8
"""Retried clips that are put into their part at once, or an eighth of them where that is more: each time the part is
written anew, and what waits is lost with the job. One that was compacted may have half a million."""

TAKEN_ROWS = 65_536
"""Rows picked at once: Arrow picks out of no more than 2 GiB of text, which a compacted part may have."""


class PartWriter:
    """The job's only writer. Rows of a part that is never completed are simply tagged again by the next run."""

    def __init__(self, folder: Folder, works: Sequence[Work], schema: pa.Schema, chunks: bool) -> None:
        self.folder, self.works, self.schema, self.chunks = folder, works, schema, chunks
        self.expected = Counter[str]()
        """Rows that this job is to put into each part."""
        for work in works:
            self.expected[work.part] += work.rows
        self.retried: dict[str, set[int]] = {work.part: set() for work in works if work.is_retry}
        """Parts whose failed clips are retried -> the places of those that are in them by now."""
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
                continue  # a task that Ray ran again has delivered it twice
            rows = self._new(name, table.filter(pc.equal(table.column(PART), name)))
            gathered = self.pending.setdefault(name, [])
            gathered.append(rows)
            if sum(part.num_rows for part in gathered) >= self._due(name):
                self._complete(name, _once(pa.concat_tables(gathered)))

    def _due(self, name: str) -> int:
        """Rows that are waited for before a part is written: all of a new one; of a retried one, a batch."""
        if name not in self.retried:
            return self.expected[name]
        most = max(MERGED_ROWS, self.expected[name] // MERGES)
        return max(1, min(most, self.expected[name] - len(self.retried[name])))

    def _new(self, name: str, rows: pa.Table) -> pa.Table:
        """Rows without those that are in their part already, should some have been delivered twice."""
        known = self.retried.get(name)
        return rows.filter(pa.array([row not in known for row in rows.column(ROW).to_pylist()])) if known else rows

    def _complete(self, name: str, table: pa.Table) -> None:
        """Write a part whose rows are there. Chunks first: the part itself is what says that they are done."""
        if table.num_rows < self._due(name):
            return  # rows delivered twice had made it look so
        del self.pending[name]
        rows = table.select(self.schema.names).cast(self.schema)
        chunks = exploded(table) if self.chunks else None
        if name in self.retried:
            rows = _replaced(self._read(name), rows, table.column(ROW).to_numpy())
            if chunks is not None:
                old = self._read(f"{tags.CHUNKS}/{name}")
                chunks = pa.concat_tables([_without(old, table.column("id")), chunks])
                patiently(lambda: retrying.begin(self.folder, name), self.folder.storage)
        if chunks is not None:
            self._write(f"{tags.CHUNKS}/{name}", chunks)
        by_status, audio_s = counts.of(table.column("status")), pc.sum(table.column("duration_s")).as_py() or 0.0
        self._write(name, rows)
        self.by_status.update(by_status)  # at once: an interrupt before it leaves a part that no run's record counts
        self.left -= table.num_rows
        self.audio_s += audio_s
        if chunks is not None and name in self.retried:
            patiently(lambda: retrying.end(self.folder), self.folder.storage)
        if name in self.retried:
            self.retried[name].update(table.column(ROW).to_pylist())
            if len(self.retried[name]) < self.expected[name]:
                return  # its counts are not of what will be in it
            self.retried[name].clear()  # of ten million they would fill memory
        self.written.add(name)
        self.keeper.count(name, rows)

    def _read(self, name: str) -> pa.Table:
        with tags.present(self.folder, name):
            return patiently(lambda: tags.read_part(self.folder, name), self.folder.storage)

    def _write(self, name: str, rows: pa.Table) -> None:
        patiently(lambda: tags.write_part(self.folder, name, rows), self.folder.storage)


def _once(table: pa.Table) -> pa.Table:
    """Rows in the manifest's order, each once, should some have been delivered twice."""
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
    n_chunks = table.column("n_chunks").to_numpy()
    scores = pc.list_flatten(table.column(CHUNK_SCORES)).to_numpy().reshape(-1, len(ROLES))
    number = np.arange(n_chunks.sum()) - np.repeat(np.cumsum(n_chunks) - n_chunks, n_chunks)
    columns = {
        "id": table.column("id").take(pa.array(np.repeat(np.arange(len(n_chunks)), n_chunks))),
        "chunk": pa.array(number, pa.int32()),
        "start_s": pc.list_flatten(table.column(CHUNK_STARTS)),
        **{role: pa.array(scores[:, i], pa.float32()) for i, role in enumerate(ROLES)},
    }
    return pa.table(columns, schema=tags.CHUNK_SCHEMA)
