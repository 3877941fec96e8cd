"""The tagging job from request to summary: what `looptagger tag` and jobs/tag.py both call."""

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from looptagger.archive import lock, output
from looptagger.archive.growing import Request, prepare
from looptagger.archive.output import Record, Work
from looptagger.archive.sources import absolute, roots
from looptagger.archive.storage import Folder
from looptagger.archive.tags import CODE, CODED_ROW, STOPPED
from looptagger.archive.writer import PartWriter
from looptagger.cluster import cores
from looptagger.cluster.engine import Engine
from looptagger.cluster.plan import Plan
from looptagger.cluster.progress import Progress
from looptagger.cluster.stalls import watched
from looptagger.config import Tag
from looptagger.errors import UserError
from looptagger.model import checkpoint
from looptagger.steps.worker import Brief

SPILLED = (
    "Ray wrote {:,.0f} MB of decoded audio to disk, which is slow: give its object store more memory "
    "(ray start --object-store-memory), or lower chunking.max_chunks."
)


@dataclass(frozen=True)
class TagJob:
    """What the user asked for."""

    sources: tuple[str, ...]
    out: str
    model: str = checkpoint.STARTER
    tag: Tag = Tag()
    limit: int | None = None
    update: bool = False
    overwrite: bool = False
    retry_errors: bool = False
    chunks: bool = False
    embeddings: bool = False
    address: str | None = None


@dataclass
class Events:
    """How the job tells of itself; the terminal listens. All are optional."""

    note: Callable[[str], None] = lambda text: None
    listed: Callable[[int], None] = lambda rows: None
    progress: Callable[[Any], None] = lambda progress: None
    rows: Callable[[pa.Table], None] = lambda table: None


@dataclass
class Summary:
    """What a run did: clips by status, the clips that the output held before, seconds of tagging."""

    total: int
    """Rows of the manifest."""
    before: int
    """Of those, clips whose row this run leaves as it is."""
    by_status: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    audio_s: float = 0.0
    plan: Plan | None = None
    cost: float | None = None
    """In the currency of `compute.price_per_hour`."""
    spilled: int = 0
    """Bytes that Ray wrote to disk because decoded audio no longer fitted its object store."""

    @property
    def clips(self) -> int:
        """Clips that this run gave a row."""
        return sum(self.by_status.values())

    @property
    def failed(self) -> int:
        """Those of them whose row is a reason."""
        return self.clips - self.by_status.get("ok", 0)


def tag(job: TagJob, events: Events | None = None) -> Summary:
    """Tag what is not tagged yet. Raises UserError for what the user can mend; parts written by then stay."""
    events = events or Events()
    if job.update and job.overwrite:
        raise UserError("--update adds to the tags, --overwrite replaces them: use one of the two.")
    output.check_place(job.out)
    model = checkpoint.resolve(job.model, job.tag.storage)
    card = checkpoint.card(model, job.model)
    if card.about:
        events.note(f"The model {card.name}: {card.about}")
    asked = replace(request(job, model, card), note=events.note, listed=events.listed)
    with lock.held(Folder(job.out, job.tag.storage)) as folder:
        record = prepare(folder, asked)
        output.tidy(folder)
        missing = output.unfinished(folder, record)
        retries = output.to_retry(folder, record) if job.retry_errors else []
        works = [work for work in missing if job.limit is None or work.shard.first < job.limit] + retries
        writer = PartWriter(folder, works, output.output_schema(folder, record), job.chunks)
        summary = Summary(record.rows, record.rows - sum(work.rows for work in missing + retries))
        if writer.works:
            with _recorded(folder, job, record, summary):
                places = (*roots(record.sources), *record.mounts)
                brief = Brief(folder, job.tag, card.audio, job.chunks, job.embeddings, places)
                _tag_rows(job, brief, writer, model, summary, events)
    return summary


