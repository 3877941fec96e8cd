"""Manifests that users bring: Parquet, CSV or JSONL with `uri`, perhaps `id`, and any other columns.

CSV and JSONL are read twice, block by block: first for the types of their columns, which a late row may widen.
"""

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from looptagger.archive.columns import PANDAS, joint
from looptagger.archive.storage import scheme
from looptagger.errors import UserError, one_line

BATCH_ROWS = 65_536
ENDINGS = (".parquet", ".csv", ".jsonl", ".ndjson")
TEXT = {"id": pa.string(), "uri": pa.string()}
JSON_BYTES = 16 << 20
"""Of JSON lines parsed at once."""
LINE_BYTES = 64 << 20


Opener = Callable[[], BinaryIO]


@dataclass(frozen=True)
class TableReader:
    """An open manifest: the schema of its batches, and the batches."""

    schema: pa.Schema
    batches: Callable[[], Iterator[pa.RecordBatch]]


def is_manifest(source: str) -> bool:
    """Whether a source's ending says that it is a manifest rather than audio."""
    return source.lower().endswith(ENDINGS)


def open_table(fs: Any, name: str, path: str) -> TableReader:
    """Open a manifest; relative URIs in it count from its own folder.

    Raises UserError when it is not there, cannot be read, or has no `uri`.
    """
    reader = _reader(fs, name, path)
    if unclear := [key for key in reader.schema.names if not key or reader.schema.names.count(key) > 1]:
        raise UserError(f"{name}: every column of a manifest needs a name of its own; {unclear[0]!r} is not one.")
    if "uri" not in reader.schema.names:
        columns = ", ".join(reader.schema.names) or "none"
        raise UserError(f"{name}: a manifest needs a column `uri`; this one has {columns}.")
    others = [column for column in reader.schema if column.name not in TEXT and not column.name.startswith(PANDAS)]
    schema = pa.schema([pa.field(key, kind) for key, kind in TEXT.items()] + others)
    base = name.rpartition("/")[0] if scheme(name) != "file" else path.rpartition("/")[0]

    def batches() -> Iterator[pa.RecordBatch]:
        first = 0
        try:
            for batch in reader:
                yield _normal(batch, schema, base, name, first)
                first += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{name}: cannot be read as a manifest: {one_line(error)}.") from None

    return TableReader(schema, batches)


class _Batches:
    """A uniform face for pyarrow's three streaming readers: `schema`, and iteration over record batches."""

    def __init__(self, schema: pa.Schema, batches: Callable[[], Iterator[pa.RecordBatch]]) -> None:
        self.schema = schema
        self._batches = batches

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self._batches()


def _reader(fs: Any, name: str, path: str) -> _Batches:
    try:
        opened = partial(fs.open, path, "rb")
        if name.lower().endswith(".parquet"):
            return _parquet(opened)
        return (_csv if name.lower().endswith(".csv") else _json)(opened)
    except FileNotFoundError:
        raise UserError(f"{name}: no such manifest; check the path.") from None
    except PermissionError:
        raise UserError(f"{name}: no permission to read this manifest.") from None
    except Exception as error:  # Arrow and client libraries raise their own kinds
        raise UserError(f"{name}: cannot be read as a manifest: {one_line(error)}.") from None


def _parquet(opened: Opener) -> _Batches:
    """A Parquet file, open only while it is read: there may be thousands."""

    def batches() -> Iterator[pa.RecordBatch]:
        with opened() as file, pq.ParquetFile(file) as parquet:
            yield from parquet.iter_batches(BATCH_ROWS)

    with opened() as file, pq.ParquetFile(file) as parquet:
        return _Batches(parquet.schema_arrow, batches)


def _csv(opened: Opener) -> _Batches:
    """A CSV file, its columns widened until every row fits: Arrow takes types from the first block."""
    types = dict(TEXT)

    def rows_of(file: BinaryIO) -> pa.csv.CSVStreamingReader:
        convert = pa.csv.ConvertOptions(column_types=types)
        return pa.csv.open_csv(file, parse_options=MANY_LINES, convert_options=convert)

    def batches() -> Iterator[pa.RecordBatch]:
        with opened() as file:
            yield from map(_quoted, rows_of(file))

    schema = pa.schema([])
    while True:
        with opened() as file:
            try:
                rows = rows_of(file)
                schema = rows.schema
                whole = {column.name: pa.uint64() for column in schema if column.type == pa.float64()}
                if whole.keys() - types:  # Arrow takes them for fractions, which lose digits of 64 bits
                    types = whole | types
                    continue
                for batch in rows:
                    _quoted(batch)
                return _Batches(schema, batches)
            except pa.ArrowInvalid as error:
                field = _refused(error, schema)
                tried = None if field is None else types.get(field.name, field.type)
                if field is None or tried == pa.string():
                    raise
                types[field.name] = WIDER.get(tried, pa.string())


