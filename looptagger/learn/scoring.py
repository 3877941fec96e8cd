"""Loops of a training table through a model: chunk by chunk as in tagging, or as the published code does."""

import zlib
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from looptagger.audio import chunk
from looptagger.config import Audio, Chunking, Protocol
from looptagger.learn import table
from looptagger.learn.metrics import Floats, Truth
from looptagger.model.predictor import Predictor
from looptagger.roles import ROLES

WINDOWS = 16
"""Windows of a loop in the published protocol."""
GROUP_LOOPS = 16
"""Loops scored at once: at most 640 chunks, 60 MB."""


def scored(
    tables: Iterable[pa.Table], predictor: Predictor, protocol: Protocol = "ours"
) -> Iterator[tuple[Truth, Floats]]:
    """Truth (n, 6) and scores (n, 6) of some loops after others: a loop's score is the mean over its chunks."""
    for rows in tables:
        for start in range(0, rows.num_rows, GROUP_LOOPS):
            some = rows.slice(start, GROUP_LOOPS)
            chunks = [windows(*each, predictor.card.audio, protocol) for each in _loops(some)]
            yield table.truth(some), predictor.clip_scores(chunks)


def joined(found: Iterable[tuple[Truth, Floats]]) -> tuple[Truth, Floats]:
    """All loops' truth and scores as one (n, 6) each; n may be 0."""
    pairs = list(found)
    none = np.zeros((0, len(ROLES)), bool), np.zeros((0, len(ROLES)), np.float32)
    return np.concatenate([none[0], *(each[0] for each in pairs)]), np.concatenate(
        [none[1], *(each[1] for each in pairs)]
    )


def _loops(rows: pa.Table) -> Iterator[tuple[str, NDArray[np.int16]]]:
    return zip(rows.column("id").to_pylist(), table.waveforms(rows), strict=True)


def windows(loop: str, waveform: NDArray[np.int16], audio: Audio, protocol: Protocol) -> NDArray[np.int16]:
    """What is heard of a loop, (n, chunk_samples): its chunks as in tagging, or the published code's windows.

    Of a loop of silence, which tagging would not score, all is heard.
    """
    if protocol == "published":
        return published_windows(waveform, audio.chunk_samples, zlib.crc32(loop.encode()))
    heard, _ = chunk.cut_up(waveform, audio, Chunking())
    if len(heard):
        return heard
    every = chunk.cut(waveform, chunk.planned(len(waveform), audio, Chunking()), audio.chunk_samples)
    return chunk.raised(every, Chunking().quiet_db)


def published_windows(waveform: NDArray[np.int16], size: int, seed: int) -> NDArray[np.int16]:
    """The published evaluation's windows, (16, size): a sixteenth of what is over apart, the end never reached.

    A loop shorter than a window lies in zeros at a random place; here a seed fixes the place, so that two runs agree.
    """
    if len(waveform) < size:
        before = int(np.random.default_rng(seed).integers(size - len(waveform) + 1))
        return np.pad(waveform, (before, size - len(waveform) - before))[None].repeat(WINDOWS, axis=0)
    hop = (len(waveform) - size) // WINDOWS
    return np.stack([waveform[i * hop : i * hop + size] for i in range(WINDOWS)])
