"""Labelled loops into batches: shuffled, repeated for rare roles, cut at random places, and what becomes of them.

Numpy only, and next to no work: what is drawn is done where the network is, by `augment`. All chance comes from the
seed, the epoch and the loop's id, so an epoch can be had again.
"""

import math
import queue
import threading
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from looptagger.audio import chunk
from looptagger.config import Augment, Chunking, Train
from looptagger.errors import UserError
from looptagger.learn import table
from looptagger.learn.schedule import augment_at
from looptagger.learn.task import Census

T = TypeVar("T")
Floats = NDArray[np.float32]

POOL_BYTES = 512 << 20
"""Audio from which the next loop is drawn: FSLD's loops are then shuffled over most of an epoch."""
MIX_DB = 6.0
"""A loop is added to another at up to this much more or less than its own level."""
AHEAD = 3
"""Batches made while the network is busy with one."""


class TrainingLoop(NamedTuple):
    """A loop as training sees it: a number from its id, int16 samples, and its labels (6,) as 0 or 1."""

    key: int
    waveform: NDArray[np.int16]
    labels: Floats
    louder: float = 1.0
    """The factor by which tagging would make it louder."""


class Batch(NamedTuple, Generic[T]):
    """Stretches of n loops, and what is to become of each, as arrays or tensors; `augment.crops` does it."""

    samples: T
    """(n, longest), int16: of each, the first `lengths` count."""
    lengths: T
    """(n,): so many samples are played in the time of a chunk; another number than a chunk's is another speed."""
    gains: T
    """(n,): a factor."""
    others: T
    """(n,): the crop that is added to each."""
    levels: T
    """(n,): the factor of that one; 0 for none."""
    labels: T
    """(n, 6), each crop's own."""


def loops(rows: pa.Table) -> list[TrainingLoop]:
    """The loops of a table, each with a waveform of its own: a view would keep the whole table alive."""
    labels = table.truth(rows).astype(np.float32)
    names = rows.column("id").to_pylist()
    return [
        TrainingLoop(zlib.crc32(name.encode()), waveform.copy(), on, chunk.raise_of(waveform, Chunking().quiet_db))
        for name, waveform, on in zip(names, table.waveforms(rows), labels, strict=True)
    ]


def batches(
    source: Iterable[TrainingLoop], settings: Train, census: Census, epoch: int, rank: int = 0, world: int = 1
) -> Iterator[Batch[NDArray[Any]]]:
    """One worker's batches of an epoch: always `census.steps`, so that the workers stay in step.

    Where the source holds too few, further crops of loops that came before fill up.
    """
    count, steps = settings.batch // world, census.steps(settings)
    size, augment = settings.audio.chunk_samples, augment_at(settings, epoch)
    rng = np.random.default_rng([settings.seed, epoch, rank])
    due = _drawn(source, settings, census, epoch, rng)
    for step in range(steps):
        drawn = [next(due) for _ in range(count)]
        samples = np.empty((count, longest(size, augment)), np.int16)
        seeds = ([settings.seed, epoch, *each] for each in _told_apart([loop.key for loop in drawn], step))
        cuts = [
            cut(row, loop.waveform, size, augment, np.random.default_rng(seed))
            for row, loop, seed in zip(samples, drawn, seeds, strict=True)
        ]
        lengths, gains = np.array([each[0] for each in cuts]), np.array([each[1] for each in cuts], np.float32)
        if settings.raise_quiet:
            gains *= np.array([loop.louder for loop in drawn], np.float32)
        yield Batch(
            samples, lengths, gains, *partners(count, augment.mix, rng), np.stack([loop.labels for loop in drawn])
        )


def _told_apart(keys: Sequence[int], step: int) -> Iterator[tuple[int, ...]]:
    """For each crop of a step what its chance comes from: its loop and step, and which it is of several of one loop."""
    come: Counter[int] = Counter()
    for key in keys:
        yield key, step + 1, come[key]  # to numpy, zeros at the end are none: (key,) is the chance of `_repeated`
        come[key] += 1


