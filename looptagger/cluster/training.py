"""Training on Ray Train: one TorchTrainer around learn.training, the same on one CPU worker and on many GPUs.

The training part's rows come through Ray Data, split over the workers; each worker reads its own share of the
validation part. The run's folder holds the state that resumes; Ray only replaces workers that die.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import ray
import ray.data
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Empty, Queue

from looptagger.archive.storage import Folder
from looptagger.archive.tags import read_part
from looptagger.cluster.parts import READER, PartSource
from looptagger.cluster.plan import Workforce
from looptagger.cluster.session import adopt
from looptagger.errors import UserError, one_line
from looptagger.learn import table
from looptagger.learn.table import Dataset

WAIT_S = 0.5


@dataclass(frozen=True)
class Job:
    """What every worker needs to know. `task` is a learn.training.Task, pickled as it is."""

    task: Any
    data: Folder
    dataset: Dataset
    out: Folder
    environment: dict[str, str] = field(repr=False)
    words: Any = None
    """The queue to the driver."""


def work(config: dict[str, Any]) -> None:
    """A worker's life: find its place among the others and train."""
    import torch

    from looptagger.learn.peers import Peers
    from looptagger.learn.training import Told, fit

    job: Job = config["job"]
    adopt(job.environment)
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    threads = max(1, len(os.sched_getaffinity(0)) // context.get_local_world_size())
    torch.set_num_threads(threads)  # Ray sets one a logical CPU
    peers = Peers(context.get_world_rank(), context.get_world_size(), device, threads)
    shard = ray.train.get_dataset_shard("train")
    mine = job.dataset.parts[peers.rank :: peers.world]
    settings = job.task.settings
    told = Told(_step_teller(job.words), lambda row: _tell_epoch(job.words, row))
    fit(
        job.task,
        lambda: shard.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1),
        lambda: (table.in_part(read_part(job.data, name), settings.split, "validation") for name in mine),
        job.out,
        peers,
        told,
    )
    if peers.rank == 0:
        job.words.put(("done", None))


def _step_teller(words: Queue) -> Callable[[int, int, int, float], None]:
    return lambda *step: words.put_nowait(("step", step))


def _tell_epoch(words: Queue, row: dict[str, Any]) -> None:
    words.put_nowait(("epoch", row))


def trainer(job: Job, force: Workforce, retries: int) -> TorchTrainer:
    """The lazy training. Ray's own bookkeeping goes under the run's folder, a name a launch: we resume ourselves."""
    source = PartSource(job.data, job.dataset.parts, job.task.settings.split, job.environment)
    rows = ray.data.read_datasource(source, override_num_blocks=len(job.dataset.parts), num_cpus=READER)
    return TorchTrainer(
        work,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(
            num_workers=force.workers, use_gpu=force.gpus > 0, resources_per_worker=force.resources
        ),
        torch_config=TorchConfig(backend="nccl" if force.gpus else "gloo"),
        datasets={"train": rows},
        dataset_config=ray.train.DataConfig(datasets_to_split=["train"]),
        run_config=ray.train.RunConfig(
            name=f"launch-{time.time_ns()}",
            failure_config=ray.train.FailureConfig(max_failures=retries),
            **_place(job.out),
        ),
    )


def _place(out: Folder) -> dict[str, Any]:
    """Where Ray keeps its own record of a run, which nothing of ours reads."""
    if out.is_local:
        return {"storage_path": os.path.join(out.path, "_ray")}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return {"storage_path": f"{out.path}/_ray", "storage_filesystem": PyFileSystem(FSSpecHandler(out.fs))}


def run(job: Job, force: Workforce, retries: int, heard: Callable[[str, Any], None]) -> None:
    """Train to the end; `heard` is called with ("step", ...) and ("epoch", row). Raises UserError.

    The trainer runs in a thread, so that this one hears the workers' words, and an interrupt.
    """
    words = Queue(actor_options={"num_cpus": 0})
    outcome: list[BaseException | None] = []

    def fit() -> None:
        try:
            trainer(replace(job, words=words), force, retries).fit()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=fit, daemon=True, name="trainer")
    thread.start()
    ended = False
    while not ended and thread.is_alive():  # Ray's own tidying up after the last epoch can take 10 s; nobody needs it
        ended = _hear(words, heard)
    if not ended and not _hear(words, heard) and outcome[0] is not None:
        raise _translated(outcome[0])


def _hear(words: Queue, heard: Callable[[str, Any], None]) -> bool:
    """Pass on the workers' words; True after the last."""
    try:
        while True:
            kind, what = words.get(timeout=WAIT_S)
            if kind == "done":
                return True
            heard(kind, what)
    except Empty:
        return False


def _translated(error: BaseException) -> BaseException:
    """A worker's own UserError where that ended the training, else what there is."""
    failures = getattr(error, "worker_failures", None) or {}
    for failure in [*failures.values(), error]:
        cause: BaseException | None = failure
        while cause is not None:
            inner = getattr(cause, "cause", None) or cause.__cause__
            if isinstance(cause, UserError):
                return UserError(str(cause))
            cause = inner if isinstance(inner, BaseException) else None
    return RuntimeError(f"training failed: {one_line(error)}")
