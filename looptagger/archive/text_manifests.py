"""Manifests that are text, CSV and JSON lines, as Arrow batches.

Each is read block by block, and more than once: first for the types of its columns, which a late row may widen.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import accumulate
from pathlib import PurePosixPath
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from looptagger.archive.columns import Listing, joint

TEXT = {"id": pa.string(), "uri": pa.string()}
JSON_BYTES = 16 << 20
"""Of JSON lines parsed at once."""
LINE_BYTES = 64 << 20
DEEPEST = 100
"""Lists and groups in one another. Parquet could not hold more either."""

Opener = Callable[[], BinaryIO]


def read_csv(opened: Opener) -> Listing:
    """A CSV file, its columns widened until every row fits: Arrow takes types from the first block."""
    types = dict(TEXT)

    def rows_of(file: BinaryIO) -> pa.csv.CSVStreamingReader:
        convert = pa.csv.ConvertOptions(column_types=types)
        return pa.csv.open_csv(file, parse_options=MANY_LINES, convert_options=convert)

    def batches() -> Iterator[pa.RecordBatch]:
        with opened() as file:
            yield from rows_of(file)

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
                breaks = sum(map(_line_breaks, rows))
                if coded := [column.name for column in schema if pa.types.is_binary(column.type)]:
                    raise pa.ArrowInvalid(f"the column {coded[0]!r} is not UTF-8; save the file as UTF-8")
                if breaks:
                    _check_rows(opened, schema.names)
                return Listing(schema, batches)
            except pa.ArrowInvalid as error:
                field = _refused(error, schema)
                tried = None if field is None else types.get(field.name, field.type)
                if field is None or tried == pa.string():
                    raise
                types[field.name] = WIDER.get(tried, pa.string()) if NUMBER.search(str(error)) else pa.string()


MOST_LINES = 1_000
"""Line breaks of one text in a CSV file; of an id and a URI, none."""
MANY_LINES = pa.csv.ParseOptions(newlines_in_values=True)
"""Without it, Arrow cuts a file into blocks where a quoted text breaks a line, and invents rows."""


WIDER = {pa.null(): pa.int64(), pa.int64(): pa.uint64(), pa.uint64(): pa.float64()}
"""What a CSV column is taken for next when a value does not fit; others become text."""


NUMBER = re.compile(r"invalid value '([-+0-9.e\s]*|[-+]?inf(inity)?)'", re.I)
"""In Arrow's words for a value that a wider number may fit."""


def _line_breaks(batch: pa.RecordBatch) -> int:
    """The most that a text has. Raises ArrowInvalid for one that is many rows, for a quote too few or too many."""
    found = 0
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        most = 0 if name in TEXT else MOST_LINES
        here = pc.max(pc.count_substring(column, "\n")).as_py() or 0 if pa.types.is_string(column.type) else 0
        found = max(found, here)
        if here > most:
            many = f"over {most:,}" if most else "several"
            why = "is a quote not closed? (In JSON lines, names may have several)"
            raise pa.ArrowInvalid(f"a value of {name!r} has {many} lines: {why}")
    return found


def _check_rows(opened: Opener, columns: Sequence[str]) -> None:
    """Refuse a text of several lines that has rows in it: Arrow takes all from a stray quote to the next for one value.

    A row has as many fields, and a URI of the same kind. A text that has no end has the rows below it. Raises
    ArrowInvalid.
    """
    if "uri" not in columns or len(columns) < 2:
        return
    place, quotes, row = columns.index("uri"), 0, list[str]()
    csv.field_size_limit(LINE_BYTES)

    def lines() -> Iterator[str]:
        nonlocal quotes
        for line in text:
            quotes += line.count('"')
            yield line

    with opened() as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        rows = csv.reader(lines())
        try:
            for row in rows:
                inner = (line.split(",") for value in row if "\n" in value for line in value.splitlines()[1:])
                kind = _kind("".join(row[place : place + 1]))
                if kind and any(len(line) == len(columns) and _kind(line[place]) == kind for line in inner):
                    why = "is a quote not closed? (In JSON lines and Parquet, texts may have such lines)"
                    raise pa.ArrowInvalid(f"line {rows.line_num:,}: a text of several lines has rows in it: {why}")
        except csv.Error as error:
            raise pa.ArrowInvalid(f"line {rows.line_num:,}: {error}") from None
    if quotes % 2 and any("\n" in value for value in row):
        raise pa.ArrowInvalid("the last value has several lines and no end: is a quote not closed?")


