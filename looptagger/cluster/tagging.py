"""The tagging job on Ray Data: shards of the manifest -> decode -> predict -> parts.

One task a shard, or a piece of one. Without GPUs an actor a core reads its rows, decodes and predicts; with them,
decoding tasks feed predictor actors. Tagged rows (some hundred bytes each) stream to this process, the only one that
writes: it counts them, and stores a part when all of its rows have come.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from looptagger import memory
from looptagger.archive import manifest
from looptagger.archive.disk import holds_anything
from looptagger.archive.manifest import Shard
from looptagger.archive.output import Work, check_there
from looptagger.archive.patience import patiently
from looptagger.archive.storage import Folder, local_path
from looptagger.archive.tags import CODED_ROW, STOPPED
from looptagger.archive.writer import PART, ROW, PartWriter
from looptagger.cluster.plan import CORE, Plan, with_small_ends
from looptagger.cluster.progress import Progress
from looptagger.cluster.session import Environment, adopt
from looptagger.cluster.stalls import watched
from looptagger.config import Audio, Tag
from looptagger.errors import UserError

if TYPE_CHECKING:
    from looptagger.cluster.tagging_job import Events

GPU_ROWS, GPU_CHUNKS = 128, 5120
"""Clips handed to a GPU predictor at once, and the most chunks that they may have: 490 MB."""

PRETENDED = "LOOPTAGGER_GPU_IS_PRETENDED"
"""Set for tests' workers, where Ray offers a GPU that is none. Else that is refused: a CPU's one thread would do it."""
WORK = "_work"
"""The column of a block that names a shard, or a piece of one, and not its rows."""
QUEUED = 3
"""Tasks that an actor has at once: with one it waited for the next, and cores were idle a fifth of the time."""


P = ParamSpec("P")


@dataclass(frozen=True)
class Brief:
    """What every worker needs to know. The checkpoint travels as an object of Ray's store, once a node."""

    folder: Folder
    is_shared: bool
    """Whether all nodes can read the folder, and with it the manifest."""
    tag: Tag
    audio: Audio
    model: Any
    chunks: bool
    embeddings: bool
    environment: Environment
    roots: tuple[str, ...] = ()
    """Local folders that the clips lie in. Where one is gone or empty, a disk is, and not its clips."""


def _rows(block: pa.Table, brief: Brief) -> pa.Table:
    """The manifest's rows of the shard that a block names. Raises UserError where the output is gone."""
    check_there(brief.folder)
    work = json.loads(block.column(WORK)[0].as_py())
    shard = Shard(**work["shard"])
    table = patiently(lambda: manifest.read(brief.folder, shard), brief.tag.storage)
    table = table.append_column(PART, pa.array([work["part"]] * table.num_rows))
    for name, first in ((ROW, work["offset"]), (CODED_ROW, shard.first)):
        table = table.append_column(name, pa.array(range(first, first + table.num_rows), pa.int64()))
    return table if work["only"] is None else table.take(pa.array(work["only"], pa.int64()))


# In what workers run, steps are imported late: torch takes two seconds that the driver need not wait for. And after
# `adopt`, which sees to it that they are found.


def _stoppable(work: Callable[P, Iterator[pa.Table]]) -> Callable[P, Iterator[pa.Table]]:
    """Has a worker's step end with a row that stops the job, instead of a UserError: see tags.STOPPED."""

    @wraps(work)
    def tried(*args: P.args, **kwargs: P.kwargs) -> Iterator[pa.Table]:
        try:
            yield from work(*args, **kwargs)
        except UserError as error:
            from looptagger.steps.decoding import stopped

            yield stopped(pa.table({WORK: [""]}), str(error))

    return tried


@_stoppable
def _read(block: pa.Table, brief: Brief) -> Iterator[pa.Table]:
    """A block that names a shard -> its rows."""
    adopt(brief.environment)
    yield _rows(block, brief)


@_stoppable
def _decode(block: pa.Table, brief: Brief) -> Iterator[pa.Table]:
    """A block that names a shard, or what `_read` made of it -> decoded rows."""
    adopt(brief.environment)
    from looptagger.steps.isolated import HELPER

    rows = _rows(block, brief) if block.column_names == [WORK] else block
    if WORK in rows.column_names:  # not the shard's rows, but why the job cannot go on
        yield rows
    else:  # steps.decoding.decoded, in this worker's helper process
        for table in HELPER.run_step("decoded", rows, brief.tag.limits, audio=brief.audio, tag=brief.tag):
            _check_roots(table, brief.roots)
            yield table


def _check_roots(table: pa.Table, roots: Sequence[str]) -> None:
    """Raise UserError where clips are missing with the folder that they lie in: a disk that is not mounted here."""
    uris = table.filter(pc.equal(table.column("status"), "missing")).column("uri").to_pylist()
    missing = [os.fsdecode(local_path(uri)) for uri in uris]
    for root in roots:
        above = os.fsdecode(local_path(root)).rstrip("/") + "/"
        if any(path.startswith(above) for path in missing) and not holds_anything(os.fsencode(above)):
            remedy = "mount it and run the same command (if it is gone for good, put any file there)"
            raise UserError(f"{root}: is gone or empty on {socket.gethostname()}; {remedy}.")


