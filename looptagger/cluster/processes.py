"""Processes of this machine that work without Ray, and the links to them.

One ends when this process is gone, as the link between them is then closed. Only what we send ourselves goes over a
link, so it may be pickled.
"""

import os
import signal
import subprocess
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

import pyarrow as pa

from looptagger.errors import UserError

START = "import sys; sys.path.append(sys.argv[1]); from looptagger.cluster import processes; processes.serve()"
"""Not `-m`: it takes the folder that a user is in for the first place of modules, such as an av.py there."""
AHEAD = 2
"""Works that a worker has at once: it need not wait for the next."""
LOST = 3
"""Workers that may die at the same work."""

Work = Callable[..., Iterator[pa.Table]]


class Fault(RuntimeError):
    """What went wrong in another process, and is nobody's to mend: its traceback."""


class Process:
    """A process with a life, from this side of the link: `life(link, *given)` runs there once it is begun."""

    def __init__(self, life: Callable[..., None], *given: Any, env: Mapping[str, str] | None = None) -> None:
        self.link, other = Pipe()
        self.begins = (life, given)
        root, number = str(Path(__file__).parents[2]), other.fileno()
        command = [sys.executable, "-P", "-c", START, root, str(number)]
        how: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        how |= {"pass_fds": [number], "env": {**os.environ, **(env or {})}}
        # In a group of its own: Ctrl-C is for the job, which ends this.
        self.process = subprocess.Popen(command, process_group=0, **how)
        other.close()

    def begin(self) -> None:
        """Tell it what to do: when all that are to run beside it have been started."""
        self.tell(self.begins)

    def tell(self, said: Any) -> None:
        """Send it something. That it is gone shows when it is to be heard."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.link.send(said)

    def hear(self) -> Any:
        """What it says next; None where it is gone. Raises the UserError that it met, or Fault."""
        said = None
        with suppress(EOFError, ConnectionResetError):
            said = self.link.recv()
        if isinstance(said, Exception):
            raise said
        return said

    def end(self) -> int:
        """End it, whatever it is at. Its exit code."""
        self.link.close()
        self.process.kill()
        return self.process.wait()


class Worker(Process):
    """One that makes tables of works."""

    def __init__(self, maker: Callable[..., Work], given: Sequence[Any]) -> None:
        super().__init__(_work, maker, given)
        self.numbers = deque[int]()
        """Of the works that it was given and has not done."""
        self.rows = 0
        """What it has given of the first of them."""


class Team:
    """Workers that share works: `maker(*given)` gives each of them what makes tables of a work.

    One that dies is replaced, and its works are begun anew: they must give the same rows in the same order.
    """

    def __init__(self, works: Iterable[Any], most: int, maker: Callable[..., Work], *given: Any) -> None:
        self.works = list(works)
        self.maker, self.given = maker, given
        self.waiting = deque(range(len(self.works)))
        self.rows, self.deaths = Counter[int](), Counter[int]()
        """Of each work, by its number: rows that have come, and workers that died at it."""
        self.workers: dict[Any, Worker] = {}
        self._join(min(most, len(self.works)))

    def _join(self, count: int) -> None:
        new = [Worker(self.maker, self.given) for _ in range(count)]
        self.workers |= {worker.link: worker for worker in new}
        for worker in new:
            worker.begin()
            self._give(worker)

    def _give(self, worker: Worker) -> None:
        while self.waiting and len(worker.numbers) < AHEAD:
            worker.numbers.append(self.waiting.popleft())
            worker.tell(self.works[worker.numbers[-1]])

    def tables(self) -> Generator[tuple[int, pa.Table | None]]:
        """A work's number with each of its tables, and with None at its end. Raises UserError."""
        while any(worker.numbers for worker in self.workers.values()):
            for link in wait(list(self.workers)):
                worker = self.workers[link]
                said = worker.hear()
                if said is None:
                    self._replace(worker)
                elif isinstance(said, pa.Table):
                    yield worker.numbers[0], self._new(worker, said)
                else:
                    yield worker.numbers.popleft(), None
                    worker.rows = 0
                    self._give(worker)

    def _new(self, worker: Worker, table: pa.Table) -> pa.Table:
        """A table's rows without those that came before a worker died."""
        number = worker.numbers[0]
        known = max(0, self.rows[number] - worker.rows)
        worker.rows += table.num_rows
        self.rows[number] = max(self.rows[number], worker.rows)
        return table.slice(known)

    def _replace(self, worker: Worker) -> None:
        """Give the works of a worker that died to another. Raises UserError where too many died at one."""
        del self.workers[worker.link]
        code = worker.process.wait()
        worker.end()
        if not worker.numbers:
            return
        first = worker.numbers[0]
        self.deaths[first] += 1
        if self.deaths[first] == LOST:
            why = "perhaps by the system for want of memory; free some and run" if code == -signal.SIGKILL else "run"
            raise UserError(
                f"a worker was ended {LOST} times at the same place ({ending(code)}), {why} the same command again."
            )
        self.waiting.extendleft(reversed(worker.numbers))
        self._join(1)

    def end(self) -> None:
        """End all workers."""
        for worker in self.workers.values():
            worker.end()


def ending(code: int) -> str:
    """An exit code in words."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def in_order(tables: Iterable[tuple[int, pa.Table | None]]) -> Iterator[pa.Table]:
    """The tables of a team by the numbers of their works; those that come too early wait."""
    held: dict[int, list[pa.Table]] = {}
    ended, turn = set[int](), 0
    for number, table in tables:
        if table is None:
            ended.add(number)
        else:
            held.setdefault(number, []).append(table)
        yield from held.pop(turn, ())
        while turn in ended:
            turn += 1
            yield from held.pop(turn, ())


def serve() -> None:
    """Live, on the other side of the link that the last argument names."""
    link = Connection(int(sys.argv[-1]))
    try:
        life, given = link.recv()
        life(link, *given)
    except EOFError:
        return
    except Exception as error:
        with suppress(OSError):
            link.send(UserError(str(error)) if isinstance(error, UserError) else Fault(traceback.format_exc()))


def _work(link: Connection, maker: Callable[..., Work], given: Sequence[Any]) -> None:
    """A worker's life: works come in, tables go out, and a word after each work's last."""
    work = maker(*given)
    while True:
        for table in work(link.recv()):
            link.send(table)
        link.send("done")