def _kind(uri: str) -> str:
    """What the URIs of a manifest have in common: the ending, or else the scheme; a text that is none has neither."""
    return PurePosixPath(uri).suffix.lower() or (uri.partition("://")[0] if "://" in uri else "")


def _refused(error: pa.ArrowInvalid, schema: pa.Schema) -> pa.Field | None:
    """The column whose value did not fit, or None where that is not what is wrong."""
    number = re.match(r"In CSV column #(\d+)", str(error))
    return schema.field(int(number[1])) if number and len(schema) else None


def read_json(opened: Opener) -> Listing:
    """A file of JSON lines, with the columns and types that all of its rows together have."""
    schema = reduce(joint, _schemas(opened), pa.schema([]))
    for place, column in enumerate(schema):
        wider = schema.set(place, _as_written(column))
        if wider != schema and _fits(opened, wider):
            schema = wider
    # A fraction in the place of an id does not become one, 1.0 does.
    kept = pa.schema([_as_written(column) if column.name in TEXT else column for column in schema])

    def batches() -> Iterator[pa.RecordBatch]:
        for lines in _blocks(opened):
            yield from _parsed(lines, schema).select(schema.names).cast(kept).to_batches()

    return Listing(kept, batches)


def _schemas(opened: Opener) -> Iterator[pa.Schema]:
    """Each block's columns and types. Arrow counts rows from the block's first one; an error says the file's line."""
    before = 0
    for lines in _blocks(opened):
        _check_depth(lines)
        try:
            yield _parsed(lines).schema
        except pa.ArrowInvalid as error:
            named = ROW.search(str(error))
            line = f"line {before + int(named[1]) + 1:,}" if named else ""
            raise pa.ArrowInvalid(ROW.sub(line, str(error))) from None
        before += lines.count(b"\n")


ROW = re.compile(r"row (\d+)")
"""How Arrow names a row of JSON, from 0."""


def _fits(opened: Opener, schema: pa.Schema) -> bool:
    """Whether all lines of a file can be read as a schema says: numbers written 1.0 are no whole ones to Arrow."""
    try:
        for lines in _blocks(opened):
            _parsed(lines, schema)
    except pa.ArrowInvalid:
        return False
    return True


def _as_written(column: pa.Field) -> pa.Field:
    """A column that Arrow took for fractions, perhaps because they have 64 bits, an id or URI that it took for times:
    with the type that keeps them.
    """
    if pa.types.is_timestamp(column.type) and column.name in TEXT:
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


def _check_depth(lines: bytes) -> None:
    """Refuse values in values in values, of which Arrow does not come back. Raises ValueError."""
    for line in lines.split(b"\n"):
        if line.count(b"[") + line.count(b"{") > DEEPEST:
            bare = re.sub(rb'"[^"]*"?', b"", line.replace(rb"\\", b"").replace(rb"\"", b""))  # without texts
            steps = (1 if bracket in b"[{" else -1 for bracket in re.findall(rb"[][{}]", bare))
            if max(accumulate(steps), default=0) > DEEPEST:
                raise ValueError(f"a line has values over {DEEPEST} deep")


def _parsed(lines: bytes, schema: pa.Schema | None = None) -> pa.Table:
    whole = pa.json.ReadOptions(block_size=len(lines))  # in smaller blocks, no line could be longer than one
    return pa.json.read_json(io.BytesIO(lines), whole, pa.json.ParseOptions(explicit_schema=schema))
