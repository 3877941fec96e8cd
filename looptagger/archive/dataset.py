"""An output as a whole: what it is the tags of, what is done, what is left. Its parts are its only ledger."""

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
from pydantic import ValidationError

from looptagger.archive import counts, manifest, tags
from looptagger.archive.manifest import ManifestFile, Shard
from looptagger.archive.sources import Listing, joint_schema, open_sources
from looptagger.archive.storage import Folder
from looptagger.config import Settings, Storage
from looptagger.errors import UserError

RECORD = "_run/dataset.json"
CHUNKS = "chunks"


class Record(Settings):
    """`_run/dataset.json`: written last, so that an output either has it and a whole manifest, or has neither."""

    format: Literal[1] = 1
    identity: dict[str, Any]
    """The model, its audio, the chunking and the tables asked for: what all rows must share."""
    sources: tuple[str, ...]
    limit: int | None = None
    files: tuple[ManifestFile, ...]

    @property
    def rows(self) -> int:
        """Rows of the manifest: the clips that a finished output holds."""
        return sum(file.rows for file in self.files)


@dataclass(frozen=True)
class Work:
    """Rows of one shard still to be tagged, and the part they go into. `only` picks rows; None is all of them."""

    part: str
    shard: Shard
    offset: int = 0
    """Place in the part of the shard's first row."""
    only: tuple[int, ...] | None = None

    @property
    def rows(self) -> int:
        """How many rows are to be tagged."""
        return self.shard.rows if self.only is None else len(self.only)


def load(folder: Folder) -> Record | None:
    """The record of an output, or None where there is none. Raises UserError for one we did not write."""
    data = folder.read(RECORD)
    if data is None:
        return None
    try:
        return Record.model_validate(json.loads(data))
    except (ValueError, ValidationError):
        raise UserError(f"{folder.uri}/{RECORD}: not a record of this looptagger; choose another output.") from None


def require(folder: Folder) -> Record:
    """The record of an output that must be there."""
    record = load(folder)
    if record is None:
        raise UserError(f"{folder.uri}: no looptagger output there; `looptagger tag SOURCE -o {folder.uri}` makes one.")
    return record


def save(folder: Folder, record: Record) -> None:
    """Store the record."""
    folder.write(RECORD, json.dumps(record.model_dump(), indent=1).encode())


def check_place(out: str) -> None:
    """Refuse an output that is a file. Raises UserError."""
    folder = Folder(out)
    if folder.is_local and folder.fs.isfile(folder.path):
        raise UserError(f"{out}: is a file; give a folder for the output.")


def check_there(folder: Folder) -> None:
    """Refuse to go on with a local output that was moved or deleted meanwhile. Raises UserError."""
    if folder.is_local and not os.path.exists(folder.at(RECORD)):
        raise UserError(f"{folder.uri}: is gone; put it back and run the same command, or run it to start anew.")


@dataclass(frozen=True)
class Request:
    """What a job is asked to put into an output."""

    identity: Mapping[str, Any]
    sources: tuple[str, ...]
    limit: int | None = None
    update: bool = False
    overwrite: bool = False
    shard_rows: int | None = None


def prepare(folder: Folder, request: Request, storage: Storage, listed: Callable[[int], None]) -> Record:
    """Make an output, or find it ready to go on, or add to it. The caller holds its lock.

    Raises UserError when it holds something else, naming what differs; then nothing is changed.
    """
    record = load(folder)
    if record is not None and request.overwrite:
        clear(folder)
        record = None
    if record is None:
        _refuse_strangers(folder)
        return _extended(folder, request, storage, listed)
    _refuse_difference(folder, record, request)
    if record.sources != request.sources and not request.update:
        raise UserError(
            f"{folder.uri}: holds the tags of {' '.join(record.sources)}; add --update to take in "
            f"{' '.join(request.sources)} too, or choose another output."
        )
    grows = record.limit is not None and (request.limit is None or request.limit > record.limit)
    if request.update or grows:
        return _extended(folder, request, storage, listed, record)
    return record


def _extended(
    folder: Folder, request: Request, storage: Storage, listed: Callable[[int], None], old: Record | None = None
) -> Record:
    """List the sources and store a record with what is new in them."""
    before = old.files if old else ()
    try:
        listings = open_sources(request.sources, storage)
        tags.schema(joint_schema(listings), request.identity["embedding_size"])
        files = manifest.freeze(
            folder, listings, limit=request.limit, shard_rows=request.shard_rows, before=before, written=listed
        )
        if not files and not before:
            raise UserError(_nothing(request.sources, listings))
    except BaseException:
        _withdraw(folder, len(before))
        raise
    sources = tuple(dict.fromkeys((*(old.sources if old else ()), *request.sources)))
    record = Record(identity=dict(request.identity), sources=sources, limit=request.limit, files=(*before, *files))
    save(folder, record)
    return record


