"""A worker's share of a prepared data set: read a few files ahead of need, and kept in memory as far as that may go."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from looptagger.archive.storage import Folder
from looptagger.learn import table
from looptagger.learn.batches import Loop, loops

READERS = 4
"""Files read at once, each in a thread: 80 MB of 10 s loops."""
COARSE = 16
"""Whole files are dealt to the workers where each gets at least so many; else the rows of each file are."""


class Read(NamedTuple):
    """What a worker has of a file."""

    train: list[Loop]
    validation: pa.Table

    @property
    def size(self) -> int:
        """Bytes of audio, and what little comes with it."""
        return sum(loop.waveform.nbytes for loop in self.train) + int(self.validation.nbytes)


class Share:
    """The training and validation loops of one of several workers, the same in every epoch.

    What is read is kept up to `keep_bytes`; the rest is read again. Training waits for no disk then, however short
    its epochs are: on a GPU they may take two seconds.
    """

    def __init__(
        self, data: Folder, parts: Sequence[str], split: str, keep_bytes: int, rank: int = 0, world: int = 1
    ) -> None:
        self.data, self.split, self.keep_bytes = data, split, keep_bytes
        by_file = len(parts) >= COARSE * world
        self.names = parts[rank::world] if by_file else parts
        self.rows = slice(None) if by_file else slice(rank, None, world)
        self.kept: dict[str, Read] = {}
        self.kept_bytes = 0

    def train(self, seed: Sequence[int]) -> Iterator[Loop]:
        """The training loops, in an order of files that the seed decides. Raises UserError for a broken file."""
        order = np.random.default_rng(seed).permutation(len(self.names))
        for found in self._each([self.names[i] for i in order]):
            yield from found.train

    def validation(self) -> Iterator[pa.Table]:
        """The validation loops, file by file. Raises UserError for a broken file."""
        for found in self._each(self.names):
            yield found.validation

    def _each(self, names: Sequence[str]) -> Iterator[Read]:
        pool = ThreadPoolExecutor(READERS, thread_name_prefix="share")
        coming: deque[tuple[str, Future[Read] | None]] = deque()
        try:
            for name in names:
                coming.append((name, None if name in self.kept else pool.submit(self._read, name)))
                if len(coming) > READERS:
                    yield self._come(*coming.popleft())
            while coming:
                yield self._come(*coming.popleft())
        finally:  # also when nobody wants the rest
            pool.shutdown(cancel_futures=True)

    def _come(self, name: str, reading: Future[Read] | None) -> Read:
        if reading is None:
            return self.kept[name]
        found = reading.result()
        if self.kept_bytes + found.size <= self.keep_bytes:
            self.kept[name] = found
            self.kept_bytes += found.size
        return found

    def _read(self, name: str) -> Read:
        rows = table.read(self.data, name)
        mine = rows.take(np.arange(rows.num_rows)[self.rows])
        train, validation = (table.in_part(mine, self.split, part) for part in ("train", "validation"))
        return Read(loops(train), validation)