class Predict:
    """An actor that keeps the model. On a CPU core it is handed shards, and decodes their rows itself."""

    def __init__(self, brief: Brief, decodes: bool) -> None:
        adopt(brief.environment)
        from looptagger.steps.isolated import HELPER

        if decodes:
            HELPER.ready()  # it wakes up while torch is imported
        import torch

        from looptagger.cluster.meters import Meters
        from looptagger.model.predictor import Predictor, is_short_of_memory

        torch.set_num_threads(1)
        memory.keep()
        self.brief, self.decodes, self.refused = brief, decodes, ""
        try:
            compute = brief.tag.compute.model_copy(update={"device": _device(brief.tag.compute.device, decodes)})
            self.predictor = Predictor(ray.get(brief.model), compute=compute)
            self.meters = Meters(self.predictor.batch)
        except UserError as error:  # an actor that cannot be made would end the job without this sentence
            self.refused = str(error)
        except RuntimeError as error:
            if not is_short_of_memory(error):
                raise
            self.refused = f"memory does not hold the model; free some{', or use compute.device=cpu' * (not decodes)}."

    @_stoppable
    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """Tagged rows: on a CPU of the shard that the block names, on a GPU of the decoded rows that it is."""
        from looptagger.steps.tagging import tagged

        if self.refused:
            raise UserError(self.refused)
        for table in _decode(block, self.brief) if self.decodes else (block,):
            began = time.perf_counter()
            result = tagged(table, self.predictor, self.brief.chunks, self.brief.embeddings)
            self.meters.count(result, time.perf_counter() - began)
            yield result


def _device(wanted: str, decodes: bool) -> str:
    """Where an actor's model runs: as the plan has it, whatever `auto` would find. Raises UserError."""
    import torch

    if not decodes and not torch.cuda.is_available() and not os.environ.get(PRETENDED):
        raise UserError(
            f"{socket.gethostname()} has a GPU that Ray offers and PyTorch cannot use; bring its driver and torch "
            "together, or use compute.device=cpu."
        )
    return "cpu" if decodes else wanted


def pipeline(works: Sequence[Work], brief: Brief, plan: Plan) -> Any:
    """The lazy Ray dataset of tagged rows."""
    works = list(with_small_ends(works, plan.cores))
    named = [{WORK: json.dumps(asdict(work))} for work in works]  # each shard's rows are read where they are needed
    shards = _where_readable(ray.data.from_items(named, override_num_blocks=len(works)), brief, plan)
    batches: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
    if not plan.predictors:
        actor = {"fn_constructor_args": (brief, True), "compute": _pool(plan.cores, works), "num_cpus": CORE}
        return shards.map_batches(Predict, batch_size=None, **actor, **batches)
    decoded = shards.map_batches(_decode, fn_kwargs={"brief": brief}, batch_size=None, num_cpus=CORE, **batches)
    most = max(1, min(GPU_ROWS, GPU_CHUNKS // brief.tag.chunking.max_chunks))
    actor = {"fn_constructor_args": (brief, False), "compute": _pool(plan.predictors, works), "num_cpus": 0}
    return decoded.map_batches(Predict, batch_size=most, num_gpus=plan.gpus_per_predictor, **actor, **batches)


def _pool(now: int, works: Sequence[Work]) -> ActorPoolStrategy:
    """As many actors as there is room for now, and more when nodes join: no more than there is work for."""
    some = min(now, len(works))
    return ActorPoolStrategy(min_size=some, max_size=max(some, len(works)), max_tasks_in_flight_per_actor=QUEUED)


def _where_readable(shards: Any, brief: Brief, plan: Plan) -> Any:
    """Shards as they are, where every node can read the manifest; else their rows, read by tasks on this one.

    Those ask for no CPU: Ray Data would wait for one for ever, in silence, beside workers that hold all (ray#44687).
    """
    if brief.is_shared:
        return shards
    here = ray.get_runtime_context().get_node_id()
    placed = {"num_cpus": 0, "label_selector": {"ray.io/node-id": here}}
    pool = TaskPoolStrategy(size=max(1, plan.cores // 4))  # each a process; Ray would start one for each shard
    return shards.map_batches(
        _read, fn_kwargs={"brief": brief}, batch_size=None, batch_format="pyarrow", compute=pool, **placed
    )


def _raise_stop(block: pa.Table) -> None:
    """Raise the UserError that a worker met, where a block says that it did."""
    stops = block.filter(pc.equal(block.column("status"), STOPPED))
    if stops.num_rows:
        raise UserError(stops.column("error")[0].as_py())


def run(writer: PartWriter, brief: Brief, plan: Plan, progress: Progress, events: "Events") -> None:
    """Tag the writer's rows; events are told of every block of rows.

    Raises UserError for what a worker met and the user can mend, and where rows did not come back.
    """
    events.progress(progress)
    dataset = pipeline(writer.works, brief, plan)
    with watched(progress, events.note):
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            _raise_stop(block)
            progress.count(block)
            writer.add(block)
            events.rows(block)
            events.progress(progress)
    if writer.left:
        raise UserError(f"{writer.left:,} clips came back from Ray without a row; run the same command again.")
