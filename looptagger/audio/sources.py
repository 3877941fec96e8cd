"""The decoders behind one face: an open audio file that yields blocks of frames, as floats or 16 bit integers."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

Samples = NDArray[np.float32] | NDArray[np.int16]
"""(frames, channels); full scale is 1 or 32,768"""

BLOCK_SAMPLES = 1 << 16
"""Samples over all channels in one read: few enough to stay in a core's cache until they are averaged."""

CODEC_NAMES = {"mpeg_layer_iii": "mp3", "mp3float": "mp3"}


class Clock:
    """A budget of seconds. `check` raises TimeoutError once it is spent.

    What a file says that it waited for its bytes (`waited_s`) is not counted: a store's delay is no clip's fault.
    """

    def __init__(self, seconds: float, file: object = None) -> None:
        self.deadline, self.file = time.monotonic() + seconds, file

    def check(self) -> None:
        """Raise TimeoutError when the time is up."""
        if time.monotonic() - getattr(self.file, "waited_s", 0.0) > self.deadline:
            raise TimeoutError


class AudioSource:
    """An open audio file. `frames` is 0 where the length is unknown, or where it is read from start to end only."""

    rate: int
    channels: int
    codec: str
    frames = 0

    def blocks(self) -> Iterator[Samples]:
        """The frames from start to end, in blocks of bounded size."""
        raise NotImplementedError

    def read_at(self, first: int, frames: int) -> Samples:
        """Up to `frames` frames from frame `first` on; only where `frames` is not 0."""
        raise NotImplementedError


class _Onward(soundfile.SoundFile):  # type: ignore[misc]
    """Read without a seek to where it already is after each block: slow in FLAC, and not exact in MP3."""

    def seekable(self) -> bool:
        """What `read` asks before it seeks."""
        return False


UNKNOWN_FRAMES = 1 << 62
"""libsndfile's number of frames of a FLAC that was written to a pipe is over this."""


class LibsndfileSource(AudioSource):
    """A file open in libsndfile. `ended`: whether it gave all that it would."""

    ended = False

    def __init__(self, sound: _Onward, clock: Clock) -> None:
        self.sound, self.clock = sound, clock
        self.rate, self.channels = sound.samplerate, sound.channels
        name = (sound.format if sound.format == "FLAC" else sound.subtype).lower()
        self.codec = CODEC_NAMES.get(name, name)
        self.frames = sound.frames if super(_Onward, sound).seekable() and sound.frames < UNKNOWN_FRAMES else 0
        self.dtype: Literal["int16", "float32"] = "int16" if sound.subtype == "PCM_16" else "float32"

    def blocks(self) -> Iterator[Samples]:
        """The frames from start to end, in blocks of bounded size."""
        size = max(1, BLOCK_SAMPLES // self.channels)
        while len(block := self._read(size)):
            yield block
        self.ended = True

    def read_at(self, first: int, frames: int) -> Samples:
        """Up to `frames` frames from frame `first` on."""
        self.sound.seek(first)
        return self._read(frames)

    def _read(self, frames: int) -> Samples:
        self.clock.check()
        samples: Samples = self.sound.read(frames, dtype=self.dtype, always_2d=True)
        return samples


def _floats(frame: Any, to_floats: Any) -> Iterator[Samples]:
    """A frame of FFmpeg as (frames, channels) arrays. Interleaved: of eight planes and more PyAV reads past the end."""
    for floats in to_floats.resample(frame):
        yield floats.to_ndarray().reshape(-1, floats.layout.nb_channels)


class FfmpegSource(AudioSource):
    """A file open in FFmpeg, which skips packets that do not decode and ends where it cannot read on, as players do.

    It is read in order: seeking by time in compressed streams is not exact.
    """

    def __init__(self, container: Any, clock: Clock) -> None:
        self.container, self.clock = container, clock
        self.stream = next(iter(container.streams.audio), None)
        if self.stream is None or self.stream.codec_context is None:
            raise ValueError("no audio stream that it can decode")
        context = self.stream.codec_context
        self.rate, self.channels = context.sample_rate, context.channels
        self.codec = CODEC_NAMES.get(context.name, context.name)
        if self.rate <= 0 or self.channels <= 0:
            raise ValueError("the header gives no sample rate or no channels")

    def blocks(self) -> Iterator[Samples]:
        """The frames from start to end, gathered into blocks of bounded size."""
        to_floats = av.AudioResampler(format="flt")  # converts the sample format only
        fifo = av.AudioFifo()
        for frame in self._decoded():
            frame.pts = None  # gaps in a stream's times are no gaps in its samples
            fifo.write(frame)
            if fifo.samples * self.channels >= BLOCK_SAMPLES:
                yield from _floats(fifo.read(), to_floats)
        if fifo.samples:
            yield from _floats(fifo.read(), to_floats)

    def _decoded(self) -> Iterator[Any]:
        """Frames of one format: that of the first one which has the header's rate and channels. Others are left out.

        FFmpeg's buffer would read one with fewer channels past its end. Raises the first packet's error where none
        decodes.
        """
        kept = failed = None
        try:
            for packet in self.container.demux(self.stream):
                self.clock.check()
                try:
                    frames = packet.decode()
                except (av.error.PatchWelcomeError, MemoryError):
                    raise
                except av.error.FFmpegError as error:  # AAC's are not all InvalidDataErrors
                    failed = failed or error
                    continue
                for frame in frames:
                    shape = frame.sample_rate, frame.layout.nb_channels, frame.format.name
                    if kept is None and shape[:2] == (self.rate, self.channels):
                        kept = shape
                    if shape == kept:
                        yield frame
        except (av.error.InvalidDataError, av.error.PatchWelcomeError):
            if kept is None:
                raise
        if kept is None and failed:
            raise failed


@contextmanager
def open_libsndfile(file: BinaryIO, clock: Clock) -> Iterator[AudioSource]:
    """The file as libsndfile reads it. Raises what that raises, and ValueError where it ended early."""
    with _Onward(file) as sound:
        source = LibsndfileSource(sound, clock)
        try:
            yield source
        finally:  # also where all that it has heard is silence
            if sound.format in ("MP3", "OGG") and (source.ended or sound.tell() >= sound.frames):
                _refuse_rest(file)


def _refuse_rest(file: BinaryIO) -> None:
    """Refuse a file read to its end that has more to hear.

    libsndfile takes an MP3 without a header of its own (one that was piped) to be as long as its first frames' bit rate
    says; of joined streams it reads the first; and it ends at a damaged header that names another format.
    """
    taken, size = file.tell(), file.seek(0, os.SEEK_END)
    if size - taken > max(4_096, size // 100):  # more than tags and an encoder's padding
        raise ValueError(f"it took {taken:,} of {size:,} bytes for the whole file")


@contextmanager
def open_ffmpeg(file: BinaryIO, clock: Clock) -> Iterator[AudioSource]:
    """The file as FFmpeg reads it; it may open nothing else (playlists name other files). Raises what PyAV raises."""
    with av.open(file, metadata_errors="ignore", options={"protocol_whitelist": "none"}) as container:
        yield FfmpegSource(container, clock)
