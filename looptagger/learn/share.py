"""A worker's share of a prepared data set: read a few files ahead of need, and kept in memory as far as that may go."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from looptagger.archive.several import several
from looptagger.archive.storage import Folder
from looptagger.learn import table
from looptagger.learn.batches import TrainingLoop, loops

READERS = 4
"""Files read at once, each in a thread."""
COARSE = 16
"""Whole files are dealt to the workers where each gets at least so many; else the rows of each file are."""
KEEP = 4 << 30
"""Bytes that a worker keeps at most unless told otherwise: FSLD twice over."""
CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux says how many bytes a container may use: its second way of limiting them, and its first."""
LIMITS = {"train": 7 / 8, "validation": 1 / 8}
"""Shares of what may be kept: where not all fits, validation loops mostly still do, which are few."""


def default_keep(workers_here: int) -> int:
    """Bytes to keep for each of a machine's workers: a quarter of its memory among them, KEEP at most."""
    return min(KEEP, _memory() // 4 // workers_here)


def _machine_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _memory() -> int:
    """Bytes of the machine's memory that may be used: a container has fewer."""
    memory = _machine_memory()
    for limit in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # no container, or "max"
            memory = min(memory, int(limit.read_text()))
    return memory


class Share:
    """The training and validation loops of one of several workers, the same in every epoch.

    What is read is kept up to `keep_bytes`, and only the rest read again: on a GPU an epoch may take two seconds.
    """

    def __init__(
        self, data: Folder, parts: Sequence[str], split: str, keep_bytes: int, rank: int = 0, world: int = 1
    ) -> None:
        self.data, self.split, self.rank, self.world = data, split, rank, world
        self.by_file = len(parts) >= COARSE * world
        numbers = range(rank, len(parts), world) if self.by_file else range(len(parts))
        self.names = {parts[number]: number for number in numbers}
        self.left = {part: int(keep_bytes * share) for part, share in LIMITS.items()}
        self.kept: dict[str, dict[str, Any]] = {part: {} for part in LIMITS}

    def train(self, seed: Sequence[int]) -> Iterator[TrainingLoop]:
        """The training loops, in an order of files that the seed decides. Raises UserError for a broken file."""
        names = list(self.names)
        for found in self._each("train", [names[i] for i in np.random.default_rng(seed).permutation(len(names))]):
            yield from found

    def validation(self) -> Iterator[pa.Table]:
        """The validation loops, file by file. Raises UserError for a broken file."""
        yield from self._each("validation", list(self.names))

    def _each(self, part: str, names: Sequence[str]) -> Iterator[Any]:
        """Each file's loops of a part, kept before or just read; what was read is kept where it fits."""
        for name, found in several(lambda name: (name, self._read(name, part)), names, READERS):
            for each, what in found.items():
                size = _size(what)
                if name not in self.kept[each] and size <= self.left[each]:
                    self.kept[each][name] = what
                    self.left[each] -= size
            yield found[part]

    def _read(self, name: str, part: str) -> dict[str, Any]:
        """A file's validation loops as a table, and its training loops as a list if those are wanted."""
        if name in self.kept[part]:
            return {part: self.kept[part][name]}
        rows = table.read(self.data, name)
        found: dict[str, Any] = {"validation": self._mine(rows, name, "validation")}
        if part == "train":
            found["train"] = loops(self._mine(rows, name, "train"))
        return found

    def _mine(self, rows: pa.Table, name: str, part: str) -> pa.Table:
        every = table.in_part(rows, self.split, part)
        if self.by_file:
            return every
        first = (self.rank + self.names[name]) % self.world  # another worker in turn has one more
        return every.take(np.arange(every.num_rows)[first :: self.world])


def _size(what: Any) -> int:
    """Bytes of audio, and of what little comes with it in a table."""
    return int(what.nbytes) if isinstance(what, pa.Table) else sum(loop.waveform.nbytes for loop in what)
