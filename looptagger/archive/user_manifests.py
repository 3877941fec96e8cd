"""Manifests that users bring: Parquet, CSV or JSONL with `uri`, perhaps `id`, and any other columns."""

import os
import posixpath
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from looptagger.archive.columns import PANDAS, Listing, without_views
from looptagger.archive.disk import uri_of
from looptagger.archive.storage import scheme
from looptagger.archive.text_manifests import TEXT, Opener, read_csv, read_json
from looptagger.errors import UserError, one_line

BATCH_ROWS = 8_192
"""Rows of Parquet read at once: a file of 2 kB can hold a long text in each."""
ENDINGS = (".parquet", ".csv", ".jsonl", ".ndjson")
UNREAD = re.compile(
    r"\.(tsv|json|xlsx?|ods|arrow|feather|orc|avro|(csv|tsv|jsonl?|ndjson)\.(gz|bz2|xz|zst|zip))$", re.I
)
"""Endings of tables that we do not read. As audio, each would be a row that cannot be decoded."""
HEAD = 12
"""Letters of a URI in which its scheme ends."""
DOTS = r"(^|/)\.\.?(/|$)"


def is_manifest(source: str) -> bool:
    """Whether a source's ending says that it is a manifest rather than audio."""
    return source.lower().endswith(ENDINGS)


def open_table(fs: Any, name: str, path: str) -> Listing:
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
    others = [column.with_type(without_views(column.type)) for column in others]
    schema = pa.schema([pa.field(key, kind) for key, kind in TEXT.items()] + others)
    base = name.rpartition("/")[0] if scheme(name) != "file" else uri_of(os.fsencode(path.rpartition("/")[0]))

    def batches() -> Iterator[pa.RecordBatch]:
        first = 0
        try:
            for batch in reader.batches():
                yield _normal(batch, schema, base, name, first)
                first += batch.num_rows
        except UserError:
            raise
        except Exception as error:  # Arrow and client libraries raise their own kinds
            raise UserError(f"{name}: cannot be read as a manifest: {one_line(error)}.") from None

    return Listing(schema, batches)


def _reader(fs: Any, name: str, path: str) -> Listing:
    try:
        opened = partial(fs.open, path, "rb")
        if name.lower().endswith(".parquet"):
            return _parquet(opened)
        return (read_csv if name.lower().endswith(".csv") else read_json)(opened)
    except FileNotFoundError:
        raise UserError(f"{name}: no such manifest; check the path.") from None
    except PermissionError:
        raise UserError(f"{name}: no permission to read this manifest.") from None
    except Exception as error:  # Arrow and client libraries raise their own kinds
        raise UserError(f"{name}: cannot be read as a manifest: {one_line(error)}.") from None


def _parquet(opened: Opener) -> Listing:
    """A Parquet file, open only while it is read: there may be thousands."""

    def batches() -> Iterator[pa.RecordBatch]:
        with opened() as file, pq.ParquetFile(file) as parquet:
            yield from parquet.iter_batches(BATCH_ROWS)

    with opened() as file, pq.ParquetFile(file) as parquet:
        return Listing(parquet.schema_arrow, batches)


def _normal(batch: pa.RecordBatch, schema: pa.Schema, base: str, name: str, first: int) -> pa.RecordBatch:
    """A batch with `id` and `uri` as text first; a missing id is the URI, a relative URI is made absolute."""
    batch.validate(full=True)  # Parquet's text need not be UTF-8
    uri = _text(batch.column("uri"))
    if uri.null_count or (pc.min(pc.utf8_length(uri)).as_py() or 0) == 0:
        row = first + pc.index(pc.fill_null(pc.equal(uri, ""), True), True).as_py()
        raise UserError(f"{name}: row {row + 1} has no uri; fill it in or drop the row.")
    uri = _joined(base, uri)
    _check_schemes(uri, name)
    ids = _text(batch.column("id")) if "id" in batch.schema.names else uri
    ids = pc.if_else(pc.equal(pc.fill_null(ids, ""), ""), uri, ids)
    others = [_as(batch.column(field.name), field.type) for field in list(schema)[2:]]
    return pa.record_batch([ids, uri, *others], schema=schema)


def _check_schemes(uris: pa.Array, name: str) -> None:
    """Refuse URIs of a scheme whose package is not here, before all of them fail. Raises UserError."""
    heads = pc.unique(pc.utf8_slice_codeunits(uris, 0, HEAD)).to_pylist()
    for kind in {scheme(head) for head in heads} - {"file"}:
        try:
            fsspec.get_filesystem_class(kind)
        except ImportError as error:
            raise UserError(f"{name}: {kind}:// cannot be reached ({one_line(error)}).") from None
        except ValueError:
            pass  # no scheme at all: the reason of each of its rows


def _as(column: pa.Array, kind: pa.DataType) -> pa.Array:
    return column if column.type == kind else column.cast(kind)


def _text(column: pa.Array) -> pa.Array:
    """A column as text. Arrow's own cast takes the bytes of a UUID, as DuckDB makes them, for letters."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
    return column.cast(pa.string())


def _joined(base: str, uris: pa.Array) -> pa.Array:
    """Relative URIs made absolute. Folders know `..` in a path; in a store's keys it is taken out here."""
    relative = pc.invert(pc.match_substring_regex(uris, r"^(/|file:/|[A-Za-z][A-Za-z0-9+.-]*://)"))
    uris = pc.replace_substring_regex(uris, r"^file:/([^/])", r"file:///\1")  # as Java writes it
    whole = pc.if_else(relative, pc.binary_join_element_wise(base, uris, "/"), uris)
    dotted = pc.and_(relative, pc.match_substring_regex(uris, DOTS))
    if "://" not in base or not pc.any(dotted).as_py():
        return whole
    start = len("/".join(base.split("/")[:3]))  # scheme and bucket
    plain = [each[:start] + posixpath.normpath(each[start:]) for each in whole.filter(dotted).to_pylist()]
    return pc.replace_with_mask(whole, dotted, pa.array(plain, pa.string()))
