"""The tagging job on Ray Data: shards of the manifest -> decode -> predict -> parts.

One task a shard, or a piece of one. Without GPUs an actor a core reads its rows, decodes and predicts; with them,
decoding tasks feed predictor actors. Tagged rows (some hundred bytes each) stream to this process, the only one that
writes.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from typing import Any, ParamSpec

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from looptagger.archive.manifest import Shard
from looptagger.archive.output import Work
from looptagger.cluster.engine import Engine
from looptagger.cluster.environment import Environment, adopt, storage_environment
from looptagger.cluster.plan import CORE, Plan, plan, with_small_ends
from looptagger.cluster.session import Note, session, store_use
from looptagger.errors import UserError
from looptagger.steps import worker
from looptagger.steps.worker import Brief, Tagger

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
class Errand:
    """A brief on its way through a cluster."""

    brief: Brief
    is_shared: bool
    """Whether all nodes can read the output's folder, and with it the manifest."""
    model: Any
    """The checkpoint, as an object of Ray's store: it travels once a node."""
    environment: Environment


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


def _rows(block: pa.Table, errand: Errand) -> pa.Table:
    """The manifest's rows of the shard that a block names."""
    work = json.loads(block.column(WORK)[0].as_py())
    return worker.rows(Work(**work | {"shard": Shard(**work["shard"])}), errand.brief)


@_stoppable
def _read(block: pa.Table, errand: Errand) -> Iterator[pa.Table]:
    """A block that names a shard -> its rows."""
    adopt(errand.environment)
    yield _rows(block, errand)


@_stoppable
def _decode(block: pa.Table, errand: Errand) -> Iterator[pa.Table]:
    """A block that names a shard, or what `_read` made of it -> decoded rows."""
    adopt(errand.environment)
    rows = _rows(block, errand) if block.column_names == [WORK] else block
    if WORK in rows.column_names:  # not the shard's rows, but why the job cannot go on
        yield rows
    else:
        yield from worker.decoded(rows, errand.brief)


class Predict:
    """An actor that keeps the model. On a CPU core it is handed shards, and decodes their rows itself."""

    def __init__(self, errand: Errand, decodes: bool) -> None:
        adopt(errand.environment)
        self.errand, self.decodes, self.refused = errand, decodes, ""
        try:
            device = _device(errand.brief.tag.compute.device, decodes)
            self.tagger = Tagger(errand.brief, ray.get(errand.model), device, decodes)
        except UserError as error:  # an actor that cannot be made would end the job without this sentence
            self.refused = str(error)
            return
        from looptagger.cluster.meters import Meters

        self.meters = Meters(self.tagger.predictor.batch)

    @_stoppable
    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """Tagged rows: on a CPU of the shard that the block names, on a GPU of the decoded rows that it is."""
        if self.refused:
            raise UserError(self.refused)
        for table in _decode(block, self.errand) if self.decodes else (block,):
            began = time.perf_counter()
            result = self.tagger(table)
            self.meters.count(result, time.perf_counter() - began)
            yield result


def _device(wanted: str, decodes: bool) -> str:
    """Where an actor's model runs: as the plan has it, whatever `auto` would find. Raises UserError."""
    if decodes:
        return "cpu"
    import torch

    if not torch.cuda.is_available() and not os.environ.get(PRETENDED):
        raise UserError(
            f"{socket.gethostname()} has a GPU that Ray offers and PyTorch cannot use; bring its driver and torch "
            "together, or use compute.device=cpu."
        )
    return wanted


def pipeline(works: Sequence[Work], errand: Errand, plan: Plan) -> Any:
    """The lazy Ray dataset of tagged rows."""
    works = list(with_small_ends(works, plan.cores))
    named = [{WORK: json.dumps(asdict(work))} for work in works]  # each shard's rows are read where they are needed
    shards = _where_readable(ray.data.from_items(named, override_num_blocks=len(works)), errand, plan)
    batches: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
    if not plan.predictors:
        actor = {"fn_constructor_args": (errand, True), "compute": _pool(plan.cores, works), "num_cpus": CORE}
        return shards.map_batches(Predict, batch_size=None, **actor, **batches)
    decoded = shards.map_batches(_decode, fn_kwargs={"errand": errand}, batch_size=None, num_cpus=CORE, **batches)
    most = max(1, min(GPU_ROWS, GPU_CHUNKS // errand.brief.tag.chunking.max_chunks))
    actor = {"fn_constructor_args": (errand, False), "compute": _pool(plan.predictors, works), "num_cpus": 0}
    return decoded.map_batches(Predict, batch_size=most, num_gpus=plan.gpus_per_predictor, **actor, **batches)


def _pool(now: int, works: Sequence[Work]) -> ActorPoolStrategy:
    """As many actors as there is room for now, and more when nodes join: no more than there is work for."""
    some = min(now, len(works))
    return ActorPoolStrategy(min_size=some, max_size=max(some, len(works)), max_tasks_in_flight_per_actor=QUEUED)


def _where_readable(shards: Any, errand: Errand, plan: Plan) -> Any:
    """Shards as they are, where every node can read the manifest; else their rows, read by tasks on this one.

    Those ask for no CPU: Ray Data would wait for one for ever, in silence, beside workers that hold all (ray#44687).
    """
    if errand.is_shared:
        return shards
    here = ray.get_runtime_context().get_node_id()
    placed = {"num_cpus": 0, "label_selector": {"ray.io/node-id": here}}
    pool = TaskPoolStrategy(size=max(1, plan.cores // 4))  # each a process; Ray would start one for each shard
    return shards.map_batches(
        _read, fn_kwargs={"errand": errand}, batch_size=None, batch_format="pyarrow", compute=pool, **placed
    )


@contextmanager
def engine(works: Sequence[Work], brief: Brief, model: bytes, address: str | None, note: Note) -> Iterator[Engine]:
    """Workers of the Ray session that is open, of the cluster at an address, or of a Ray that is started here."""
    compute = brief.tag.compute
    with session(address, note, compute.gpus_per_predictor if compute.device == "cuda" else 0) as is_own:
        have = ray.cluster_resources()
        divided = plan(have.get("CPU", 0), have.get("GPU", 0), compute)
        is_shared = is_own or not brief.folder.is_local  # a Ray of our own has this machine only
        errand = Errand(brief, is_shared, ray.put(model), storage_environment())
        spilled = store_use()[1]

        def blocks() -> Generator[pa.Table]:
            dataset = pipeline(works, errand, divided)
            yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)

        yield Engine(divided, blocks, _free, lambda: store_use()[1] - spilled)


def _free() -> str:
    """What of the cluster waits for work."""
    have, free = ray.cluster_resources(), ray.available_resources()
    kinds = [kind for kind in ("CPU", "GPU") if have.get(kind)]
    said = " and ".join(f"{free.get(kind, 0):g} of {have[kind]:g} {kind}s" for kind in kinds) or "no CPU"
    why = "long clips, a store that is away, another job, or nodes that are gone or short of memory"
    return f"Ray has {said} free. It may be {why}."
