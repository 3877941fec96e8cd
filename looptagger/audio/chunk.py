"""Waveforms into chunks: which spans of a clip are heard. Pure functions over sample counts and arrays."""

import numpy as np
from numpy.typing import NDArray

from looptagger.config import Audio, Chunking

Pcm = NDArray[np.int16]


def cut_up(waveform: Pcm, audio: Audio, chunking: Chunking) -> tuple[Pcm, NDArray[np.int64]]:
    """A clip's chunks that are heard, (n, chunk_samples), and the first sample of each; none of a clip of silence."""
    first = planned(len(waveform), audio, chunking)
    return audible(cut(waveform, first, audio.chunk_samples), first, chunking)


def planned(n_samples: int, audio: Audio, chunking: Chunking) -> NDArray[np.int64]:
    """The first sample of each chunk of a clip of so many samples at the model's rate."""
    hop = max(1, round((chunking.hop_s or audio.chunk_s) * audio.sample_rate))
    return starts(n_samples, audio.chunk_samples, hop, chunking.max_chunks)


def audible(pcm: Pcm, first: NDArray[np.int64], chunking: Chunking) -> tuple[Pcm, NDArray[np.int64]]:
    """The chunks that are not silent, made louder where all are quiet, and where they begin."""
    on = has_sound(pcm, chunking.silence_db)
    if not on.all():
        pcm, first = pcm[on], first[on]
    return raised(pcm, chunking.quiet_db), first


def starts(n_samples: int, length: int, hop: int, max_chunks: int) -> NDArray[np.int64]:
    """First sample of each chunk, of so many samples, of a clip of `n_samples`; ascending, all inside the clip.

    A clip no longer than a chunk has one. Otherwise chunks stand `hop` apart and the last is aligned to the clip's
    end, so that the tail counts. More than `max_chunks` are replaced by that many, spread evenly from start to end.
    """
    if n_samples <= length:
        return np.zeros(1, np.int64)
    last = n_samples - length
    n_chunks = 1 + -(-last // hop)
    if n_chunks > max_chunks:
        middle = max_chunks == 1
        return np.array([last // 2]) if middle else np.linspace(0, last, max_chunks).round().astype(np.int64)
    return np.minimum(np.arange(n_chunks, dtype=np.int64) * hop, last)


def fit(waveform: Pcm, length: int) -> Pcm:
    """A waveform of any length > 0 as exactly `length` samples: cut when longer, tiled when shorter (loops repeat)."""
    return waveform[:length] if len(waveform) >= length else np.resize(waveform, length)


def cut(waveform: Pcm, first: NDArray[np.int64], length: int) -> Pcm:
    """The chunks of a waveform that begin at `first`, (len(first), length)."""
    return np.stack([fit(waveform[i : i + length], length) for i in first])


def has_sound(pcm: Pcm, silence_db: float) -> NDArray[np.bool_]:
    """Which chunks (n, samples) have a sample of `silence_db` dBFS or more: (n,)."""
    least = 32768 * 10 ** (silence_db / 20)
    high: NDArray[np.bool_] = (pcm.max(axis=1) >= least) | (pcm.min(axis=1) <= -least)
    return high


RAISED_DB = -6.0
"""Where the peak of a clip that was too quiet is put, in dBFS: a common one, of clips that were not."""


def raise_of(pcm: Pcm, quiet_db: float) -> float:
    """The factor by which a clip is made louder: 1 but where its peak is under `quiet_db` dBFS."""
    peak = max(int(pcm.max(initial=0)), -int(pcm.min(initial=0))) / 32768
    return 10 ** (RAISED_DB / 20) / peak if 0 < peak < 10 ** (quiet_db / 20) else 1.0


def raised(pcm: Pcm, quiet_db: float) -> Pcm:
    """A clip's chunks, made louder where its peak is under `quiet_db` dBFS: else models hear little but the level."""
    factor = raise_of(pcm, quiet_db)
    louder: Pcm = pcm if factor == 1 else np.rint(pcm * factor).astype(np.int16)
    return louder
