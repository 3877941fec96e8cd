"""The tagging job on Ray Data: shards of the manifest -> decode -> predict -> parts.

One read task a shard. Without GPUs a task decodes and predicts on its own core; with them, decoding tasks feed
predictor actors. Tagged rows (some hundred bytes each) stream to this process, the only one that writes: it counts
them, and stores a part when all of its rows have come.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from looptagger.archive import manifest
from looptagger.archive.dataset import Work
from looptagger.archive.storage import Folder
from looptagger.archive.writer import PART, ROW, PartWriter
from looptagger.cluster.plan import Plan
from looptagger.cluster.session import adopt
from looptagger.config import Audio, Tag

GPU_ROWS = 128
"""Clips handed to a GPU predictor at once; at 40 chunks each, the most there can be by default, 490 MB."""


@dataclass
class Progress:
    """How far a run is: clips of this run, not of the output."""

    total: int
    by_status: Counter[str] = field(default_factory=Counter)
    audio_s: float = 0.0
    started: float = field(default_factory=time.monotonic)
    first: float | None = None
    """When the first rows came, and how many they were."""
    at_first: int = 0

    @property
    def done(self) -> int:
        """Clips tagged or failed."""
        return sum(self.by_status.values())

    @property
    def failed(self) -> int:
        """Clips whose row is a reason."""
        return self.done - self.by_status["ok"]

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    @property
    def rate(self) -> float | None:
        """Clips a second since the first rows came; None until there is something to measure."""
        if self.first is None or self.done == self.at_first:
            return None
        return (self.done - self.at_first) / (time.monotonic() - self.first)

    def count(self, table: pa.Table) -> None:
        """Take in tagged rows."""
        self.by_status.update(table.column("status").to_pylist())
        if self.first is None:
            self.first, self.at_first = time.monotonic(), self.done
        self.audio_s += sum(filter(None, table.column("duration_s").to_pylist()))


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
    table = manifest.read(folder, work.shard)
    table = table.append_column(PART, pa.array([work.part] * table.num_rows))
    table = table.append_column(ROW, pa.array(range(work.offset, work.offset + table.num_rows), pa.int64()))
    yield table if work.only is None else table.take(pa.array(work.only))


@lru_cache(maxsize=1)
def _predictor(job: "_Key") -> Any:
    """The process's predictor: loaded once, kept for all the shards that it is given."""
    import torch

    from looptagger.model.predictor import Predictor

    torch.set_num_threads(1)
    return Predictor(ray.get(job.ref), compute=job.compute)


class _Key:
    """Hashes a job's model and compute settings, so that a worker process caches one predictor."""

    def __init__(self, job: Job) -> None:
        self.ref, self.compute = job.model, job.tag.compute

    def __hash__(self) -> int:
        return hash((self.ref, self.compute))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and (self.ref, self.compute) == (other.ref, other.compute)


# looptagger.steps is imported in the workers only: it brings torch, two seconds that the driver need not wait for.


def _decode(rows: pa.Table, job: Job) -> Iterator[pa.Table]:
    from looptagger.steps import decoded

    adopt(job.environment)
    yield from decoded(rows, job.audio, job.tag)


def _decode_and_predict(rows: pa.Table, job: Job) -> Iterator[pa.Table]:
    from looptagger.steps import decoded, tagged

    adopt(job.environment)
    predictor = _predictor(_Key(job))
    for table in decoded(rows, job.audio, job.tag):
        yield tagged(table, predictor, job.chunks, job.embeddings)


class Predict:
    """A GPU actor: the model stays on the card, batches of decoded clips come and go."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.predictor = _predictor(_Key(job))

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Decoded rows -> tagged rows."""
        from looptagger.steps import tagged

        return tagged(rows, self.predictor, self.job.chunks, self.job.embeddings)


def pipeline(folder: Folder, works: Sequence[Work], schema: pa.Schema, job: Job, plan: Plan) -> Any:
    """The lazy Ray dataset of tagged rows."""
    rows = ray.data.read_datasource(
        ShardSource(folder, works, schema, job), override_num_blocks=len(works), ray_remote_args=_reader_place(folder)
    )
    batches: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}
    if not plan.predictors:
        return rows.map_batches(_decode_and_predict, fn_kwargs={"job": job}, **batches)
    heard = rows.map_batches(_decode, fn_kwargs={"job": job}, **batches)
    pool = ActorPoolStrategy(size=plan.predictors)
    batches["batch_size"] = GPU_ROWS
    return heard.map_batches(
        Predict, fn_constructor_args=(job,), compute=pool, num_cpus=0, num_gpus=plan.gpus_per_predictor, **batches
    )


def _reader_place(folder: Folder) -> dict[str, Any]:
    """A manifest on this machine's disk is read here, wherever the clips are then decoded."""
    if not folder.is_local or len([node for node in ray.nodes() if node["Alive"]]) == 1:
        return {}
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"scheduling_strategy": here, "num_cpus": 0}


def run(
    writer: PartWriter, schema: pa.Schema, job: Job, plan: Plan, progress: Progress, report: Callable[[Progress], None]
) -> None:
    """Tag the writer's rows, given the manifest's schema; `report` is called after every block of rows."""
    report(progress)
    dataset = pipeline(writer.folder, writer.works, schema, job, plan)
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        progress.count(block)
        writer.add(block)
        report(progress)