MOST_LINES = 1_000
"""Of one text in a CSV file."""
MANY_LINES = pa.csv.ParseOptions(newlines_in_values=True)
"""Without it, Arrow cuts a file into blocks where a quoted text breaks a line, and invents rows."""


WIDER = {pa.null(): pa.int64(), pa.int64(): pa.uint64(), pa.uint64(): pa.float64()}
"""What a CSV column is taken for next when a value does not fit; others become text."""


def _quoted(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch whose texts end. Raises ArrowInvalid for one that is many rows, for want of a second quote."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_string(column.type) and (pc.max(pc.count_substring(column, "\n")).as_py() or 0) > MOST_LINES:
            raise pa.ArrowInvalid(f"a value of {name!r} has over {MOST_LINES:,} lines: is a quote not closed?")
    return batch


def _refused(error: pa.ArrowInvalid, schema: pa.Schema) -> pa.Field | None:
    """The column whose value did not fit, or None where that is not what is wrong."""
    number = re.match(r"In CSV column #(\d+)", str(error))
    return schema.field(int(number[1])) if number and len(schema) else None


def _json(opened: Opener) -> _Batches:
    """A file of JSON lines, with the columns and types that all of its rows together have."""
    schema = reduce(joint, (_parsed(lines).schema for lines in _blocks(opened)), pa.schema([]))
    whole = pa.schema([_as_written(column) if column.name in TEXT else column for column in schema])
    kept = whole  # a fraction in the place of an id does not become one, 1.0 does
    if whole != schema and _fits(opened, whole):
        schema = whole

    def batches() -> Iterator[pa.RecordBatch]:
        for lines in _blocks(opened):
            yield from _parsed(lines, schema).select(schema.names).cast(kept).to_batches()

    return _Batches(kept, batches)


def _fits(opened: Opener, schema: pa.Schema) -> bool:
    """Whether all lines of a file can be read as a schema says: numbers written 1.0 are no whole ones to Arrow."""
    try:
        for lines in _blocks(opened):
            _parsed(lines, schema)
    except pa.ArrowInvalid:
        return False
    return True


def _as_written(column: pa.Field) -> pa.Field:
    """An id or URI that Arrow took for a time, or for a fraction because it has 64 bits: the type that keeps it."""
    if pa.types.is_timestamp(column.type):
        return column.with_type(pa.string())
    return column.with_type(pa.uint64()) if pa.types.is_floating(column.type) else column


def _blocks(opened: Opener) -> Iterator[bytes]:
    """A file's lines, some megabytes at a time. Raises ValueError where a line is longer than LINE_BYTES."""
    with opened() as file:
        rest = b""
        while block := file.read(JSON_BYTES):
            lines, newline, rest = (rest + block).rpartition(b"\n")
            if lines.strip():
                yield lines + newline
            if len(rest) > LINE_BYTES:
                raise ValueError(f"a line is longer than {LINE_BYTES >> 20} MB")
        if rest.strip():
            yield rest


def _parsed(lines: bytes, schema: pa.Schema | None = None) -> pa.Table:
    whole = pa.json.ReadOptions(block_size=len(lines))  # in smaller blocks, no line could be longer than one
    return pa.json.read_json(io.BytesIO(lines), whole, pa.json.ParseOptions(explicit_schema=schema))


def _normal(batch: pa.RecordBatch, schema: pa.Schema, base: str, name: str, first: int) -> pa.RecordBatch:
    """A batch with `id` and `uri` as text first; a missing id is the URI, a relative URI is made absolute."""
    batch.validate(full=True)  # Parquet's text need not be UTF-8
    uri = batch.column("uri").cast(pa.string())
    if uri.null_count or (pc.min(pc.utf8_length(uri)).as_py() or 0) == 0:
        row = first + pc.index(pc.fill_null(pc.equal(uri, ""), True), True).as_py()
        raise UserError(f"{name}: row {row + 1} has no uri; fill it in or drop the row.")
    relative = pc.invert(pc.match_substring_regex(uri, r"^(/|[A-Za-z][A-Za-z0-9+.-]*://)"))
    uri = pc.if_else(relative, pc.binary_join_element_wise(base, uri, "/"), uri)
    ids = batch.column("id").cast(pa.string()) if "id" in batch.schema.names else uri
    ids = pc.if_else(pc.equal(pc.fill_null(ids, ""), ""), uri, ids)
    others = [batch.column(column) for column in schema.names[2:]]
    return pa.record_batch([ids, uri, *others], schema=schema)
