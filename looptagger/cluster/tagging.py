"""The tagging job on Ray Data: shards of the manifest -> decode -> predict -> parts.

One read task a shard. Without GPUs a task decodes and predicts on its own core; with them, decoding tasks feed
predictor actors. Tagged rows (some hundred bytes each) stream to this process, the only one that writes: it counts
them, and stores a part when all of its rows have come.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data import ActorPoolStrategy, TaskPoolStrategy
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

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


QUEUED = 3
"""Shards given to an actor ahead, so that it never waits for the next: without, cores were idle a fifth of the time."""


@dataclass(frozen=True)
class Job:
    """What every worker needs to know. The checkpoint travels as an object of Ray's store, once a node."""

    tag: Tag
    audio: Audio
    model: Any
    chunks: bool
    embeddings: bool
    environment: dict[str, str] = field(repr=False)


class ShardSource(Datasource):
    """Reads a manifest shard by shard: each read task gives one block, the rows that are to be tagged."""

    def __init__(self, folder: Folder, works: Sequence[Work], schema: pa.Schema, job: Job) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._folder, self._works, self._schema, self._job = folder, works, schema, job

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown; manifests are small beside the audio they name."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task a shard, whatever parallelism Ray suggests."""
        return [self._task(work) for work in self._works]

    def _task(self, work: Work) -> ReadTask:
        metadata = BlockMetadata(num_rows=work.rows, size_bytes=200 * work.rows, input_files=None, exec_stats=None)
        return ReadTask(partial(_read, self._folder, work, self._job.environment), metadata, schema=self._schema)


def _read(folder: Folder, work: Work, environment: dict[str, str]) -> Iterator[pa.Table]:
    adopt(environment)
    check_there(folder)
    table = patiently(lambda: manifest.read(folder, work.shard), folder.storage)
    table = table.append_column(PART, pa.array([work.part] * table.num_rows))
    for name, first in ((ROW, work.offset), (CODED_ROW, work.shard.first)):
        table = table.append_column(name, pa.array(range(first, first + table.num_rows), pa.int64()))
    yield table if work.only is None else table.take(pa.array(work.only))


# The steps are imported in the workers only: torch takes two seconds that the driver need not wait for.


def _decode(rows: pa.Table, job: Job) -> Iterator[pa.Table]:
    from looptagger.steps.decoding import stopped
    from looptagger.steps.isolated import HERE

    adopt(job.environment)
    try:
        yield from HERE.done("decoded", rows, job.tag.limits, audio=job.audio, tag=job.tag)
    except UserError as error:
        yield stopped(rows, str(error))


class Predict:
    """An actor that keeps the model. On a CPU core it is handed manifest rows and decodes them itself."""

    def __init__(self, job: Job, decodes: bool) -> None:
        import torch

        from looptagger.cluster.meters import Meters
        from looptagger.model.predictor import Predictor

        torch.set_num_threads(1)
        self.job, self.decodes = job, decodes
        self.predictor = Predictor(ray.get(job.model), compute=job.tag.compute)
        self.meters = Meters(self.predictor.batch)

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Manifest rows, or decoded rows -> tagged rows."""
        from looptagger.steps.tagging import tagged

        for table in _decode(rows, self.job) if self.decodes else (rows,):
            began = time.perf_counter()
            result = tagged(table, self.predictor, self.job.chunks, self.job.embeddings)
            self.meters.count(result, time.perf_counter() - began)
            yield result


def pipeline(folder: Folder, works: Sequence[Work], schema: pa.Schema, job: Job, plan: Plan) -> Any:
    """The lazy Ray dataset of tagged rows."""
    source = ShardSource(folder, works, schema, job)
    rows = ray.data.read_datasource(
        source, override_num_blocks=len(works), **_reading(folder, readers(plan.decoders, len(works)))
    )
    batches: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
    if not plan.predictors:
        pool = ActorPoolStrategy(size=min(plan.decoders, len(works)), max_tasks_in_flight_per_actor=QUEUED)
        actor = {"fn_constructor_args": (job, True), "compute": pool, "num_cpus": CORE}
        return rows.map_batches(Predict, batch_size=None, **actor, **batches)
    heard = rows.map_batches(_decode, fn_kwargs={"job": job}, batch_size=None, num_cpus=CORE, **batches)
    most = max(1, min(GPU_ROWS, GPU_CHUNKS // job.tag.chunking.max_chunks))
    pool = ActorPoolStrategy(size=min(plan.predictors, len(works)), max_tasks_in_flight_per_actor=QUEUED)
    actor = {"fn_constructor_args": (job, False), "compute": pool, "num_cpus": 0, "num_gpus": plan.gpus_per_predictor}
    return heard.map_batches(Predict, batch_size=most, **actor, **batches)


def _reading(folder: Folder, tasks: int) -> dict[str, Any]:
    """What the read tasks ask for. A manifest on this machine's disk is read here, wherever the clips are decoded."""
    pool = TaskPoolStrategy(size=tasks)
    if not folder.is_local:
        return {"num_cpus": READER, "compute": pool}
    here = ray.get_runtime_context().get_node_id()
    cpus = sum(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["NodeID"] == here)
    least = min(READER, cpus)  # head nodes may offer no CPU
    return {"num_cpus": least, "compute": pool, "label_selector": {"ray.io/node-id": here}}


def _check(block: pa.Table) -> None:
    """Raise the UserError that a worker met."""
    stops = block.filter(pc.equal(block.column("status"), STOPPED))
    if stops.num_rows:
        raise UserError(stops.column("error")[0].as_py())


def run(writer: PartWriter, schema: pa.Schema, job: Job, plan: Plan, progress: Progress, events: "Events") -> None:
    """Tag the writer's rows, given the manifest's schema; events are told of every block of rows.

    Raises UserError for what a worker met and the user can mend.
    """
    events.progress(progress)
    dataset = pipeline(writer.folder, writer.works, schema, job, plan)
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        _check(block)
        progress.count(block)
        writer.add(block)
        events.rows(block)
        events.progress(progress)
