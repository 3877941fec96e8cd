"""Training on this machine's cores alone, without Ray: a process a worker, all begun anew where one dies."""

import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

from looptagger.cluster.plan import Workforce
from looptagger.cluster.processes import Fault, Process, ending, heard
from looptagger.learn.worker import KEEP_MEMORY, Job, Place, killed, live

ENVIRONMENT = {**KEEP_MEMORY, "GLOO_SOCKET_IFNAME": "lo"}
"""Workers of one machine need no network."""
LOST_AFTER = timedelta(hours=12)
"""One that dies is seen at once; one that is slow is waited for."""


def run(job: Job, force: Workforce, told: Callable[[str, Any], None]) -> None:
    """Train to the end; `told` is called with ("step", ...) and ("epoch", row). Raises UserError."""
    for tries in range(job.task.settings.compute.retries, -1, -1):
        with tempfile.TemporaryDirectory(prefix="looptagger-", ignore_cleanup_errors=True) as scratch:
            crew: list[Process] = []
            try:
                for rank in range(force.workers):
                    place = Place(rank, force.workers, force.workers)
                    crew.append(Process(_live, job, place, scratch, env=ENVIRONMENT))
                for each in crew:
                    each.begin()
                return _listen(crew, told)
            except Fault as error:
                _check_alive(crew, error, tries)
            finally:
                for each in crew:
                    each.end()


def _listen(crew: Sequence[Process], told: Callable[[str, Any], None]) -> None:
    """Pass on the workers' words, up to the last. Raises what ended one of them."""
    by_link: dict[Any, Process] = {each.link: each for each in crew}
    while True:
        faults = []  # the others' that follow from what a user can mend in one
        for link in wait(list(by_link)):
            try:
                said = by_link[link].hear()
            except Fault as error:
                faults.append(error)
                continue
            if said is None:
                by_link[link].process.wait()  # its exit code is asked for next
                faults.append(Fault("a worker is gone"))
            elif said[0] == "done":
                return
            else:
                told(*said)
        if faults:
            raise faults[0]


def _check_alive(crew: Sequence[Process], error: Fault, tries: int) -> None:
    """Raise what ended a training that cannot be tried again."""
    if tries:
        return
    codes = [code for each in crew if (code := each.process.poll())]
    raise killed(ending(codes[0])) if codes else error


def _live(link: Connection, job: Job, place: Place, scratch: str) -> None:
    """A worker's life, to the end of the one who asked for it: the first worker has words left when others have not."""
    nothing = heard(link)
    import torch.distributed as dist

    if place.world > 1:
        where = f"file://{scratch}/peers"
        dist.init_process_group("gloo", init_method=where, rank=place.rank, world_size=place.world, timeout=LOST_AFTER)
    live(job, place, lambda *word: link.send(word))
    nothing.get()
