"""Short FLAC files through dr_flac (miniaudio), 1.6 times as fast as libsndfile."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from looptagger.audio.sources import BLOCK_SAMPLES, AudioSource, Clock, Samples

try:
    import miniaudio
except ImportError:  # there is no wheel for ARM
    miniaudio = None

SHORT_SAMPLES = 1 << 22
"""Samples over all channels that are decoded at once, into 8 MB, or 16 MB of more than 16 bits."""
INTEGERS, FLOATS = ("s16", np.dtype(np.int16), "short[]"), ("f32", np.dtype(np.float32), "float[]")
"""What samples are decoded to: the ending of dr_flac's function, and the type in numpy's words and in C's."""
RATES = {8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400, 192_000}
"""Others are mostly of a damaged head. libFLAC goes by the frames' own heads, dr_flac does not."""
STREAMINFO = struct.Struct(">18xQ")
"""The head of a FLAC file: sample rate (20 bits), channels less 1 (3), bits a sample less 1 (5), frames (36)."""


class FlacSource(AudioSource):
    """A FLAC file that is decoded as a whole."""

    codec = "flac"

    def __init__(self, samples: Samples, rate: int, clock: Clock) -> None:
        self.samples, self.rate, self.clock = samples, rate, clock
        self.frames, self.channels = samples.shape

    def blocks(self) -> Iterator[Samples]:
        """The frames from start to end, in blocks of bounded size."""
        size = BLOCK_SAMPLES // self.channels
        for first in range(0, self.frames, size):
            self.clock.check()
            yield self.read_at(first, size)

    def read_at(self, first: int, frames: int) -> Samples:
        """Up to `frames` frames from frame `first` on."""
        return self.samples[first : first + frames]


def is_short_flac(head: bytes) -> bool:
    """Whether a file that begins so is a FLAC that says how long it is, and that it is short."""
    if miniaudio is None or not head.startswith(b"fLaC") or len(head) < STREAMINFO.size:
        return False
    rate, channels, _, frames = _told(head)
    return rate in RATES and 0 < channels * frames <= SHORT_SAMPLES


def _told(head: bytes) -> tuple[int, int, int, int]:
    """Sample rate, channels, bits a sample, frames."""
    (packed,) = STREAMINFO.unpack_from(head)
    return packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1, packed & (1 << 36) - 1


@contextmanager
def open_flac(file: BinaryIO, clock: Clock) -> Iterator[AudioSource]:
    """A FLAC for which `is_short_flac` holds.

    Raises ValueError where it does not open, or less or more comes than its head says: dr_flac passes over frames that
    are damaged.
    """
    content = file.read()
    rate, _, _, frames = _told(content)
    samples = _samples(content)
    if len(samples) != frames:
        raise ValueError(f"not the {frames:,} frames that its head promises")
    yield FlacSource(samples, rate, clock)


def _samples(content: bytes) -> Samples:
    """All that its head promises, or one frame more. miniaudio's own functions decode as much as comes."""
    _, channels, bits, frames = _told(content)
    lib, ffi = miniaudio.lib, miniaudio.ffi
    ending, kind, pointer = FLOATS if bits > 16 else INTEGERS
    flac = lib.ma_dr_flac_open_memory(content, len(content), ffi.NULL)
    if not flac:
        raise ValueError("it does not open")
    try:
        samples: Any = np.empty((frames + 1, channels), kind)
        if flac.channels != channels:
            raise ValueError("its head is not where it should be")
        read = getattr(lib, f"ma_dr_flac_read_pcm_frames_{ending}")
        return samples[: read(flac, frames + 1, ffi.from_buffer(pointer, samples))]  # type: ignore[no-any-return]
    finally:
        lib.ma_dr_flac_close(flac)
