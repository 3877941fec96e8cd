"""The decoders behind one face: an open audio file that yields blocks of frames, as floats or 16 bit integers."""

import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal, Protocol

import av
import av.filter
import numpy as np
import soundfile
from numpy.typing import NDArray

Samples = NDArray[np.float32] | NDArray[np.int16]
"""(frames, channels); full scale is 1 or 32,768"""

BLOCK_SAMPLES = 1 << 16
"""Samples over all channels in one read: few enough to stay in a core's cache until they are averaged."""

GATHERED = 1 << 14
"""Samples of each channel in a block that FFmpeg gathers by itself."""
VORBIS_CHANNELS = len(b"\x01vorbis") + 4
"""Where the first header of Vorbis has the number of channels: after its name and version."""
OGG_END = struct.Struct("<6xq")
"""The head of an Ogg page: its granule position, which in the last page of Vorbis is the number of samples."""

CODEC_NAMES = {"mpeg_layer_iii": "mp3", "mp3float": "mp3", "mp3": "mp3"}


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


class AudioSource(Protocol):
    """An open audio file. `frames` is 0 where the length is unknown or the format cannot seek."""

    rate: int
    channels: int
    codec: str
    frames: int

    def blocks(self) -> Iterator[Samples]:
        """The frames from start to end, in blocks of bounded size."""

    def read_at(self, first: int, frames: int) -> Samples:
        """Up to `frames` frames from frame `first` on; only where `frames` is not 0."""


class _Onward(soundfile.SoundFile):  # type: ignore[misc]
    """Read without a seek to where it already is after each block: slow in FLAC, and not exact in MP3."""

    def seekable(self) -> bool:
        """What `read` asks before it seeks."""
        return False


class LibsndfileSource:
    """A file open in libsndfile."""

    def __init__(self, sound: _Onward, clock: Clock) -> None:
        self.sound, self.clock = sound, clock
        self.rate, self.channels = sound.samplerate, sound.channels
        name = (sound.format if sound.format == "FLAC" else sound.subtype).lower()
        self.codec = CODEC_NAMES.get(name, name)
        self.frames = sound.frames if super(_Onward, sound).seekable() else 0
        self.dtype: Literal["int16", "float32"] = "int16" if sound.subtype == "PCM_16" else "float32"

    def blocks(self) -> Iterator[Samples]:
        """The frames from start to end, in blocks of bounded size."""
        size = max(1, BLOCK_SAMPLES // self.channels)
        while len(block := self._read(size)):
            yield block

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


def _shape(frame: Any) -> tuple[int, int, str]:
    """What FFmpeg's buffer takes for granted: a frame with fewer channels than others would be read past its end."""
    return frame.sample_rate, frame.layout.nb_channels, frame.format.name


class _InOrder:
    """A source that is read from its start to its end only: seeking by time in compressed streams is not exact."""

    frames = 0

    def read_at(self, first: int, frames: int) -> Samples:
        """Not offered."""
        raise NotImplementedError


class FfmpegSource(_InOrder):
    """A file open in FFmpeg, which skips packets that do not decode and ends where it cannot read on, as players do."""

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
        """Frames of one format: that of the first one which has the header's rate and channels. Others are left out."""
        kept = None
        try:
            for packet in self.container.demux(self.stream):
                self.clock.check()
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    continue
                for frame in frames:
                    shape = _shape(frame)
                    if kept is None and shape[:2] == (self.rate, self.channels):
                        kept = shape
                    if shape == kept:
                        yield frame
        except (av.error.InvalidDataError, av.error.PatchWelcomeError):
            if kept is None:
                raise


class VorbisSource(_InOrder):
    """An Ogg Vorbis file that FFmpeg reads, decodes, averages and gathers in its own filter graph.

    Python sees blocks of the channels' mean only. The graph ends early without a word where packets do not decode, so
    what came is counted: one whole file in fifteen is a hair shorter or longer than it says, and is better decoded
    twice than a damaged one ended early.
    """

    codec = "vorbis"

    def __init__(self, sink: Any, channels: int, promised: int, clock: Clock) -> None:
        self.sink, self.channels, self.promised, self.clock = sink, channels, promised, clock
        first = self._pulled()
        if first is None:
            raise ValueError("no audio in it")
        self.first, self.rate = first, first.sample_rate

    def blocks(self) -> Iterator[Samples]:
        """The frames from start to end, in blocks of bounded size."""
        block, came = self.first, 0
        while block is not None:
            came += block.samples
            yield np.frombuffer(block.planes[0], np.float32, block.samples)[:, None]
            self.clock.check()
            block = self._pulled()
        if came != self.promised:
            raise ValueError(f"{came:,} samples, though the last page says {self.promised:,}")

    def _pulled(self) -> Any:
        try:
            return self.sink.pull()
        except EOFError:
            return None


@contextmanager
def open_libsndfile(file: BinaryIO, clock: Clock) -> Iterator[AudioSource]:
    """The file as libsndfile reads it. Raises what that raises, and ValueError where it ended early."""
    with _Onward(file) as sound:
        try:
            yield LibsndfileSource(sound, clock)
        finally:  # also where all that it has heard is silence
            if sound.format in ("MP3", "OGG") and sound.tell() >= sound.frames:
                _refuse_rest(file)


def _refuse_rest(file: BinaryIO) -> None:
    """Refuse a file read to its end that has more to hear.

    libsndfile takes an MP3 without a header of its own (one that was piped) to be as long as its first frames' bit rate
    says, and of joined streams it reads the first.
    """
    heard, size = file.tell(), file.seek(0, os.SEEK_END)
    if size - heard > max(4_096, size // 100):  # more than tags and an encoder's padding
        raise ValueError(f"it took {heard:,} of {size:,} bytes for the whole file")


@contextmanager
def open_ffmpeg(file: BinaryIO, clock: Clock) -> Iterator[AudioSource]:
    """The file as FFmpeg reads it; it may open nothing else (playlists name other files). Raises what PyAV raises."""
    with av.open(file, metadata_errors="ignore", options={"protocol_whitelist": "none"}) as container:
        yield FfmpegSource(container, clock)


@contextmanager
def open_vorbis(file: BinaryIO, clock: Clock) -> Iterator[AudioSource]:
    """A small Ogg Vorbis file by way of memory that has a name; it may open nothing else.

    Raises what PyAV raises, ValueError where its last page says another length, OSError or AttributeError without it.
    """
    content = file.read()
    (promised,) = OGG_END.unpack_from(content, content.rfind(b"OggS"))
    channels = content[content.index(b"\x01vorbis") + VORBIS_CHANNELS]
    mean = "+".join(f"{1 / channels}*c{channel}" for channel in range(channels))
    with os.fdopen(os.memfd_create("clip"), "wb") as held:
        held.write(content)
        held.flush()
        graph = av.filter.Graph()
        graph.threads = 1  # a pool of threads costs a third of a short clip's opening
        only = {"format_name": "ogg", "format_opts": "protocol_whitelist=file", "streams": "a:0"}
        movie = graph.add("amovie", filename=f"/proc/self/fd/{held.fileno()}", **only)
        sink = graph.add("abuffersink")
        mono = graph.add("pan", args=f"mono|c0={mean}")
        graph.link_nodes(movie, mono, graph.add("asetnsamples", n=str(GATHERED), p="0"), sink).configure()
        yield VorbisSource(sink, channels, promised, clock)