def _nothing(sources: Sequence[str], listings: Sequence[Listing]) -> str:
    skipped = sum(len(listing.skipped) for listing in listings)
    also = f" among the {skipped:,} files there" if skipped else ""
    return f"{' '.join(sources)}: no audio files found{also}; check the path, or name the files themselves."


def _withdraw(folder: Folder, keep: int) -> None:
    """Take back manifest files that no record will name, and an output folder that would hold nothing else."""
    names = folder.names("_run/manifest")
    folder.delete([f"_run/manifest/{name}" for name in names[keep:]])
    if not keep and folder.is_local:
        folder.delete(["_run/lock.json"])
        for empty in ("_run/manifest", "_run", ""):
            with contextlib.suppress(OSError):
                os.rmdir(folder.at(empty).rstrip("/"))


def _refuse_strangers(folder: Folder) -> None:
    strangers = [name for name in folder.names() if name.endswith(".parquet")]
    if strangers:
        raise UserError(f"{folder.uri}: holds {strangers[0]}, which is no output of ours; choose another output.")


def _refuse_difference(folder: Folder, record: Record, request: Request) -> None:
    for key in {**record.identity, **request.identity}:
        had, wanted = record.identity.get(key), request.identity.get(key)
        if had != wanted:
            raise UserError(
                f"{folder.uri}: was made with {key} {_shown(had)}, now it is {_shown(wanted)}; "
                "choose another output, or add --overwrite to start anew."
            )


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def clear(folder: Folder) -> None:
    """Delete an output's own files: parts, chunk parts, manifest and record. Nothing else is touched."""
    folder.delete([RECORD, counts.NAME])
    for sub in ("", CHUNKS):
        prefix = f"{sub}/" if sub else ""
        folder.delete([prefix + name for name in folder.names(sub) if tags.parse(name)])
    folder.delete([f"_run/manifest/{name}" for name in folder.names("_run/manifest")])


def parts(folder: Folder, sub: str = "") -> tuple[list[tags.Part], list[tags.Part]]:
    """The parts in force, in order, and those that a cut-off compaction left over (their rows are in another)."""
    every = sorted(
        (part for name in folder.names(sub) if (part := tags.parse(name))), key=lambda part: (part.first, -part.last)
    )
    live: list[tags.Part] = []
    stale: list[tags.Part] = []
    for part in every:
        (stale if live and part.last <= live[-1].last else live).append(part)
    return live, stale


def tidy(folder: Folder) -> None:
    """Remove what cut-off jobs left: half-written temporary files and parts that a compaction replaced."""
    for sub in ("", CHUNKS):
        prefix = f"{sub}/" if sub else ""
        folder.delete([prefix + part.name for part in parts(folder, sub)[1]])
        folder.delete([prefix + name for name in folder.names(sub) if name.endswith(".tmp") and name[0] == "."])


def missing(folder: Folder, record: Record, limit: int | None = None) -> list[Work]:
    """The shards that no part holds yet; with a limit, those that begin among the first rows."""
    done = {number for part in parts(folder)[0] for number in range(part.first, part.last + 1)}
    return [
        Work(tags.Part(number, number).name, shard)
        for number, shard in enumerate(manifest.shards(record.files))
        if number not in done and (limit is None or shard.first < limit)
    ]


def failed(folder: Folder, record: Record, statuses: Sequence[str]) -> list[Work]:
    """The rows of finished parts whose status is one of `statuses`, shard by shard."""
    every = manifest.shards(record.files)
    works, kept = [], counts.load(folder)
    for part in parts(folder)[0]:
        if part.name in kept and not kept[part.name].keys() & set(statuses):
            continue
        status = tags.read_part(folder, part.name, ["status"]).column("status").to_pylist()
        offset = 0
        for shard in every[part.first : part.last + 1]:
            only = tuple(row for row in range(shard.rows) if status[offset + row] in statuses)
            if only:
                works.append(Work(part.name, shard, offset, only))
            offset += shard.rows
    return works


def output_schema(folder: Folder, record: Record) -> pa.Schema:
    """The schema of the output's parts."""
    carried = manifest.schema(folder, record.files)
    return tags.schema(carried, record.identity["embedding_size"])
