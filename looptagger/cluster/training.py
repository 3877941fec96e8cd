"""Training on Ray: one worker is a task, several are a TorchTrainer's; each runs learn.training, on CPUs or GPUs.

Each worker reads its own share of the data set. The run's folder holds the state that resumes; Ray only replaces
workers that die.
"""

import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
import ray.exceptions
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from looptagger.archive.storage import Folder
from looptagger.cluster.environment import Environment, adopt
from looptagger.cluster.plan import CORE, Workforce
from looptagger.errors import UserError, one_line
from looptagger.learn.table import Dataset
from looptagger.learn.task import Task

# Ray Train is imported by those who need it: with it comes torch, which takes seconds.

WAIT_S = 0.5
KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
"""Has glibc keep what a worker frees. By default it gives large blocks back to the kernel, which zeroes them again for
each tensor of each step: half of a training's time on CPUs."""


@dataclass(frozen=True)
class Job:
    """What every worker needs to know."""

    task: Task
    data: Folder
    dataset: Dataset
    out: Folder
    environment: Environment
    words: Any = None
    """The queue to the driver."""


def work(config: dict[str, Any]) -> None:
    """The life of one worker among others: find its place, train, say how it ended."""
    import ray.train.torch

    context, device = ray.train.get_context(), ray.train.torch.get_device()
    _live(config["job"], context.get_world_rank(), context.get_world_size(), context.get_local_world_size(), device)


def alone(job: Job, on_gpu: bool) -> None:
    """The life of a worker that has no others."""
    with suppress(UserError):  # is said; raised, it would be tried again
        _live(job, 0, 1, 1, "cuda:0" if on_gpu else "cpu")


def _live(job: Job, rank: int, world: int, here: int, device: Any) -> None:
    """Train as number `rank` of `world` workers, of which `here` are on this machine. Raises UserError."""
    adopt(job.environment)
    try:
        job.words.qsize()  # dead where the one who asked for the training has gone
        _fit(job, _peers(rank, world, here, device), here)
    except RuntimeError as error:
        from looptagger.model.predictor import is_short_of_memory

        if not is_short_of_memory(error):
            raise
        crops = job.task.settings.batch // world
        less = "more compute.workers" if "cuda" in str(device) else "compute.keep_bytes"
        said = f"memory does not hold {crops} crops at once; set a smaller batch, or {less}."
        job.words.put(("error", said))
        raise UserError(said) from None
    except UserError as error:
        job.words.put(("error", str(error)))
        raise
    except ray.exceptions.RayActorError:
        raise UserError("nobody listens any more") from None
    if rank == 0:
        job.words.put(("done", None))


def _fit(job: Job, peers: Any, here: int) -> None:
    from looptagger.learn import record
    from looptagger.learn.share import Share, default_keep
    from looptagger.learn.training import fit

    if job.out.read(record.ASKED) is None:
        host = socket.gethostname()
        raise UserError(f"{job.out.uri}: {host} sees no run there; use s3:// or a folder that all machines share.")
    settings = job.task.settings
    asked = settings.compute.keep_bytes
    keep = default_keep(here) if asked is None else asked
    share = Share(job.data, job.dataset.parts, settings.split, keep, peers.rank, peers.world)
    fit(job.task, share, job.out, peers, lambda *word: job.words.put_nowait(word))


def _peers(rank: int, world: int, here: int, device: Any) -> Any:
    """This worker's place, with its device and threads made ready."""
    import joblib
    import torch

    from looptagger.learn.peers import Peers

    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"{socket.gethostname()} has no GPU that PyTorch can use, though Ray offers one; mend that, "
            "or use compute.device=cpu."
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    torch.set_num_threads(max(1, joblib.cpu_count() // here))  # those of a container; Ray sets one a logical CPU
    return Peers(rank, world, device)


def run(job: Job, force: Workforce, told: Callable[[str, Any], None]) -> None:
    """Train to the end; `told` is called with ("step", ...) and ("epoch", row). Raises UserError."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    words = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})  # no other node's end may take it along
    job = replace(job, words=words)
    outcome = _one(job, force) if force.workers == 1 else _several(job, force, here)
    try:
        while not (is_done := _pass_on(words, told)) and not ray.wait([outcome], timeout=0)[0]:
            pass  # Ray's own tidying up after the last epoch can take 10 s; nobody needs it
        if not is_done and not _pass_on(words, told):  # its last words may have come since
            _end(outcome)
    except BaseException:  # in a session that stays open, the workers would go on with a run that others may take up
        words.shutdown(force=True)
        raise


def _one(job: Job, force: Workforce) -> Any:
    """A worker as a task, on any node. Ray Train would start six more processes for it: 12 to 19 s on two cores."""
    memory = {"runtime_env": {"env_vars": {} if force.gpus else KEEP_MEMORY}}
    again = {"max_retries": job.task.settings.compute.retries, "retry_exceptions": True}
    task = ray.remote(max_calls=1)(alone).options(num_cpus=CORE, num_gpus=force.gpus, **again, **memory)
    return task.remote(job, force.gpus > 0)


def _several(job: Job, force: Workforce, here: NodeAffinitySchedulingStrategy) -> Any:
    """A TorchTrainer, in a process of its own beside this one, which hears the workers' words, and an interrupt.

    A thread that waits inside Ray while another shuts it down can crash both.
    """
    trained = ray.remote(max_calls=1)(_train)  # in a process that ends with it: it would keep Ray Train's actors alive
    return trained.options(num_cpus=0, max_retries=0, scheduling_strategy=here).remote(job, force)


def _train(job: Job, force: Workforce) -> None:
    """Ray's own record of a training goes to a passing folder: we resume ourselves."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    with tempfile.TemporaryDirectory(prefix="looptagger-", ignore_cleanup_errors=True) as scratch:
        TorchTrainer(
            work,
            train_loop_config={"job": job},
            scaling_config=ray.train.ScalingConfig(
                num_workers=force.workers, use_gpu=force.gpus > 0, resources_per_worker=force.resources
            ),
            torch_config=TorchConfig(backend="nccl" if force.gpus else "gloo"),
            run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # mypy sees Train V1's
                name="training",
                failure_config=ray.train.FailureConfig(max_failures=job.task.settings.compute.retries),
                storage_path=scratch,
                worker_runtime_env={"env_vars": {} if force.gpus else KEEP_MEMORY},
            ),
        ).fit()


def _end(outcome: Any) -> None:
    """Raise what ended a training that said nothing itself."""
    try:
        ray.get(outcome)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise UserError(
            "the training's worker was killed again and again, as where memory is short: set compute.keep_bytes or "
            f"batch lower; the same command goes on after the last epoch ({one_line(error)[:120]})."
        ) from error
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"training failed: {one_line(getattr(error, 'cause', error))}") from error


def _pass_on(words: Queue, told: Callable[[str, Any], None]) -> bool:
    """Pass on the workers' words; True after the last. Raises the UserError that ended one of them."""
    try:
        while True:
            kind, what = words.get(timeout=WAIT_S)
            if kind == "done":
                return True
            if kind == "error":
                raise UserError(what)
            told(kind, what)
    except Empty:
        return False
