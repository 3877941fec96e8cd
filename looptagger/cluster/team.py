"""Works shared among processes of this machine, which make tables of them."""

import signal
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import pyarrow as pa

from looptagger.cluster.processes import Process, ending, heard
from looptagger.errors import UserError

AHEAD = 2
"""Works that a worker has at once: it need not wait for the next."""
LOST = 3
"""Workers that may die at the same work."""
Work = Callable[..., Iterator[pa.Table]]


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

    One that dies is replaced, and its works are begun anew: they must give the same rows in the same order. None is
    given a work that is `window` or more after the first that is not done.
    """

    def __init__(
        self, works: Iterable[Any], most: int, maker: Callable[..., Work], *given: Any, window: int | None = None
    ) -> None:
        self.works = list(works)
        self.maker, self.given = maker, given
        self.waiting = deque(range(len(self.works)))
        self.window, self.turn, self.done = window or len(self.works), 0, set[int]()
        self.rows, self.deaths = Counter[int](), Counter[int]()
        """Of each work, by its number: rows that have come, and workers that died at it."""
        self.workers: dict[Any, Worker] = {}
        try:
            self._join(min(most, len(self.works)))
        except BaseException:
            self.end()
            raise

    def _join(self, count: int) -> None:
        new = []
        for _ in range(count):
            new.append(Worker(self.maker, self.given))
            self.workers[new[-1].link] = new[-1]
        for worker in new:
            worker.begin()
        self._give()

    def _give(self) -> None:
        """Each worker as much as it takes, the same to all as long as there is enough."""
        for held in range(AHEAD):
            for worker in self.workers.values():
                if len(worker.numbers) == held and self.waiting and self.waiting[0] < self.turn + self.window:
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
                    if (new := self._new(worker, said)).num_rows:
                        yield worker.numbers[0], new
                else:
                    yield self._ended(worker), None

    def _ended(self, worker: Worker) -> int:
        """Take in that a worker has done a work, and give out others. The work's number."""
        number, worker.rows = worker.numbers.popleft(), 0
        self.done.add(number)
        while self.turn in self.done:
            self.done.remove(self.turn)
            self.turn += 1
        self._give()
        return number

    def _new(self, worker: Worker, table: pa.Table) -> pa.Table:
        """A table's rows without those that came before a worker died."""
        number = worker.numbers[0]
        known = max(0, self.rows[number] - worker.rows)
        worker.rows += table.num_rows
        self.rows[number] = max(self.rows[number], worker.rows)
        return table.slice(known)

    def _replace(self, worker: Worker) -> None:
        """Have another for one that died, and its works. Raises UserError where too many died at the same."""
        del self.workers[worker.link]
        code = worker.process.wait()
        worker.end()
        self.waiting.extendleft(reversed(worker.numbers))
        if not self.waiting:
            return
        first = self.waiting[0]
        self.deaths[first] += 1
        if self.deaths[first] == LOST:
            why = "perhaps by the system for want of memory; free some and run" if code == -signal.SIGKILL else "run"
            raise UserError(
                f"a worker was ended {LOST} times at the same place ({ending(code)}), {why} the same command again."
            )
        self._join(1)

    def end(self) -> None:
        """End all workers."""
        for worker in self.workers.values():
            worker.end()


def by_number(tables: Iterable[tuple[int, pa.Table | None]]) -> Iterator[pa.Table]:
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


def _work(link: Connection, maker: Callable[..., Work], given: Sequence[Any]) -> None:
    """A worker's life: works come in, tables go out, and a word after each work's last."""
    works, work = heard(link), maker(*given)
    while True:
        for table in work(works.get()):
            link.send(table)
        link.send("done")
