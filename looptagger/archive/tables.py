"""Manifests that users bring: Parquet, CSV or JSONL with `uri`, perhaps `id`, and any other columns."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from looptagger.archive.storage import scheme
from looptagger.errors import UserError, one_line

BATCH_ROWS = 65_536
ENDINGS = (".parquet", ".csv", ".jsonl", ".ndjson")
TEXT = {"id": pa.string(), "uri": pa.string()}


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
    if "uri" not in reader.schema.names:
        columns = ", ".join(reader.schema.names) or "none"
        raise UserError(f"{name}: a manifest needs a column `uri`; this one has {columns}.")
    others = [column for column in reader.schema if column.name not in TEXT]
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
        file = fs.open(path, "rb")
        if name.lower().endswith(".parquet"):
            parquet = pq.ParquetFile(file)
            return _Batches(parquet.schema_arrow, lambda: parquet.iter_batches(BATCH_ROWS))
        if name.lower().endswith(".csv"):
            text = pa.csv.ConvertOptions(column_types=TEXT)
            rows = pa.csv.open_csv(file, convert_options=text)
        else:
            rows = pa.json.open_json(file)
        return _Batches(rows.schema, lambda: iter(rows))
    except FileNotFoundError:
        raise UserError(f"{name}: no such manifest; check the path.") from None
    except PermissionError:
        raise UserError(f"{name}: no permission to read this manifest.") from None
    except Exception as error:  # Arrow and client libraries raise their own kinds
        raise UserError(f"{name}: cannot be read as a manifest: {one_line(error)}.") from None


def _normal(batch: pa.RecordBatch, schema: pa.Schema, base: str, name: str, first: int) -> pa.RecordBatch:
    """A batch with `id` and `uri` as text first; a missing id is the URI, a relative URI is made absolute."""
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
