"""What the classic systems hear: 104 numbers of a chunk, by Essentia, as in the paper.

MFCC (13), pitch (1) and chroma (12) of each frame; over the frames the mean and the standard deviation, of the values
and of their first differences. The only importer of Essentia, which is AGPL: an extra, asked for by name.
"""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from looptagger.config import Audio
from looptagger.errors import UserError, one_line
from looptagger.learn import table
from looptagger.learn.scoring import windows

Floats = NDArray[np.float32]

N_MFCC, N_CHROMA = 13, 12
FRAME, HOP = 2048, 1024
"""Samples: 128 ms and 64 ms at 16 kHz; Essentia's own extractors' numbers."""
LOWEST_HZ, HIGHEST_HZ = 40.0, 5000.0
"""The spectral peaks that chroma counts, Essentia's own bounds."""

OF_FRAME: Final = (*(f"mfcc{i}" for i in range(N_MFCC)), "pitch", *(f"chroma{i}" for i in range(N_CHROMA)))
NAMES: Final = tuple(f"{name}_{kind}" for kind in ("mean", "std", "delta_mean", "delta_std") for name in OF_FRAME)
"""The 104 columns."""

CHUNK, CROP, WINDOW = "chunk", "crop", "window"
"""What is heard of a loop: the chunks that tagging hears; one chunk at random, the published training's; the published
evaluation's 16 windows."""

SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("heard", pa.dictionary(pa.int8(), pa.string()), nullable=False),
        pa.field("number", pa.int32(), nullable=False),
        pa.field("error", pa.string()),
        *[pa.field(name, pa.float32()) for name in NAMES],
    ]
)


def statistics(frames: NDArray[np.floating]) -> Floats:
    """Frames (n, 26) -> the 104 numbers, in the order of NAMES. Raises ValueError where one is not finite."""
    deltas = np.diff(frames, axis=0) if len(frames) > 1 else np.zeros_like(frames)
    parts = (frames.mean(axis=0), frames.std(axis=0), deltas.mean(axis=0), deltas.std(axis=0))
    found = np.concatenate(parts).astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError(f"{NAMES[int(np.flatnonzero(~np.isfinite(found))[0])]} is not finite")
    return found


class Extractor:
    """Essentia's algorithms for one sample rate, made once. Raises UserError where Essentia is not installed."""

    def __init__(self, sample_rate: int) -> None:
        standard = _essentia()
        bins = FRAME // 2 + 1
        self.frames = partial(standard.FrameGenerator, frameSize=FRAME, hopSize=HOP, startFromZero=True)
        self.window = standard.Windowing(type="hann", size=FRAME)
        self.spectrum = standard.Spectrum(size=FRAME)
        self.mfcc = standard.MFCC(
            inputSize=bins, sampleRate=sample_rate, highFrequencyBound=sample_rate / 2, numberCoefficients=N_MFCC
        )
        self.pitch = standard.PitchYinFFT(frameSize=FRAME, sampleRate=sample_rate)
        self.peaks = standard.SpectralPeaks(
            sampleRate=sample_rate, minFrequency=LOWEST_HZ, maxFrequency=min(HIGHEST_HZ, sample_rate / 2), maxPeaks=60
        )
        self.chroma = standard.HPCP(
            size=N_CHROMA,
            sampleRate=sample_rate,
            minFrequency=LOWEST_HZ,
            maxFrequency=HIGHEST_HZ,
            bandPreset=False,  # else the loudest peak above 500 Hz counts as one below, be it noise
        )

    def __call__(self, pcm: NDArray[np.int16]) -> Floats:
        """The 104 numbers of int16 samples. Raises what Essentia raises, and ValueError."""
        waveform = pcm.astype(np.float32) / 32768.0
        return statistics(np.array([self._frame(frame) for frame in self.frames(waveform)]))

    def _frame(self, frame: Floats) -> Floats:
        spectrum = self.spectrum(self.window(frame))
        _, mfcc = self.mfcc(spectrum)
        pitch, _ = self.pitch(spectrum)
        return np.concatenate([mfcc, [pitch], self.chroma(*self.peaks(spectrum))])


def pieces(rows: pa.Table, audio: Audio, parts: Sequence[str]) -> Iterator[tuple[str, str, int, NDArray[np.int16]]]:
    """What is heard of the loops of a training table, given each one's part under the published protocol.

    Chunks of all, a crop of those it trains on, windows of those it tests on; of each its loop, which of these it is,
    its number among them, and its int16 samples.
    """
    for loop, waveform, part in zip(rows.column("id").to_pylist(), table.waveforms(rows), parts, strict=True):
        for number, pcm in enumerate(windows(loop, waveform, audio, "ours")):
            yield loop, CHUNK, number, pcm
        if part == "train":
            yield loop, CROP, 0, crop(waveform, audio.chunk_samples, zlib.crc32(loop.encode()))
        if part == "test":
            for number, pcm in enumerate(windows(loop, waveform, audio, "published")):
                yield loop, WINDOW, number, pcm


def crop(waveform: NDArray[np.int16], size: int, seed: int) -> NDArray[np.int16]:
    """A chunk at a random place; a shorter waveform lies in zeros at one, as in the published code."""
    room = abs(len(waveform) - size)
    first = int(np.random.default_rng(seed).integers(room + 1))
    return np.pad(waveform, (first, room - first)) if len(waveform) < size else waveform[first : first + size]


def extracted(rows: pa.Table, extractor: Extractor, audio: Audio, parts: Sequence[str]) -> pa.Table:
    """A training table's rows -> a row of SCHEMA for each piece; one that Essentia fails on has its reason."""
    found = []
    for loop, kind, number, pcm in pieces(rows, audio, parts):
        row: dict[str, Any] = {"id": loop, "heard": kind, "number": number}
        try:
            row |= zip(NAMES, extractor(pcm).tolist(), strict=True)
        except Exception as why:  # whatever a library says of one piece costs that piece alone
            row["error"] = one_line(why)
        found.append(row)
    return pa.Table.from_pylist(found, SCHEMA)


def matrix(rows: pa.Table) -> Floats:
    """The numbers of rows as (n, 104)."""
    return np.column_stack([rows.column(name).to_numpy() for name in NAMES]).astype(np.float32)


PACKAGES: Final = ("essentia", "scikit-multilearn-ng")


def known() -> dict[str, str]:
    """The versions of what the extra brings, as far as it is installed."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def require() -> dict[str, str]:
    """The same, all of them. Raises UserError that says how to install what is missing."""
    missing = [name for name in PACKAGES if name not in known()]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} not installed, which the classic systems need: in a copy of looptagger's "
            "repository, pip install -c configs/constraints.txt '.[paper]'."
        )
    return known()


@cache
def _essentia() -> Any:
    require()
    import essentia

    essentia.log.infoActive = essentia.log.warningActive = False  # before it says which models it lacks
    import essentia.standard

    return essentia.standard
