"""How far an output is, and whether it is whole. Reads, never writes."""

import time
from collections import Counter
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from looptagger.archive import counts, lock, manifest, output, retrying, tags
from looptagger.archive.several import several
from looptagger.archive.storage import Folder, parsed
from looptagger.errors import Unreachable, UserError

STRANGE = f"does not hold just the chunks of its clips; {tags.AGAIN}"
TRIES, PAUSE_S = 10, 0.2
"""Times that an output is read anew because a part that was listed has gone, and seconds between two."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Status:
    """Counts of an output."""

    total: int
    by_status: Counter[str]
    parts: int
    holder: str | None
    runs: list[dict[str, Any]]
    """The finished and interrupted runs' records, oldest first."""

    @property
    def done(self) -> int:
        """Clips that have a row."""
        return sum(self.by_status.values())

    @property
    def failed(self) -> int:
        """Clips whose row is a reason."""
        return self.done - self.by_status["ok"]

    @property
    def left(self) -> int:
        """Clips that have no row yet."""
        return self.total - self.done

    @property
    def clips_per_s(self) -> float | None:
        """Speed over all runs' tagging time."""
        seconds = sum(run["seconds"] for run in self.runs)
        return sum(run["clips"] for run in self.runs) / seconds if seconds else None


def settled(read: Callable[P, T]) -> Callable[P, T]:
    """Makes what reads an output begin anew where a compaction has taken a part away meanwhile. Raises UserError."""

    @wraps(read)
    def tried(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(TRIES):
            with suppress(FileNotFoundError):
                return read(*args, **kwargs)
            time.sleep(PAUSE_S)
        raise UserError("the output's parts are being joined; try again when `looptagger compact` is done.")

    return tried


@settled
def status(folder: Folder) -> Status:
    """Counts by status. Raises UserError where there is no output."""
    record = output.require(folder)
    live, _ = output.parts(folder)
    kept = counts.load(folder)
    count = lambda part: kept.get(part.name) or counts.of(tags.read_part(folder, part.name, ["status"])["status"])  # noqa: E731
    by_status = sum(several(count, live), Counter[str]())
    return Status(record.rows, by_status, len(live), lock.holder(folder), runs(folder))


def runs(folder: Folder) -> list[dict[str, Any]]:
    """The records of past runs, oldest first."""
    names = [name for name in folder.names("_run") if output.REPORT.fullmatch(name)]
    found = (parsed(folder.read(f"_run/{name}")) for name in names)
    return [run for run in found if {"clips", "seconds", "started"} <= run.keys()]  # not one cut off, or another's


@settled
def verify(folder: Folder) -> list[str]:
    """What is wrong with an output, a sentence each: torn parts, other schemas, ids lost, doubled or strange.

    A part must hold just its shards' ids in the manifest's order. Ids are unique there, so they are here.
    """
    record = output.require(folder)
    shards = manifest.shards(record.files)
    schema = output.output_schema(folder, record)
    live, stale = output.parts(folder)
    strange = [sub + name for sub in ("", f"{tags.CHUNKS}/") for name in output.strangers(folder, sub.rstrip("/"))]
    problems = [f"{part.name}: left over from a compaction; `looptagger compact` removes it" for part in stale]
    problems += [f"{name}: is no part, but *.parquet there means it, too; take it away" for name in strange]
    chunked = output.chunked(folder) if record.identity["chunks"] else None
    known = [part for part in live if part.last < len(shards)]
    model = record.identity["model"]
    look = lambda part: _part_problems(folder, part, schema, shards[part.first : part.last + 1], model, chunked)  # noqa: E731
    problems += [problem for found in several(look, known, output.readers(known)) for problem in found]
    problems += [f"{part.name}: holds shards that the manifest has not; {tags.AGAIN}" for part in live[len(known) :]]
    ends = [0, *(part.last + 1 for part in known)]
    starts = [*(part.first for part in known), len(shards)]
    problems += [_absent(end, start) for end, start in zip(ends, starts, strict=True) if end < start]
    problems += [
        f"{part.name}: holds shards that the part before it has, too; {tags.AGAIN}"
        for part, end in zip(known, ends, strict=False)
        if part.first < end
    ]
    strays = sorted((chunked or set()) - {*live})
    problems += [
        f"{tags.CHUNKS}/{part.name}: is of no part, as a job was cut off; the next one removes it" for part in strays
    ]
    if part := retrying.of(folder):
        cut = "a retry was cut off here; the next `looptagger tag` mends it"
        problems = [
            f"{tags.CHUNKS}/{part}: {cut}" if each == f"{tags.CHUNKS}/{part}: {STRANGE}" else each for each in problems
        ]
    if problems and (who := lock.holder(folder)):
        problems.insert(0, f"{who} is writing there: what follows may be of this moment; look again when it is done")
    return problems


def _absent(first: int, stop: int) -> str:
    return f"shards {first:,} to {stop - 1:,} are not tagged yet; run the same `looptagger tag` command to go on"


def _part_problems(
    folder: Folder,
    part: tags.Part,
    schema: pa.Schema,
    shards: Sequence[manifest.Shard],
    model: str,
    chunked: Set[tags.Part] | None,
) -> list[str]:
    """What is wrong with a part of some shards; and with its chunks, where `chunked` are the parts that have some."""
    ids = pa.concat_tables([manifest.read(folder, each, ["id"]) for each in manifest.spans(shards)]).column("id")
    try:
        table = tags.read_part(folder, part.name)
        if not table.schema.equals(schema):
            return [f"{part.name}: has another schema; {tags.AGAIN}"]
        if table.column("id").combine_chunks() != ids.combine_chunks():
            return [f"{part.name}: does not hold just its rows of the manifest; {tags.AGAIN}"]
        if others := set(pc.unique(table.column("model")).to_pylist()) - {model}:
            return [f"{part.name}: was made with {others.pop()}, not with {model}; {tags.AGAIN}"]
        if chunked is None:
            return []
        name = f"{tags.CHUNKS}/{part.name}"
        return _chunk_problems(folder, name, table) if part in chunked else [f"{name}: {tags.ABSENT}"]
    except UserError as error:
        if isinstance(error, Unreachable) and not folder.is_local:
            raise  # a store is away; on a disk, it is this part
        return [str(error)]


def _chunk_problems(folder: Folder, name: str, clips: pa.Table) -> list[str]:
    """What is wrong with the chunks of a part's clips: each clip has as many as it says."""
    ids, found = clips.column("id").combine_chunks(), np.zeros(clips.num_rows, np.int64)
    with tags.opened(folder, name) as file, pq.ParquetFile(file, page_checksum_verification=True) as parquet:
        if not parquet.schema_arrow.equals(tags.CHUNK_SCHEMA):
            return [f"{name}: has another schema; {tags.AGAIN}"]
        for batch in parquet.iter_batches(columns=["id"]):
            at = pc.index_in(batch.column("id"), value_set=ids).fill_null(-1).to_numpy()
            if (at < 0).any():
                return [f"{name}: {STRANGE}"]
            found += np.bincount(at, minlength=len(found))
    return [] if (found == clips.column("n_chunks").to_numpy()).all() else [f"{name}: {STRANGE}"]
