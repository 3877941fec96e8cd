"""The frozen manifest: what a job is to tag, written once into its output, cut into shards of known rows.

A shard is the unit of output, and of most work: shard 7 becomes `part-0000007.parquet`, whoever computes it and however
often. So a finished part says by its name which rows need no more work.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, groupby
from typing import Annotated, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from looptagger.archive.columns import Listing, as_stored, conformed, grown, joint_schema
from looptagger.archive.ids import Known, digests
from looptagger.archive.patience import patiently
from looptagger.archive.storage import Folder
from looptagger.archive.tags import opened, present, regrouped
from looptagger.config import Settings
from looptagger.errors import UserError

FILE_ROWS = 65_536
"""Rows of a manifest file."""
GROUP_ROWS = 8_192
"""Rows of a row group. `read` counts by it: outputs that there are depend on it."""
BLOCK_BYTES = 1 << 20
"""Asked for at once of a file on a store, whose client would else fetch the 50 MB after each row group."""
LOST = "is missing, or cannot be read whole; put it back and run the same command, or start anew with --overwrite"
SHARD_ROWS = (8, 1024)
"""Rows of a shard, at least and at most."""
SHARDS = 64
"""Shards that a small archive is cut into: enough to keep cores busy and to lose little in a crash."""


class ManifestFile(Settings):
    """One file of the frozen manifest; `shard_rows` divides its rows into shards, the last of which may be short."""

    name: Annotated[str, Field(pattern=r"^_run/manifest/\d{6,}\.parquet$")]
    rows: Annotated[int, Field(ge=1, le=FILE_ROWS)]
    shard_rows: Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Shard:
    """Rows `start` to `stop` of one manifest file; `first` is the place of the first of them in the whole manifest."""

    file: str
    start: int
    stop: int
    first: int

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return self.stop - self.start


def shards(files: Sequence[ManifestFile]) -> list[Shard]:
    """All shards in order; a shard's number is its place in this list."""
    before = [0, *accumulate(file.rows for file in files)]
    return [
        Shard(file.name, start, min(start + file.shard_rows, file.rows), first + start)
        for file, first in zip(files, before, strict=False)
        for start in range(0, file.rows, file.shard_rows)
    ]


def spans(some: Sequence[Shard]) -> Iterator[Shard]:
    """Shards that follow one another, those of a file as one."""
    for _, each in groupby(some, key=lambda shard: shard.file):
        first, *others = each
        yield replace(first, stop=others[-1].stop) if others else first


def read(folder: Folder, shard: Shard, columns: Sequence[str] | None = None) -> pa.Table:
    """A shard's rows: id, uri and the user's columns, or some of them. Only the row groups it touches are read.

    Raises UserError for a file that is not there or broken.
    """
    first, last = shard.start // GROUP_ROWS, (shard.stop - 1) // GROUP_ROWS
    with _opened(folder, shard.file) as file, pq.ParquetFile(file, page_checksum_verification=True) as parquet:
        table = parquet.read_row_groups(list(range(first, last + 1)), columns=columns)
    return table.slice(shard.start - first * GROUP_ROWS, shard.rows)


@contextmanager
def _opened(folder: Folder, name: str) -> Iterator[BinaryIO]:
    """A manifest file, open. Raises UserError for one that is not there or broken."""
    with present(folder, name, LOST), opened(folder, name, LOST, block_size=BLOCK_BYTES) as file:
        yield file


def default_shard_rows(rows: int) -> int:
    """Rows a shard: a 64th of all, within SHARD_ROWS; a power of two, so that shards divide files and row groups."""
    low, high = SHARD_ROWS
    wanted = max(low, min(high, rows // SHARDS))
    return 1 << (wanted.bit_length() - 1)


def _id_tables(folder: Folder, files: Sequence[ManifestFile]) -> Iterator[pa.Table]:
    for file in files:
        with _opened(folder, file.name) as there:
            yield pq.read_table(there, columns=["id", "uri"])


def schema(folder: Folder, files: Sequence[ManifestFile]) -> pa.Schema:
    """The schema of a frozen manifest."""
    with _opened(folder, files[0].name) as there:
        return pq.read_schema(there).remove_metadata()


def _name(number: int) -> str:
    return f"_run/manifest/{number:06d}.parquet"


def _store(folder: Folder, name: str, rows: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, row_group_size=GROUP_ROWS, compression="zstd", write_page_checksum=True)
    folder.write(name, sink.getvalue())


def freeze(
    folder: Folder,
    listings: Sequence[Listing],
    *,
    limit: int | None = None,
    shard_rows: int | None = None,
    before: Sequence[ManifestFile] = (),
    written: Callable[[int], None] = lambda rows: None,
) -> list[ManifestFile]:
    """List the sources into manifest files that follow those `before`, leaving out ids that those hold already.

    Files that are there are left alone. Memory is bounded but for 32 bytes an id, 25 a known one. An id that comes
    twice, or a known one for another file, is refused: ids are the output's key. `limit` bounds the rows of all files
    together; `written` is told of rows as they are stored. Raises UserError.
    """
    joint = joint_schema(listing.schema for listing in listings)
    joint = grown(folder.uri, schema(folder, before), joint) if before else as_stored(joint)
    left = math.inf if limit is None else limit - sum(file.rows for file in before)
    old = Known(_id_tables(folder, before))
    there = [name.removesuffix(".parquet") for name in folder.names("_run/manifest")]
    free = 1 + max((int(name) for name in there if name.isdecimal()), default=-1)
    seen, stored = list[NDArray[np.bytes_]](), list[int]()

    def listed() -> Iterator[pa.Table]:
        for batch in _limited((old.new(batch) for listing in listings for batch in listing.batches()), left):
            seen.append(digests(batch.column("id")))
            yield pa.Table.from_batches([conformed(batch, joint)])

    for rows in regrouped(listed(), FILE_ROWS):
        patiently(partial(_store, folder, _name(free + len(stored)), rows), folder.storage)
        stored.append(rows.num_rows)
        written(sum(stored))
    each = shard_rows or default_shard_rows(sum(stored))
    files = [ManifestFile(name=_name(free + i), rows=n, shard_rows=each) for i, n in enumerate(stored)]
    if len(repeated := _repeated(seen)):
        raise UserError(_repetition(folder, files, repeated[0], "new " * bool(before)))
    return files


def _repeated(seen: list[NDArray[np.bytes_]]) -> NDArray[np.bytes_]:
    """The digests that come again, sorted. The list is emptied: there may be ten million in it."""
    every = np.concatenate(seen) if seen else np.empty(0, "S16")
    seen.clear()
    every.sort()
    again: NDArray[np.bytes_] = every[:-1][every[1:] == every[:-1]]
    return again


def _limited(batches: Iterator[pa.RecordBatch], left: float) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if batch.num_rows >= left:
            yield batch.slice(0, max(0, int(left)))
            return
        left -= batch.num_rows
        yield batch


def _repetition(folder: Folder, files: Sequence[ManifestFile], digest: bytes, new: str) -> str:
    """The sentence that names the id with this digest, and where it stands among the rows, or the `new` ones."""
    places, text, first = [], "", 1
    for table in _id_tables(folder, files):
        for index in np.flatnonzero(digests(table.column("id")) == digest):
            text = table.column("id")[int(index)].as_py()
            places.append(f"{first + int(index):,}")
        first += table.num_rows
    return (
        f"the id {text!r} comes twice ({new}rows {' and '.join(places[:2])}); "
        "name each clip once, or give ids that differ."
    )
