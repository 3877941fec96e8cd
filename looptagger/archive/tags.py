"""The output's tables: one schema, one row a clip, and the names of the parts that hold them."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from looptagger.archive.storage import Folder
from looptagger.errors import UserError
from looptagger.roles import ROLES

STATUSES = ("ok", "missing", "unreadable", "undecodable", "empty", "silent", "too_large")
STOPPED = "stopped"
"""A status that is never written: of a row by which a worker stops the job. Raised there, an error would leave Ray
Data's actors holding their CPUs for as long as Python keeps its traceback; a row comes through, and the driver raises.
"""
CHUNKS = "chunks"
"""The folder of the chunks' parts in an output."""
AGAIN = "delete it, and the part of its name beside it if there is one, and run the same `looptagger tag` again"
"""What helps where a part, or its chunks, are not as they should be."""
TORN = f"not a whole Parquet file; {AGAIN}"
ABSENT = "is gone; delete the part of that name beside it, if there is one, and run the same `looptagger tag` again"
"""The same where one of the two is not there."""
GROUP_ROWS = 131_072
EMBEDDED_GROUP_ROWS = 4_096
"""Rows a row group, and where there are embeddings: a query for a few of those reads no more than their groups."""

_WORD = pa.dictionary(pa.int32(), pa.string())
_SCORES = [pa.field(role, pa.float32()) for role in ROLES]

CLIP_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("status", _WORD, nullable=False),
        pa.field("error", pa.string()),
        *_SCORES,
        pa.field("roles", pa.list_(pa.string())),
        pa.field("duration_s", pa.float64()),
        pa.field("sample_rate", pa.int32()),
        pa.field("channels", pa.int16()),
        pa.field("codec", pa.string()),
        pa.field("n_chunks", pa.int32(), nullable=False),
        pa.field("model", _WORD, nullable=False),
    ]
)
"""looptagger's own columns of a part, in order."""

CHUNK_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("chunk", pa.int32(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        *_SCORES,
    ]
)
"""The columns of a part of OUT/chunks."""

CODE = tuple(f"embedding_code{i}" for i in range(4))
"""The columns of an embedding's code, 64 bits each: query engines compare plain numbers fastest."""
CODED_ROW = "embedding_row"
"""The clip's place in the manifest. It grows along a part, so that engines know which row groups hold some places."""


def schema(carried: pa.Schema, embedding: int = 0) -> pa.Schema:
    """The schema of every part: our columns, the embedding and its code if asked for, then the user's columns.

    Raises UserError when a manifest column has the name of one of ours, or of another, be it in other letters: query
    engines do not tell `BPM` from `bpm`.
    """
    own = list(CLIP_SCHEMA)
    if embedding:
        own += [
            pa.field("embedding", pa.list_(pa.float16(), embedding)),
            *(pa.field(name, pa.uint64()) for name in CODE),
            pa.field(CODED_ROW, pa.int64(), nullable=False),
        ]
    others = [field for field in carried if field.name not in ("id", "uri")]
    taken = {field.name for field in own} | {"embedding", *CODE, CODED_ROW}
    seen: dict[str, str] = {}
    for field in others:
        if field.name.lower() in taken or field.name.startswith("_"):
            raise UserError(f"the manifest column {field.name!r} has a name that looptagger uses itself; rename it.")
        if twin := seen.get(field.name.lower()):
            raise UserError(f"the manifest columns {twin!r} and {field.name!r} are one to query engines; rename one.")
        seen[field.name.lower()] = field.name
    return pa.schema(own + others)


@dataclass(frozen=True, order=True)
class Part:
    """A file of the output that holds the shards `first` to `last`, both included; the name says so."""

    first: int
    last: int

    def overlaps(self, other: "Part") -> bool:
        """Whether the two have a shard in common."""
        return self.first <= other.last and other.first <= self.last

    @property
    def name(self) -> str:
        """The file's name."""
        last = "" if self.first == self.last else f"-{self.last:07d}"
        return f"part-{self.first:07d}{last}.parquet"


def parse(name: str) -> Part | None:
    """The part that a file name means, or None for a file that is not ours."""
    match = re.fullmatch(r"part-(\d{7,})(?:-(\d{7,}))?\.parquet", name)
    part = Part(int(match[1]), int(match[2] or match[1])) if match else None
    return part if part and part.name == name and part.first <= part.last else None


def encoding(schema: pa.Schema) -> dict[str, Any]:
    """How Parquet stores a part: ids, URIs and places by what differs from the last one, most others by dictionary.

    Scores, codes and embeddings are all different: as they are. Byte by byte, scores would be smaller, but Spark 4.1
    and those before it read none that are so.
    """
    coded = {name: "DELTA_BYTE_ARRAY" for name in ("id", "uri") if name in schema.names}
    coded |= {CODED_ROW: "DELTA_BINARY_PACKED"} if CODED_ROW in schema.names else {}
    plain = {*CODE, "embedding"}
    others = [each for each in schema if each.name not in {*coded, *plain} and each.type != pa.float32()]
    named = [f"{each.name}.list.element" if pa.types.is_list(each.type) else each.name for each in others]
    return {"compression": "zstd", "use_dictionary": named, "column_encoding": coded, "write_page_checksum": True}


def group_rows(schema: pa.Schema) -> int:
    """Rows of a row group."""
    return EMBEDDED_GROUP_ROWS if CODED_ROW in schema.names else GROUP_ROWS


def regrouped(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of so many; the last may have fewer."""
    waiting, count = list[pa.Table](), 0
    for table in tables:
        waiting.append(table)
        count += table.num_rows
        while count >= rows:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, rows)
            waiting, count = [whole.slice(rows)], count - rows
    if count:
        yield pa.concat_tables(waiting)


def write_part(folder: Folder, name: str, table: pa.Table) -> None:
    """Write a table as one Parquet file, whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=group_rows(table.schema), **encoding(table.schema))
    folder.write(name, sink.getvalue())


def read_part(folder: Folder, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A part's rows, or some of its columns. Raises UserError for a file that is not whole Parquet."""
    with opened(folder, name) as file:
        return pq.read_table(file, columns=list(columns) if columns else None, page_checksum_verification=True)


@contextmanager
def present(folder: Folder, name: str, why: str = ABSENT) -> Iterator[None]:
    """Around what reads a part that must be there. Raises UserError where it is not."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{folder.uri}/{name}: {why}.") from None


@contextmanager
def opened(folder: Folder, name: str, why: str = TORN, **how: Any) -> Iterator[Any]:
    """A part as an open file; what then shows that it is not whole Parquet becomes a UserError."""
    with folder.reached(name):
        try:
            with folder.fs.open(folder.at(name), "rb", **how) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            if not _is_torn(error):
                raise
            raise UserError(f"{folder.uri}/{name}: {why}.") from None


def _is_torn(error: BaseException) -> bool:
    """Whether Arrow could not read what is in a file. Of damaged pages it says so as an OSError without a number."""
    return isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None)
