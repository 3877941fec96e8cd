"""What a worker of the tagging job does, whoever runs it: work -> its rows -> decoded -> tagged. No Ray here."""

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from looptagger import memory
from looptagger.archive import manifest
from looptagger.archive.disk import holds_anything
from looptagger.archive.output import Work, check_there
from looptagger.archive.patience import patiently
from looptagger.archive.storage import Folder, local_path
from looptagger.archive.tags import CODED_ROW
from looptagger.archive.writer import PART, ROW
from looptagger.config import Audio, Tag
from looptagger.errors import UserError


@dataclass(frozen=True)
class Brief:
    """What every worker needs to know, but for the checkpoint."""

    folder: Folder
    tag: Tag
    audio: Audio
    chunks: bool
    embeddings: bool
    roots: tuple[str, ...] = ()
    """Local folders that the clips lie in. Where one is gone or empty, a disk is, and not its clips."""


def rows(work: Work, brief: Brief) -> pa.Table:
    """The manifest's rows of a shard, or of a piece of one. Raises UserError where the output is gone."""
    check_there(brief.folder)
    shard = work.shard
    table = patiently(lambda: manifest.read(brief.folder, shard), brief.tag.storage)
    table = table.append_column(PART, pa.array([work.part] * table.num_rows))
    for name, first in ((ROW, work.offset), (CODED_ROW, shard.first)):
        table = table.append_column(name, pa.array(range(first, first + table.num_rows), pa.int64()))
    return table if work.only is None else table.take(pa.array(work.only, pa.int64()))


# What follows imports other steps late: torch takes two seconds that the driver need not wait for.


def decoded(table: pa.Table, brief: Brief) -> Iterator[pa.Table]:
    """Rows with what `steps.decoding` makes of them, in this worker's helper process, some clips at a time.

    Raises UserError where a disk is away.
    """
    from looptagger.steps.isolated import HELPER

    for some in HELPER.run_step("decoded", table, brief.tag.limits, audio=brief.audio, tag=brief.tag):
        check_roots(some, brief.roots)
        yield some


def check_roots(table: pa.Table, roots: Sequence[str]) -> None:
    """Raise UserError where clips are missing with the folder that they lie in: a disk that is not mounted here."""
    uris = table.filter(pc.equal(table.column("status"), "missing")).column("uri").to_pylist()
    missing = [os.fsdecode(local_path(uri)) for uri in uris]
    for root in roots:
        above = os.fsdecode(local_path(root)).rstrip("/") + "/"
        if any(path.startswith(above) for path in missing) and not holds_anything(os.fsencode(above)):
            remedy = "mount it and run the same command (if it is gone for good, put any file there)"
            raise UserError(f"{root}: is gone or empty on {socket.gethostname()}; {remedy}.")


class Tagger:
    """The model, ready in this process. Raises UserError where it cannot be used here."""

    def __init__(self, brief: Brief, model: bytes, device: str, decodes: bool) -> None:
        if decodes:
            from looptagger.steps.isolated import HELPER

            HELPER.ready()  # it wakes up while torch is imported
        import torch

        from looptagger.model.predictor import Predictor, is_short_of_memory

        torch.set_num_threads(1)
        memory.keep()
        self.brief = brief
        try:
            self.predictor = Predictor(model, compute=brief.tag.compute.model_copy(update={"device": device}))
        except (RuntimeError, MemoryError) as error:
            if not is_short_of_memory(error):
                raise
            remedy = "free some" + ", or use compute.device=cpu" * (not decodes)
            raise UserError(f"memory does not hold the model; {remedy}.") from None

    def __call__(self, table: pa.Table) -> pa.Table:
        """Decoded rows -> tagged rows."""
        from looptagger.steps.tagging import tagged

        return tagged(table, self.predictor, self.brief.chunks, self.brief.embeddings)
