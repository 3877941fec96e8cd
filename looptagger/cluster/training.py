"""Training on Ray: one worker is a task, several are a TorchTrainer's; each runs learn.training, on CPUs or GPUs.

Each worker reads its own share of the data set. The run's folder holds the state that resumes; Ray only replaces
workers that die.
"""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from looptagger.cluster.environment import Environment, adopt, storage_environment
from looptagger.cluster.plan import CORE, Workforce
from looptagger.errors import UserError, one_line
from looptagger.learn.worker import KEEP_MEMORY, Job, Place, killed, live

# Ray Train is imported by those who need it: with it comes torch, which takes seconds.

WAIT_S = 0.5


@dataclass(frozen=True)
class Errand:
    """A job on its way through a cluster."""

    job: Job
    environment: Environment
    words: Queue
    """To the driver."""


def work(config: dict[str, Any]) -> None:
    """The life of one worker among others."""
    import ray.train.torch

    context, device = ray.train.get_context(), ray.train.torch.get_device()
    numbers = (context.get_world_rank(), context.get_world_size(), context.get_local_world_size())
    _live(config["errand"], Place(*numbers, device))


def alone(errand: Errand, on_gpu: bool) -> None:
    """The life of a worker that has no others."""
    with suppress(UserError):  # is said; raised, it would be tried again
        _live(errand, Place(device="cuda:0" if on_gpu else "cpu"))


def _live(errand: Errand, place: Place) -> None:
    """Train, and say how it ended. Raises UserError."""
    adopt(errand.environment)
    words = errand.words
    try:
        words.qsize()  # dead where the one who asked for the training has gone
        live(errand.job, place, lambda *word: words.put_nowait(word))
    except UserError as error:
        words.put(("error", str(error)))
        raise
    except ray.exceptions.RayActorError:
        raise UserError("nobody listens any more") from None


def run(job: Job, force: Workforce, told: Callable[[str, Any], None]) -> None:
    """Train to the end; `told` is called with ("step", ...) and ("epoch", row). Raises UserError."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    words = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})  # no other node's end may take it along
    errand = Errand(job, storage_environment(), words)
    outcome = _one(errand, force) if force.workers == 1 else _several(errand, force, here)
    try:
        while not (is_done := _pass_on(words, told)) and not ray.wait([outcome], timeout=0)[0]:
            pass  # Ray's own tidying up after the last epoch can take 10 s; nobody needs it
        if not is_done and not _pass_on(words, told):  # its last words may have come since
            _end(outcome)
    except BaseException:  # in a session that stays open, the workers would go on with a run that others may take up
        words.shutdown(force=True)
        raise


def _one(errand: Errand, force: Workforce) -> Any:
    """A worker as a task, on any node. Ray Train would start six more processes for it: 12 to 19 s on two cores."""
    memory = {"runtime_env": {"env_vars": {} if force.gpus else KEEP_MEMORY}}
    again = {"max_retries": errand.job.task.settings.compute.retries, "retry_exceptions": True}
    task = ray.remote(max_calls=1)(alone).options(num_cpus=CORE, num_gpus=force.gpus, **again, **memory)
    return task.remote(errand, force.gpus > 0)


def _several(errand: Errand, force: Workforce, here: NodeAffinitySchedulingStrategy) -> Any:
    """A TorchTrainer, in a process of its own beside this one, which hears the workers' words, and an interrupt.

    A thread that waits inside Ray while another shuts it down can crash both.
    """
    trained = ray.remote(max_calls=1)(_train)  # in a process that ends with it: it would keep Ray Train's actors alive
    return trained.options(num_cpus=0, max_retries=0, scheduling_strategy=here).remote(errand, force)


def _train(errand: Errand, force: Workforce) -> None:
    """Ray's own record of a training goes to a passing folder: we resume ourselves."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    with tempfile.TemporaryDirectory(prefix="looptagger-", ignore_cleanup_errors=True) as scratch:
        TorchTrainer(
            work,
            train_loop_config={"errand": errand},
            scaling_config=ray.train.ScalingConfig(
                num_workers=force.workers, use_gpu=force.gpus > 0, resources_per_worker=force.resources
            ),
            torch_config=TorchConfig(backend="nccl" if force.gpus else "gloo"),
            run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # mypy sees Train V1's
                name="training",
                failure_config=ray.train.FailureConfig(max_failures=errand.job.task.settings.compute.retries),
                storage_path=scratch,
                worker_runtime_env={"env_vars": {} if force.gpus else KEEP_MEMORY},
            ),
        ).fit()


def _end(outcome: Any) -> None:
    """Raise what ended a training that said nothing itself."""
    try:
        ray.get(outcome)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise killed(one_line(error)[:120]) from error
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
