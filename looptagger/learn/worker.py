"""The life of one worker of a training, whoever runs it. No Ray here."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from looptagger.archive.storage import Folder
from looptagger.errors import UserError
from looptagger.learn.table import Dataset
from looptagger.learn.task import Task

# What needs torch is imported by those who train: it takes seconds that the driver need not wait for.

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


@dataclass(frozen=True)
class Place:
    """A worker's number among `world` of them, of which `here` are on its machine, and its device."""

    rank: int = 0
    world: int = 1
    here: int = 1
    device: Any = "cpu"


def live(job: Job, place: Place, say: Callable[[str, Any], None]) -> None:
    """Train to the end, and tell of it: "step", "epoch" (see `training.fit`), and "done". Raises UserError."""
    try:
        _fit(job, place, say)
    except (RuntimeError, MemoryError) as error:
        from looptagger.model.predictor import is_short_of_memory

        if not is_short_of_memory(error):
            raise
        crops = job.task.settings.batch // place.world
        less = "more compute.workers" if "cuda" in str(place.device) else "compute.keep_bytes"
        raise UserError(f"memory does not hold {crops} crops at once; set a smaller batch, or {less}.") from None
    if place.rank == 0:
        say("done", None)


def _fit(job: Job, place: Place, say: Callable[[str, Any], None]) -> None:
    from looptagger.learn import record
    from looptagger.learn.share import Share, default_keep
    from looptagger.learn.training import fit

    peers = _peers(place)
    if job.out.read(record.ASKED) is None:
        host = socket.gethostname()
        raise UserError(f"{job.out.uri}: {host} sees no run there; use s3:// or a folder that all machines share.")
    settings = job.task.settings
    asked = settings.compute.keep_bytes
    keep = default_keep(place.here) if asked is None else asked
    share = Share(job.data, job.dataset.parts, settings.split, keep, peers.rank, peers.world)
    fit(job.task, share, job.out, peers, say)


def _peers(place: Place) -> Any:
    """This worker as the others see it, with its device and threads made ready."""
    import joblib
    import torch

    from looptagger.learn.peers import Peers

    device = torch.device(place.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"{socket.gethostname()} has no GPU that PyTorch can use, though Ray offers one; mend that, "
            "or use compute.device=cpu."
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    torch.set_num_threads(max(1, joblib.cpu_count() // place.here))  # a container's; Ray sets one a logical CPU
    return Peers(place.rank, place.world, device)


def killed(how: str) -> UserError:
    """What is said of a training whose worker was killed once too often."""
    return UserError(
        "the training's worker was killed again and again, as where memory is short: set compute.keep_bytes or "
        f"batch lower; the same command goes on after the last epoch ({how})."
    )