def request(job: TagJob, model: bytes, card: checkpoint.Card) -> Request:
    """What a job asks of its output."""
    identity = {
        "model": checkpoint.model_id(model, card),
        "audio": card.audio.model_dump(),
        "chunking": job.tag.chunking.model_dump(),
        "chunks": job.chunks,
        "embedding_size": 2 * card.model.channels if job.embeddings else 0,
        **({"embedding_columns": [*CODE, CODED_ROW]} if job.embeddings else {}),  # earlier versions had other ones
    }
    if job.tag.compute.precision in ("int8", "bfloat16"):  # their scores differ by more than those of machines do
        identity["precision"] = job.tag.compute.precision
    sources, rows = tuple(map(absolute, job.sources)), job.tag.compute.shard_rows
    return Request(identity, sources, job.limit, update=job.update, overwrite=job.overwrite, shard_rows=rows)


def _tag_rows(job: TagJob, brief: Brief, writer: PartWriter, model: bytes, summary: Summary, events: Events) -> None:
    """Tag the writer's rows, counting into the summary even when cut off."""
    with _engine(job, brief, writer.works, model, events) as engine:
        summary.plan = engine.plan
        events.note(f"{writer.left:,} clips to tag with {summary.plan}.")
        progress = Progress(writer.left, job.tag.compute.price_per_hour)
        try:
            _take_in(engine, writer, progress, events)
        finally:
            writer.keeper.save()
            summary.by_status, summary.audio_s = dict(writer.by_status), writer.audio_s
            summary.seconds = progress.seconds
            summary.cost = progress.cost[0] if progress.cost else None
            with suppress(Exception):  # a cluster that is away, which takes long to say so
                summary.spilled = max(0, engine.spilled())
        if summary.spilled > 0:
            events.note(SPILLED.format(summary.spilled / 1e6))


def _engine(
    job: TagJob, brief: Brief, works: Sequence[Work], model: bytes, events: Events
) -> AbstractContextManager[Engine]:
    if not cores.wants_ray(job.address, job.tag.compute.device):
        return cores.engine(works, brief, model, job.tag.compute)
    from looptagger.cluster import tagging

    return tagging.engine(works, brief, model, job.address, events.note)


def _take_in(engine: Engine, writer: PartWriter, progress: Progress, events: Events) -> None:
    """Write rows as they come; events are told of every block of them. Raises UserError where some did not come."""
    events.progress(progress)
    with closing(engine.blocks()) as blocks, watched(progress, events.note, engine.waits):
        for block in blocks:
            _raise_stop(block)
            progress.count(block)
            writer.add(block)
            events.rows(block)
            events.progress(progress)
    if writer.left:
        raise UserError(
            f"{writer.left:,} clips came back from their workers without a row; run the same command again."
        )


def _raise_stop(block: pa.Table) -> None:
    """Raise the UserError that a worker met, where a block says that it did."""
    stops = block.filter(pc.equal(block.column("status"), STOPPED))
    if stops.num_rows:
        raise UserError(stops.column("error")[0].as_py())


@contextmanager
def _recorded(folder: Folder, job: TagJob, record: Record, summary: Summary) -> Iterator[None]:
    """Leave `_run/run-TIME.json` when the block ends, however it ends."""
    started = datetime.now(UTC)
    ended = "interrupted"
    try:
        yield
        ended = "finished"
    except UserError:
        ended = "refused"
        raise
    except Exception:
        ended = "failed"
        raise
    finally:
        report = {
            "started": started.isoformat(timespec="seconds"),
            "ended": ended,
            "clips": summary.clips,
            "by_status": summary.by_status,
            "seconds": round(summary.seconds, 3),
            "audio_s": round(summary.audio_s, 3),
            "cost": None if summary.cost is None else round(summary.cost, 4),
            "spilled_bytes": summary.spilled,
            "workers": str(summary.plan) if summary.plan else None,
            "identity": record.identity,
            "settings": job.tag.model_dump(),
            "versions": {name: version(name) for name in ("ray", "torch", "torchaudio", "pyarrow")},
            "python": platform.python_version(),
        }
        with suppress(UserError):  # the reason that the run ended matters more than its record
            folder.write(f"_run/run-{started:%Y%m%dT%H%M%S%f}.json", json.dumps(report, indent=1).encode())
