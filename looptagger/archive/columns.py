"""What sources give, batch by batch, and the types of their columns: one for all sources, as Parquet holds it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from looptagger.errors import UserError, one_line

PANDAS = "__index_level_"
"""How pandas calls the row numbers that it stores beside the columns."""


@dataclass(frozen=True)
class Listing:
    """A source: its schema (id, uri, the user's columns), and its rows batch by batch, as often as one likes."""

    schema: pa.Schema
    batches: Callable[[], Iterator[pa.RecordBatch]]
    skipped: Counter[str] = field(default_factory=Counter)
    """Files passed over because they are hidden or no audio, by their endings."""


def joint(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    """The schema that rows of both fit; what looks like a time in one only is text. Raises Arrow's errors."""
    for name in set(one.names) & set(other.names):
        both = {one.field(name).type, other.field(name).type}
        if len(both) > 1 and any(map(pa.types.is_dictionary, both)):  # a category here, its text there
            both = {kind.value_type if pa.types.is_dictionary(kind) else kind for kind in both}
            one, other = (_as_values(each, name) for each in (one, other))
        if pa.string() in both and any(map(pa.types.is_temporal, both)):
            one, other = (each.set(each.get_field_index(name), pa.field(name, pa.string())) for each in (one, other))
        elif pa.uint64() in both and all(map(pa.types.is_integer, both)):  # signed ones do not hold its values
            one, other = (each.set(each.get_field_index(name), pa.field(name, pa.uint64())) for each in (one, other))
        elif both == {pa.string(), pa.binary()}:
            raise pa.ArrowTypeError(f"{name} is text in one and bytes in another")
    return pa.unify_schemas([one, other], promote_options="permissive")


def _as_values(schema: pa.Schema, name: str) -> pa.Schema:
    """A schema in which a column of categories is one of their values."""
    field = schema.field(name)
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return schema.set(schema.get_field_index(name), field.with_type(kind))


def joint_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """One schema for all sources. Raises UserError where no type holds what two have in the same column."""
    try:
        return reduce(joint, schemas)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise _disagreement(one_line(error)) from None


def _disagreement(why: str) -> UserError:
    """The sentence for sources whose columns no type holds together."""
    return UserError(f"the sources' columns do not agree: {why}; tag them into two outputs.")


def as_stored(schema: pa.Schema) -> pa.Schema:
    """A schema as it comes back from Parquet, which knows no seconds: `timestamp[s]` is then in milliseconds.

    No column is required any more: a later source may lack it. Raises UserError for types that Parquet cannot hold.
    """
    plain = pa.schema([column.with_type(_plain(column.type)).with_nullable(True) for column in schema])
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(plain.empty_table(), sink)
        return pq.read_schema(pa.BufferReader(sink.getvalue())).remove_metadata()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"the manifest has columns that Parquet cannot store: {one_line(error)}; drop them.") from None


VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def without_views(kind: pa.DataType, others: Mapping[pa.DataType, pa.DataType] = VIEWS) -> pa.DataType:
    """A type without views, as Polars makes them, which Arrow cannot pick rows from."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(without_views(field.type, others)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        make = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return make(kind.value_field.with_type(without_views(kind.value_type, others)))
    return others.get(kind, kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The same, with text for a column that holds nothing yet."""
    return without_views(kind, {**VIEWS, pa.null(): pa.string()})


def grown(output: str, old: pa.Schema, new: pa.Schema) -> pa.Schema:
    """The schema for what is added to an output: its own, for its parts are written. Raises UserError.

    Whether each new number fits, `conformed` finds; what is no number does not become one.
    """
    kept = [name for name in old.names if not name.startswith(PANDAS)]
    if set(kept) != set(new.names):
        columns = ", ".join(kept[2:]) or "none"
        raise UserError(f"{output}: holds the manifest columns {columns}; give the same ones or another output.")
    for name in kept:
        had, now = old.field(name).type, new.field(name).type
        if pa.null() not in (had, now) and not _are_kin(had, _plain(now)):
            raise UserError(f"{output}: holds {had} in {name!r}, which is {now} now; choose another output.")
    return old


def _are_kin(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether a cast keeps what a value means: the same types, numbers, texts, or times of one kind."""
    kinds: tuple[Callable[[pa.DataType], bool], ...] = (
        lambda kind: pa.types.is_integer(kind) or pa.types.is_floating(kind),
        lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
        lambda kind: pa.types.is_timestamp(kind) and kind.tz is None,
        lambda kind: pa.types.is_timestamp(kind) and kind.tz is not None,
    )
    return one == other or any(is_one(one) and is_one(other) for is_one in kinds)


def conformed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch with all of the schema's columns; those that its source lacks are null.

    Raises UserError where a value does not fit: whole numbers over 2**53 beside fractions, a fraction added to whole
    numbers, ...
    """
    return pa.record_batch([_fitted(batch, field) for field in schema], schema=schema)


def _infinite(column: pa.Array) -> int:
    return pc.sum(pc.is_inf(column)).as_py() or 0 if pa.types.is_floating(column.type) else 0


def _fitted(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    column = batch.column(field.name) if field.name in batch.schema.names else None
    if column is None or column.null_count == len(column):
        return pa.nulls(batch.num_rows, field.type)
    try:
        found = column.cast(field.type)
        if pa.types.is_floating(field.type) and _infinite(found) > _infinite(column):
            raise pa.ArrowInvalid(f"a number is too large for {field.type}")
        return found
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise _disagreement(f"in {field.name!r}, {one_line(error)}") from None
