"""Short Ogg Vorbis files through FFmpeg's own filter graph, twice as fast as libsndfile."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import av
import av.filter
import numpy as np

from looptagger.audio.sources import AudioSource, Clock, Samples

GATHERED = 1 << 15
"""Samples of each channel in a block that FFmpeg gathers by itself."""
VORBIS_CHANNELS = len(b"\x01vorbis") + 4
"""Where the first header of Vorbis has the number of channels: after its name and version."""
LEFT_OUT = 256
"""Samples that FFmpeg gives fewer than a whole file of some encoders says: one or two halves of a small block."""
OGG_END = struct.Struct("<6xq")
"""The head of an Ogg page: its granule position, which in the last page of Vorbis is the number of samples."""


class VorbisSource(AudioSource):
    """An Ogg Vorbis file that FFmpeg reads, decodes, averages and gathers in its own filter graph.

    Python sees blocks of the channels' mean only. The graph ends early without a word where packets do not decode, so
    what came is counted.
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
        if came < self.promised - LEFT_OUT:
            raise ValueError(f"{came:,} samples, though the last page says {self.promised:,}")

    def _pulled(self) -> Any:
        try:
            return self.sink.pull()
        except EOFError:
            return None


@contextmanager
def open_vorbis(file: BinaryIO, clock: Clock) -> Iterator[AudioSource]:
    """A small Ogg Vorbis file by way of memory that has a name; it may open nothing else.

    Raises what PyAV raises, ValueError where its last page says that it is longer, OSError or AttributeError without
    such memory.
    """
    content = file.read()
    (promised,) = OGG_END.unpack_from(content, content.rfind(b"OggS"))
    channels = content[content.index(b"\x01vorbis") + VORBIS_CHANNELS]
    with os.fdopen(os.memfd_create("clip"), "wb") as held:
        held.write(content)
        held.flush()
        graph = av.filter.Graph()
        graph.threads = 1  # a pool of threads costs a third of a short clip's opening
        only = {"format_name": "ogg", "format_opts": "protocol_whitelist=file", "streams": "a:0"}
        movie = graph.add("amovie", filename=f"/proc/self/fd/{held.fileno()}", **only)
        gathered, sink = graph.add("asetnsamples", n=str(GATHERED), p="0"), graph.add("abuffersink")
        graph.link_nodes(movie, _mean(graph, channels), gathered, sink).configure()
        yield VorbisSource(sink, channels, promised, clock)


def _mean(graph: Any, channels: int) -> Any:
    """The filter that averages so many channels. FFmpeg's own way to mono is quicker, and another of more than two."""
    if channels <= 2:
        return graph.add("aresample", out_chlayout="mono", rematrix_maxval="1")
    return graph.add("pan", args="mono|c0=" + "+".join(f"{1 / channels}*c{each}" for each in range(channels)))
