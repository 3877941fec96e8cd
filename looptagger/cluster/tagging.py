"""The tagging job on Ray Data: shards of the manifest -> decode -> predict -> parts.

One task a shard. Without GPUs an actor a core reads its rows, decodes and predicts; with them, decoding tasks feed
predictor actors. Tagged rows (some hundred bytes each) stream to this process, the only one that writes: it counts
them, and stores a part when all of its rows have come.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from looptagger.archive import manifest
from looptagger.archive.dataset import Work, check_there
from looptagger.archive.patience import patiently
from looptagger.archive.storage import Folder
from looptagger.archive.tags import CODED_ROW
from looptagger.archive.writer import PART, ROW, STOPPED, PartWriter
from looptagger.cluster.plan import CORE, READER, Plan, readers
from looptagger.cluster.progress import Progress
from looptagger.cluster.session import adopt
from looptagger.config import Audio, Tag
from looptagger.errors import UserError

if TYPE_CHECKING:
    from looptagger.cluster.job import Events

GPU_ROWS, GPU_CHUNKS = 128, 5120
"""Clips handed to a GPU predictor at once, and the most chunks that they may have: 490 MB."""

WORK = "_work"
"""The column of a block that names a shard and not its rows."""
QUEUED = 3
"""Shards given to an actor ahead, so that it never waits for the next: without, cores were idle a fifth of the time."""


@dataclass(frozen=True)
class Job:
    """What every worker needs to know. Works and checkpoint are objects of Ray's store, which travel once a node."""

    folder: Folder
    works: Any
    tag: Tag
    audio: Audio
    model: Any
    chunks: bool
    embeddings: bool
    environment: dict[str, str] = field(repr=False)


def _shards(count: int) -> Any:
    """A dataset with a block of one row for each shard: its number. What it stands for is read where it is needed."""
    return ray.data.from_items([{WORK: i} for i in range(count)], override_num_blocks=count)


def _read(block: pa.Table, job: Job) -> pa.Table:
    """The manifest's rows of the shard that a block names. Raises UserError where the output is gone."""
    adopt(job.environment)
    check_there(job.folder)
    work: Work = ray.get(job.works)[block.column(WORK)[0].as_py()]
    table = patiently(lambda: manifest.read(job.folder, work.shard), job.tag.storage)
    table = table.append_column(PART, pa.array([work.part] * table.num_rows))
    for name, first in ((ROW, work.offset), (CODED_ROW, work.shard.first)):
        table = table.append_column(name, pa.array(range(first, first + table.num_rows), pa.int64()))
    return table if work.only is None else table.take(pa.array(work.only))


# The steps are imported in the workers only: torch takes two seconds that the driver need not wait for.


def _decode(block: pa.Table, job: Job) -> Iterator[pa.Table]:
    """A block, as `_shards` or `_read` gives it, -> decoded rows."""
    from looptagger.steps.decoding import stopped
    from looptagger.steps.isolated import HERE

    rows = _read(block, job) if WORK in block.column_names else block
    adopt(job.environment)
    try:
        yield from HERE.done("decoded", rows, job.tag.limits, audio=job.audio, tag=job.tag)
    except UserError as error:
        yield stopped(rows, str(error))


class Predict:
    """An actor that keeps the model. On a CPU core it is handed shards, and decodes their rows itself."""

    def __init__(self, job: Job, decodes: bool) -> None:
        from looptagger.steps.isolated import HERE

        adopt(job.environment)
        if decodes:
            HERE.start()  # it wakes up while torch is imported
        import torch

        from looptagger.cluster.meters import Meters
        from looptagger.model.predictor import Predictor

        torch.set_num_threads(1)
        self.job, self.decodes = job, decodes
        self.predictor = Predictor(ray.get(job.model), compute=job.tag.compute)
        self.meters = Meters(self.predictor.batch)

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """What `_decode` takes, or decoded rows -> tagged rows."""
        from looptagger.steps.tagging import tagged

        for table in _decode(rows, self.job) if self.decodes else (rows,):
            began = time.perf_counter()
            result = tagged(table, self.predictor, self.job.chunks, self.job.embeddings)
            self.meters.count(result, time.perf_counter() - began)
            yield result


def pipeline(count: int, job: Job, plan: Plan) -> Any:
    """The lazy Ray dataset of tagged rows, given the number of works."""
    shards = _where_readable(_shards(count), job, plan)
    batches: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
    if not plan.predictors:
        pool = ActorPoolStrategy(size=min(plan.decoders, count), max_tasks_in_flight_per_actor=QUEUED)
        actor = {"fn_constructor_args": (job, True), "compute": pool, "num_cpus": CORE}
        return shards.map_batches(Predict, batch_size=None, **actor, **batches)
    heard = shards.map_batches(_decode, fn_kwargs={"job": job}, batch_size=None, num_cpus=CORE, **batches)
    most = max(1, min(GPU_ROWS, GPU_CHUNKS // job.tag.chunking.max_chunks))
    pool = ActorPoolStrategy(size=min(plan.predictors, count), max_tasks_in_flight_per_actor=QUEUED)
    actor = {"fn_constructor_args": (job, False), "compute": pool, "num_cpus": 0, "num_gpus": plan.gpus_per_predictor}
    return heard.map_batches(Predict, batch_size=most, **actor, **batches)


def _where_readable(shards: Any, job: Job, plan: Plan) -> Any:
    """Shards as they are, where every node can read the manifest; else their rows, read by tasks on this one."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if not job.folder.is_local or len(nodes) == 1:
        return shards
    here = ray.get_runtime_context().get_node_id()
    cpus = sum(node["Resources"].get("CPU", 0) for node in nodes if node["NodeID"] == here)
    placed = {"num_cpus": min(READER, cpus), "label_selector": {"ray.io/node-id": here}}  # head nodes may offer no CPU
    pool = TaskPoolStrategy(size=readers(plan.decoders))
    return shards.map_batches(
        _read, fn_kwargs={"job": job}, batch_size=None, batch_format="pyarrow", compute=pool, **placed
    )


def _check(block: pa.Table) -> None:
    """Raise the UserError that a worker met."""
    stops = block.filter(pc.equal(block.column("status"), STOPPED))
    if stops.num_rows:
        raise UserError(stops.column("error")[0].as_py())


def run(writer: PartWriter, job: Job, plan: Plan, progress: Progress, events: "Events") -> None:
    """Tag the writer's rows; events are told of every block of rows.

    Raises UserError for what a worker met and the user can mend.
    """
    events.progress(progress)
    dataset = pipeline(len(writer.works), job, plan)
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        _check(block)
        progress.count(block)
        writer.add(block)
        events.rows(block)
        events.progress(progress)