def _drawn(
    source: Iterable[TrainingLoop], settings: Train, census: Census, epoch: int, rng: np.random.Generator
) -> Iterator[TrainingLoop]:
    """Loops without end: each as often as it is due, then any again."""
    seen: deque[TrainingLoop] = deque(maxlen=settings.batch)
    repeated = _repeated(source, census, settings, epoch) if settings.balance == "sampling" else source
    for loop in shuffled(repeated, rng):
        seen.append(loop)
        yield loop
    if not seen:
        raise UserError("a worker has no loops to train on; use fewer of them (compute.workers), or more loops.")
    while True:
        yield seen[rng.integers(len(seen))]


def _repeated(source: Iterable[TrainingLoop], census: Census, settings: Train, epoch: int) -> Iterator[TrainingLoop]:
    for loop in source:
        due = float(census.repeats_of(loop.labels[None])[0])
        rng = np.random.default_rng([settings.seed, epoch, loop.key])
        for _ in range(int(due) + int(rng.random() < due % 1)):
            yield loop


def shuffled(
    source: Iterable[TrainingLoop], rng: np.random.Generator, most_bytes: int = POOL_BYTES
) -> Iterator[TrainingLoop]:
    """The same loops in a random order, as far as a pool of bounded size allows."""
    pool: list[TrainingLoop] = []
    held = 0
    for loop in source:
        pool.append(loop)
        held += loop.waveform.nbytes
        while held > most_bytes:
            drawn = _taken(pool, rng)
            held -= drawn.waveform.nbytes
            yield drawn
    while pool:
        yield _taken(pool, rng)


def _taken(pool: list[TrainingLoop], rng: np.random.Generator) -> TrainingLoop:
    i = int(rng.integers(len(pool)))
    pool[i], pool[-1] = pool[-1], pool[i]
    return pool.pop()


def longest(size: int, augment: Augment) -> int:
    """Samples of a loop that a crop of `size` can need: more, where it may be played faster."""
    return math.ceil(size * 2 ** (augment.speed_semitones / 12))


def cut(
    out: NDArray[np.int16], waveform: NDArray[np.int16], size: int, augment: Augment, rng: np.random.Generator
) -> tuple[int, float]:
    """Copy a random stretch of a loop to the start of `out`; a shorter loop is repeated, as in tagging.

    Returns its length, which is a chunk's over the speed that was drawn, and the gain that was.
    """
    need = round(size * 2 ** (rng.uniform(-1, 1) * augment.speed_semitones / 12))
    if augment.wrap:
        np.take(waveform, np.arange(need) + rng.integers(len(waveform)), mode="wrap", out=out[:need])
    else:
        start = rng.integers(max(1, len(waveform) - need + 1))
        out[:need] = chunk.fit(waveform[start:], need)
    sign = -1 if augment.polarity and rng.random() < 0.5 else 1
    return need, sign * 10 ** (rng.uniform(-1, 1) * augment.gain_db / 20)


def partners(count: int, share: float, rng: np.random.Generator) -> tuple[NDArray[np.int64], Floats]:
    """For each of `count` crops another one, and the level at which it is added: 0 but for a share of them."""
    others = (np.arange(count) + rng.integers(1, max(2, count), count)) % count
    levels = 10 ** (rng.uniform(-MIX_DB, MIX_DB, count) / 20) * (rng.random(count) < share)
    return others, levels.astype(np.float32)


def ahead(items: Iterable[T]) -> Iterator[T]:
    """What a generator yields, made in a thread up to AHEAD items early. Its exceptions come out here."""
    made: queue.Queue[Any] = queue.Queue(AHEAD)
    end = object()

    def work() -> None:
        try:
            for item in items:
                made.put(item)
            made.put(end)
        except BaseException as error:
            made.put(error)

    threading.Thread(target=work, daemon=True, name="batches").start()
    for value in iter(made.get, end):
        if isinstance(value, BaseException):
            raise value
        yield value
