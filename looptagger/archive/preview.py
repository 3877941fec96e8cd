"""An output's rows for people: the first ones, those that are surest of a role, or all as CSV."""

import re
from itertools import chain
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from looptagger.archive import manifest, output, tags
from looptagger.archive.status import settled
from looptagger.archive.storage import Folder
from looptagger.errors import UserError
from looptagger.roles import ROLES

PLAIN = ("id", "uri", *ROLES, "roles", "duration_s", "status", "error")
"""Columns of the CSV, before those of the manifest: what fits into a cell."""


@settled
def head(folder: Folder, rows: int, role: str | None = None) -> pa.Table:
    """An output's first rows in the manifest's order, or those with the highest scores of a role. Raises UserError."""
    output.require(folder)
    found = tags.CLIP_SCHEMA.empty_table()
    for table in output.rows(folder, tags.CLIP_SCHEMA.names):
        scored = table.filter(pc.equal(table.column("status"), "ok")) if role else table
        found = pa.concat_tables([found, scored], promote_options="permissive")
        if role:
            found = found.take(pc.select_k_unstable(found, rows, [(role, "descending")]))
        elif found.num_rows >= rows:
            break
    return found.slice(0, rows)


FORMULA = r"^([=+@\t\r-])"
"""How texts begin that spreadsheets compute. With a ' before them they stay what they are."""


def write_csv(folder: Folder, to: BinaryIO) -> None:
    """All rows as CSV, in the manifest's order, roles with a space between, then what the manifest has for cells.

    Raises UserError where there is no output, or where parts are joined just then.
    """
    record = output.require(folder)
    carried = [column for column in manifest.schema(folder, record.files) if column.name not in PLAIN]
    wanted = pa.schema(
        [
            *(tags.CLIP_SCHEMA.field(name) for name in PLAIN),
            *(column for column in carried if _fits(column.type)),
        ]
    )
    is_first = True
    try:
        for table in chain(output.rows(folder, wanted.names), [wanted.empty_table()]):  # columns without a part, too
            cells = {_cell(name): _cells(table.column(name)) for name in wanted.names}
            csv.write_csv(pa.table(cells), to, csv.WriteOptions(include_header=is_first))
            is_first = False
    except FileNotFoundError:
        raise UserError(f"{folder.uri}: its parts are being joined just now; ask again.") from None


def _fits(kind: pa.DataType) -> bool:
    """Whether a cell holds it: no list, no bytes."""
    if pa.types.is_dictionary(kind):
        return _fits(kind.value_type)
    types = pa.types
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    return not (types.is_nested(kind) or is_bytes or isinstance(kind, pa.BaseExtensionType))


def _cell(text: str) -> str:
    return re.sub(FORMULA, r"'\1", text)


def _cells(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _cells(column.cast(kind.value_type))
    if pa.types.is_list(kind):
        return pc.binary_join(column, " ")
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return pc.replace_substring_regex(column, FORMULA, r"'\1") if is_text else column
