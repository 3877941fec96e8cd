"""Preparing labelled loops: rows -> decode on every core -> this process, which writes the table."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from looptagger.archive import lock, output
from looptagger.archive.storage import Folder
from looptagger.cluster import cores
from looptagger.config import Prepare
from looptagger.errors import UserError
from looptagger.learn import table
from looptagger.learn.loops import Collection

BLOCK_ROWS = 16
"""Loops a task."""


@dataclass(frozen=True)
class PrepareJob:
    """What the user asked for."""

    source: str
    out: str
    labels: str | None = None
    prepare: Prepare = Prepare()
    overwrite: bool = False
    address: str | None = None


def prepare(
    job: PrepareJob,
    note: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Collection, table.Dataset]:
    """Read, decode, split and store a labelled data set. Raises UserError for what the user can mend."""
    from looptagger.learn import preparing

    output.check_place(job.out)
    place = Folder(job.out, job.prepare.storage)
    _check_empty(place, job.overwrite)
    collection = preparing.collect(job.source, job.prepare, job.labels)
    rows = preparing.to_rows(collection.loops, job.prepare)
    with lock.held(place, ("_run",)) as folder:
        _check_empty(folder, job.overwrite)  # another job may have ended meanwhile
        output.sweep(folder, "", lambda name: table.is_part(name) or name == table.NAME)
        return collection, preparing.store(_decoded(rows, job, note, progress), folder, collection, job.prepare)


def _check_empty(folder: Folder, overwrite: bool) -> None:
    if folder.read(output.RECORD) is not None:
        raise UserError(f"{folder.uri}: holds the tags of `looptagger tag`; choose another folder.")
    if not overwrite and folder.read(table.NAME) is not None:
        raise UserError(f"{folder.uri}: holds a prepared data set; --overwrite replaces it, or choose another folder.")


def _decoded(
    rows: pa.Table, job: PrepareJob, note: Callable[[str], None], progress: Callable[[int, int], None]
) -> Iterator[pa.Table]:
    """The rows with their audio, in order."""
    with cores.workers(job.address, note) as computed:
        blocks = [rows.slice(start, BLOCK_ROWS) for start in range(0, rows.num_rows, BLOCK_ROWS)]
        done = 0
        for block in computed(blocks, _decode, in_order=True, settings=job.prepare):
            yield block
            done += block.num_rows
            progress(done, rows.num_rows)


def _decode(rows: pa.Table, settings: Prepare) -> Iterator[pa.Table]:
    from looptagger.steps.isolated import HELPER

    yield from HELPER.run_step("prepared", rows, settings.limits, settings=settings)
