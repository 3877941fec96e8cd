"""The tagging job on this machine's cores alone, without Ray: it starts in seconds, and leaves the cores to the work.

A worker, a process a core, reads a shard's rows, decodes and predicts, as one of Ray's does (`steps.worker`). It ends
when this process is gone, as the link between them is then closed. One that dies is replaced, its shards begun anew.
"""

import signal
import subprocess
import sys
import traceback
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

import joblib
import pyarrow as pa

from looptagger.archive.output import Work
from looptagger.cluster.engine import Engine
from looptagger.cluster.plan import Plan, plan, with_small_ends
from looptagger.config import Compute
from looptagger.errors import UserError
from looptagger.steps.worker import Brief, Tagger, decoded, rows

START = "import sys; sys.path.append(sys.argv[1]); from looptagger.cluster import cores; cores.serve()"
"""Not `-m`: it takes the folder that a user is in for the first place of modules, such as an av.py there."""
AHEAD = 2
"""Works that a worker has at once: it need not wait for the next."""
LOST = 3
"""Workers that may die at the same work."""
DONE = "done"
"""What a worker says after the last rows of a work."""


class Worker:
    """A process that tags, from this side of the link."""

    def __init__(self) -> None:
        self.link, other = Pipe()
        root, number = str(Path(__file__).parents[2]), other.fileno()
        command = [sys.executable, "-P", "-c", START, root, str(number)]
        quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        # In a group of its own: Ctrl-C is for the job, which ends this.
        self.process = subprocess.Popen(command, pass_fds=[number], process_group=0, **quiet)
        other.close()
        self.works = deque[Work]()
        """What it was given and has not done."""

    def tell(self, said: Any) -> None:
        """Send it something. That it is gone shows when it is to be heard."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.link.send(said)

    def give(self, waiting: deque[Work]) -> None:
        """As much of what waits as it takes."""
        while waiting and len(self.works) < AHEAD:
            self.works.append(waiting.popleft())
            self.tell(self.works[-1])

    def hear(self) -> Any:
        """What it says next; None where it is gone."""
        with suppress(EOFError, ConnectionResetError):
            return self.link.recv()
        return None

    def end(self) -> int:
        """End it, whatever it is at. Its exit code."""
        self.link.close()
        self.process.kill()
        return self.process.wait()


class Team:
    """The workers of a job, and what none of them has been given yet."""

    def __init__(self, works: Sequence[Work], cores: int, brief: Brief, model: bytes) -> None:
        self.waiting = deque(with_small_ends(works, cores))
        self.begin = (brief, model)
        self.deaths = Counter[Work]()
        self.workers: dict[Connection, Worker] = {}
        self.join([Worker() for _ in range(min(cores, len(self.waiting)))])

    def join(self, new: Sequence[Worker]) -> None:
        """Take in workers that have been started."""
        self.workers |= {worker.link: worker for worker in new}
        for worker in new:
            worker.tell(self.begin)
            worker.give(self.waiting)

    def blocks(self) -> Generator[pa.Table]:
        """Tagged rows until all works are done. Raises UserError for what a worker met and the user can mend."""
        while any(worker.works for worker in self.workers.values()):
            for link in wait(list(self.workers)):
                worker = self.workers[link]  # type: ignore[index]
                said = worker.hear()
                if isinstance(said, pa.Table):
                    yield said
                elif said == DONE:
                    worker.works.popleft()
                    worker.give(self.waiting)
                elif isinstance(said, Exception):
                    raise said
                else:
                    self._replace(worker)

    def _replace(self, worker: Worker) -> None:
        """Give the works of a worker that died to another. Raises UserError where too many died at one."""
        del self.workers[worker.link]
        code = worker.process.wait()
        worker.end()
        if not worker.works:
            return
        self.deaths[worker.works[0]] += 1
        if self.deaths[worker.works[0]] == LOST:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            why = "perhaps by the system for want of memory; free some and run" if code == -signal.SIGKILL else "run"
            raise UserError(f"a worker was ended {LOST} times at the same clips ({how}), {why} the same command again.")
        self.waiting.extendleft(reversed(worker.works))
        self.join([Worker()])

    def end(self) -> None:
        """End all workers."""
        for worker in self.workers.values():
            worker.end()


def divided(compute: Compute) -> Plan:
    """A worker for each core that this process may use, or that its container has."""
    return plan(joblib.cpu_count(), 0, compute)


@contextmanager
def engine(works: Sequence[Work], brief: Brief, model: bytes, compute: Compute) -> Iterator[Engine]:
    """A worker on each core."""
    workers = divided(compute)
    team = Team(works, workers.cores, brief, model)
    try:
        yield Engine(workers, team.blocks, lambda: "It may be long clips, or a store that is away.", lambda: 0)
    finally:
        team.end()


def serve() -> None:
    """Be a worker, until the other side of the link that the last argument names is gone."""
    link = Connection(int(sys.argv[-1]))
    try:
        brief, model = link.recv()
        tagger = Tagger(brief, model, "cpu", decodes=True)
        while True:
            for table in decoded(rows(link.recv(), brief), brief):
                link.send(tagger(table))
            link.send(DONE)
    except EOFError:
        return
    except Exception as error:
        with suppress(OSError):
            link.send(UserError(str(error)) if isinstance(error, UserError) else RuntimeError(traceback.format_exc()))
