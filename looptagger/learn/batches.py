"""Labelled loops into batches: shuffled, repeated for rare roles, cropped at random, augmented. Numpy only.

All chance comes from the seed, the epoch and the loop's id: an epoch can be had again, on any number of threads.
"""

import queue
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import soxr
from numpy.typing import NDArray

from looptagger.audio import chunk
from looptagger.config import Augment, Train
from looptagger.learn import table
from looptagger.learn.task import Census

T = TypeVar("T")
Floats = NDArray[np.float32]

POOL_BYTES = 512 << 20
"""Audio from which the next loop is drawn: FSLD's loops are then shuffled over most of an epoch."""
MIX_DB = 6.0
"""A loop is added to another at up to this much more or less than its own level."""
AHEAD = 3
"""Batches made while the network is busy with one."""


class Loop(NamedTuple):
    """A loop as training sees it: a number from its id, int16 samples, and its labels (6,) as 0 or 1."""

    key: int
    waveform: NDArray[np.int16]
    labels: Floats


class Batch(NamedTuple):
    """Crops (n, chunk_samples) in [-1, 1] and labels (n, 6)."""

    waveform: Floats
    labels: Floats


def batches(
    tables: Iterable[pa.Table],
    settings: Train,
    census: Census,
    epoch: int,
    rank: int = 0,
    world: int = 1,
    threads: int = 1,
) -> Iterator[Batch]:
    """One worker's batches of an epoch: always `census.steps`, so that the workers stay in step.

    What the tables hold too little is filled up with further crops of loops that came before.
    """
    size, steps, tables = settings.batch // world, census.steps(settings), iter(tables)
    rng = np.random.default_rng([settings.seed, epoch, rank])
    loops = _drawn(tables, settings, census, epoch, rng)
    with ThreadPoolExecutor(threads) as pool:
        for step in range(steps):
            drawn = [next(loops) for _ in range(size)]
            keys = [[settings.seed, epoch, loop.key, step] for loop in drawn]
            crops = list(pool.map(lambda loop, key: _crop(loop, key, settings), drawn, keys))
            yield mixed(Batch(np.stack(crops), np.stack([loop.labels for loop in drawn])), settings.augment.mix, rng)
    for _ in tables:  # leave the source as one leaves a whole epoch
        pass


def _drawn(
    tables: Iterable[pa.Table], settings: Train, census: Census, epoch: int, rng: np.random.Generator
) -> Iterator[Loop]:
    """Loops without end: each as often as it is due, then any again."""
    seen: deque[Loop] = deque(maxlen=settings.batch)
    repeated = _repeated(_loops(tables), census, settings, epoch) if settings.balance == "sampling" else _loops(tables)
    for loop in shuffled(repeated, rng):
        seen.append(loop)
        yield loop
    while seen:
        yield seen[rng.integers(len(seen))]


def _loops(tables: Iterable[pa.Table]) -> Iterator[Loop]:
    for rows in tables:
        labels = table.truth(rows).astype(np.float32)
        for name, waveform, on in zip(rows.column("id").to_pylist(), table.waveforms(rows), labels, strict=True):
            yield Loop(zlib.crc32(name.encode()), waveform.copy(), on)  # a view would keep the whole table alive


def _repeated(loops: Iterable[Loop], census: Census, settings: Train, epoch: int) -> Iterator[Loop]:
    for loop in loops:
        due = float(census.repeats_of(loop.labels[None])[0])
        rng = np.random.default_rng([settings.seed, epoch, loop.key])
        for _ in range(int(due) + int(rng.random() < due % 1)):
            yield loop


def shuffled(loops: Iterable[Loop], rng: np.random.Generator, most_bytes: int = POOL_BYTES) -> Iterator[Loop]:
    """The same loops in a random order, as far as a pool of bounded size allows."""
    pool: list[Loop] = []
    held = 0
    for loop in loops:
        pool.append(loop)
        held += loop.waveform.nbytes
        while held > most_bytes:
            drawn = _taken(pool, rng)
            held -= drawn.waveform.nbytes
            yield drawn
    while pool:
        yield _taken(pool, rng)


def _taken(pool: list[Loop], rng: np.random.Generator) -> Loop:
    i = int(rng.integers(len(pool)))
    pool[i], pool[-1] = pool[-1], pool[i]
    return pool.pop()


def _crop(loop: Loop, key: Sequence[int], settings: Train) -> Floats:
    return crop(loop.waveform, settings.audio.chunk_samples, settings.augment, np.random.default_rng(key))


def crop(waveform: NDArray[np.int16], size: int, augment: Augment, rng: np.random.Generator) -> Floats:
    """A random stretch of a loop as `size` float samples; a shorter loop is repeated, as in tagging."""
    speed = 2 ** (rng.uniform(-1, 1) * augment.speed_semitones / 12)
    need = round(size * speed)
    if augment.wrap:
        piece = np.take(waveform, np.arange(need) + rng.integers(len(waveform)), mode="wrap")
    else:
        start = rng.integers(max(1, len(waveform) - need + 1))
        piece = chunk.fit(waveform[start:], need)  # type: ignore[assignment]
    gain = 10 ** (rng.uniform(-1, 1) * augment.gain_db / 20) * (-1 if augment.polarity and rng.random() < 0.5 else 1)
    samples: Floats = piece.astype(np.float32) * np.float32(gain / 32768)
    if need != size:
        samples = chunk.fit(soxr.resample(samples, need, size, quality="MQ"), size)  # type: ignore[assignment]
    return samples


def mixed(batch: Batch, share: float, rng: np.random.Generator) -> Batch:
    """A share of the crops with another of the batch added, and the roles of both."""
    count = len(batch.waveform)
    on = np.flatnonzero(rng.random(count) < share)
    if not len(on):
        return batch
    other = (on + rng.integers(1, max(2, count), len(on))) % count
    level = 10 ** (rng.uniform(-MIX_DB, MIX_DB, (len(on), 1)) / 20)
    waveform, labels = batch.waveform.copy(), batch.labels.copy()
    waveform[on] += (level * batch.waveform[other]).astype(np.float32)
    waveform[on] /= np.maximum(1.0, np.abs(waveform[on]).max(axis=1, keepdims=True))
    labels[on] = np.maximum(labels[on], batch.labels[other])
    return Batch(waveform, labels)


def ahead(make: Callable[[], Iterator[T]], count: int = AHEAD) -> Iterator[T]:
    """What an iterator yields, made in a thread up to `count` items early. Its exceptions come out here."""
    made: queue.Queue[tuple[str, object]] = queue.Queue(count)

    def work() -> None:
        try:
            for item in make():
                made.put(("item", item))
            made.put(("end", None))
        except BaseException as error:
            made.put(("error", error))

    threading.Thread(target=work, daemon=True, name="batches").start()
    while True:
        kind, value = made.get()
        if kind == "end":
            return
        if isinstance(value, BaseException):
            raise value
        yield value  # type: ignore[misc]
