"""An output as a whole: what it is the tags of, what is done, what is left. Its parts are its only ledger."""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator

from looptagger.archive import counts, lease, lock, manifest, retrying, tags, user_manifests
from looptagger.archive.manifest import ManifestFile, Shard
from looptagger.archive.several import READERS, several
from looptagger.archive.storage import Folder
from looptagger.config import Settings
from looptagger.errors import UserError

RECORD = "_run/dataset.json"
REPORT = re.compile(r"run-\w+\.json")
"""The names of what runs leave in `_run`."""
HALF = re.compile(r"\.(.+)\.\d+\.tmp")
"""The names that Folder.write gives files until they are whole."""


MOST_SHARDS = 100_000_000
"""Of an output: ten times as many as ten million clips give, one a shard."""


def _checked_files(files: tuple[ManifestFile, ...]) -> tuple[ManifestFile, ...]:
    """Refuse a record that a few bytes make huge. Raises ValueError."""
    if len({file.name for file in files}) < len(files):
        raise ValueError("names a file twice")
    if sum(-(-file.rows // file.shard_rows) for file in files) > MOST_SHARDS:
        raise ValueError("has too many shards")
    return files


class Record(Settings):
    """`_run/dataset.json`: written last, so that an output with it has a whole manifest. Files without it are none."""

    format: Literal[1] = 1
    identity: dict[str, Any]
    """The model, its audio, the chunking and the tables asked for: what all rows must share."""
    sources: tuple[str, ...]
    limit: int | None = None
    files: Annotated[tuple[ManifestFile, ...], AfterValidator(_checked_files)]
    mounts: tuple[str, ...] = ()
    """Disks that were mounted as local sources were listed: clips of one that is gone are not missing."""
    anew: bool = False
    """Whether --overwrite began it: the same command, given again before all is tagged, then goes on."""

    @property
    def rows(self) -> int:
        """Rows of the manifest: the clips that a finished output holds."""
        return sum(file.rows for file in self.files)


@dataclass(frozen=True)
class Work:
    """Rows of one shard, or a piece of it, still to be tagged, and the part that they go into."""

    part: str
    shard: Shard
    offset: int = 0
    """Place in the part of the shard's first row."""
    only: tuple[int, ...] | None = None
    """Of a part that exists, the clips that are tried again, counted from the shard's first row. None: all rows."""

    @property
    def is_retry(self) -> bool:
        """Whether its part exists."""
        return self.only is not None

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
    except (ValueError, RecursionError):  # pydantic's is one
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
    """Refuse an output that is a file, or has no name. Raises UserError."""
    if not out:
        raise UserError("the output's name is empty; give a folder (`.` is this one).")
    if user_manifests.is_manifest(out):
        raise UserError(f"{out}: the output is a folder; give it a name without such an ending.")
    folder = Folder(out)
    if folder.is_local and folder.fs.isfile(folder.path):
        raise UserError(f"{out}: is a file; give a folder for the output.")


def check_there(folder: Folder) -> None:
    """Refuse to go on with a local output that was moved or deleted meanwhile. Raises UserError."""
    if folder.is_local and not os.path.exists(folder.at(RECORD)):
        raise UserError(lock.gone(folder))


def withdraw(folder: Folder) -> None:
    """Take back manifest files that the record does not name, and an output folder that would hold nothing else."""
    record = load(folder)
    named = {file.name for file in record.files} if record else ()
    folder.delete([path for name in folder.names("_run/manifest") if (path := f"_run/manifest/{name}") not in named])
    if record is None:
        vacate(folder)


def vacate(folder: Folder) -> None:
    """Take our lock away from a local folder that is no output, and folders that then hold nothing."""
    if folder.is_local and os.path.exists(folder.at(lease.NAME)):
        folder.delete([lease.NAME])
        for empty in ("_run/manifest", "_run", ""):
            with contextlib.suppress(OSError):
                os.rmdir(folder.at(empty).rstrip("/"))


def parts(folder: Folder) -> tuple[list[tags.Part], list[tags.Part]]:
    """The parts in force, in order, and those that a compaction which was cut off left over.

    `looptagger compact` joins parts 3 to 9, say, into part-0000003-0000009.parquet, and then deletes them.
    """
    found = (part for name in folder.names() if (part := tags.parse(name)))
    live: list[tags.Part] = []
    stale: list[tags.Part] = []
    for part in sorted(found, key=lambda part: (part.first, -part.last)):  # a joined one before those that are in it
        is_in_the_last = live and part.last <= live[-1].last
        (stale if is_in_the_last else live).append(part)
    return live, stale


def chunked(folder: Folder) -> set[tags.Part]:
    """The parts that have chunks."""
    return {part for name in folder.names(tags.CHUNKS) if (part := tags.parse(name))}


def strangers(folder: Folder, sub: str = "") -> list[str]:
    """Parquet files there that are no parts; hidden ones apart, which `*.parquet` does not mean."""
    found = [name for name in folder.names(sub) if name.endswith(".parquet") and not name.startswith(".")]
    return [name for name in found if not tags.parse(name)]


def rows(folder: Folder, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Some columns of all rows, part by part, in the manifest's order; joined parts one at a time, as each is large."""
    live = parts(folder)[0]
    read = lambda part: tags.read_part(folder, part.name, columns)  # noqa: E731
    yield from several(read, live, readers(live))


def readers(some: Sequence[tags.Part]) -> int:
    """How many of these parts are held in memory at once: a joined one is large."""
    return READERS if all(part.first == part.last for part in some) else 1


def tidy(folder: Folder) -> None:
    """Remove what cut-off jobs left: half-written files, manifest files of no record, parts that were compacted.

    Also chunks of no part, but for those among which may be the ones that a part lacks.
    """
    record = load(folder)
    if record:
        withdraw(folder)
    retrying.mend(folder)
    live, stale = parts(folder)
    folder.delete([part.name for part in stale])
    if record and record.identity.get("chunks"):
        there = chunked(folder)
        lacking = [part for part in live if part not in there]
        strays = [each for each in there - {*live} if not any(each.overlaps(part) for part in lacking)]
        folder.delete([f"{tags.CHUNKS}/{each.name}" for each in strays])
    for sub in ("", tags.CHUNKS):
        sweep(folder, sub, lambda name: tags.parse(name) is not None)
    sweep(folder, "_run")


def sweep(folder: Folder, sub: str, is_ours: Callable[[str], bool] = lambda name: True) -> None:
    """Delete files of ours whose writing was cut off. The caller holds the folder's lock."""
    if folder.is_local:
        halves = [(name, HALF.fullmatch(name)) for name in folder.names(sub)]
        folder.delete([f"{sub}/{name}".lstrip("/") for name, of in halves if of and is_ours(of[1])])


def unfinished(folder: Folder, record: Record) -> list[Work]:
    """The shards that no part holds yet."""
    every = manifest.shards(record.files)
    live = (range(part.first, min(part.last + 1, len(every))) for part in parts(folder)[0])
    done = {number for numbers in live for number in numbers}
    return [Work(tags.Part(number, number).name, shard) for number, shard in enumerate(every) if number not in done]


def to_retry(folder: Folder, record: Record) -> list[Work]:
    """The failed rows of finished parts, shard by shard."""
    every = manifest.shards(record.files)
    works, kept = [], counts.load(folder)
    some = [part for part in parts(folder)[0] if part.name not in kept or kept[part.name].keys() - {"ok"}]
    failed = lambda part: pc.not_equal(tags.read_part(folder, part.name, ["status"])["status"], "ok").to_numpy()  # noqa: E731
    for part, found in zip(some, several(failed, some), strict=True):
        offset, shards = 0, every[part.first : part.last + 1]
        if len(found) != sum(shard.rows for shard in shards):
            raise UserError(f"{folder.uri}/{part.name}: does not hold just its rows of the manifest; {tags.AGAIN}.")
        for shard in shards:
            only = tuple(np.flatnonzero(found[offset : offset + shard.rows]).tolist())
            if only:
                works.append(Work(part.name, shard, offset, only))
            offset += shard.rows
    return works


def output_schema(folder: Folder, record: Record) -> pa.Schema:
    """The schema of the output's parts."""
    carried = manifest.schema(folder, record.files)
    return tags.schema(carried, record.identity["embedding_size"])
