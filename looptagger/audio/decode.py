"""Audio bytes of any common format into int16 chunks at the model's rate, or the reason why not.

libsndfile first, FFmpeg (PyAV) for what it cannot read; before them, for short files, what is faster: dr_flac for FLAC,
FFmpeg for Vorbis. soxr resamples; channels are averaged. Files are read block by block, or are bounded first, so a
header that lies about its length allocates nothing. Long clips are heard in chunks spread over their length; where the
format can seek, only those are decoded.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import soxr
from numpy.typing import NDArray

from looptagger.audio import chunk
from looptagger.audio.flac import is_short_flac, open_flac
from looptagger.audio.sources import AudioSource, Clock, Samples, open_ffmpeg, open_libsndfile
from looptagger.audio.vorbis import open_vorbis
from looptagger.config import Audio, Chunking, Limits
from looptagger.errors import ClipFailed, one_line

EDGE_S = 0.05
"""Seconds decoded around a chunk, so that the resampler's edges fall outside it."""

HEAD = 64
SHORT_BYTES = 1 << 20
SHORT_FLAC_BYTES = 1 << 23
ANY = (("libsndfile", open_libsndfile), ("FFmpeg", open_ffmpeg))
SHORT_VORBIS = (("FFmpeg", open_vorbis), ("FFmpeg", open_ffmpeg), ("libsndfile", open_libsndfile))
"""FFmpeg decodes Vorbis twice as fast as libsndfile, by a filter graph of its own, which a damaged file is refused by.
But only libsndfile can leave parts out.
"""
SHORT_FLAC = (("dr_flac", open_flac), *ANY)
SPARSE = 2
"""So many times as long as what is heard of it is a clip of which only that is decoded."""


@dataclass(frozen=True)
class Clip:
    """What the model hears of a clip, and what its file said of itself."""

    pcm: NDArray[np.int16]
    """(n_chunks, chunk_samples), none of them silent: silence in a clip says nothing of its role."""
    start_s: NDArray[np.float64]
    """Where each chunk begins, in seconds."""
    duration_s: float
    sample_rate: int
    channels: int
    codec: str


def decode(file: BinaryIO, audio: Audio, chunking: Chunking, limits: Limits) -> Clip:
    """The chunks of an audio file; `file` is any seekable binary file.

    Raises ClipFailed: `undecodable`, `empty`, `silent` or `too_large`; and MemoryError.
    """
    return _first_that_reads(file, limits, lambda source: _chunks(source, audio, chunking, limits))


def decode_whole(file: BinaryIO, audio: Audio, limits: Limits, silence_db: float) -> Clip:
    """An audio file as one chunk of its own length: `pcm` is (1, n_samples). Raises ClipFailed as `decode` does."""

    def work(source: AudioSource) -> Clip:
        waveform, duration_s = _whole(source, audio, limits)
        if not chunk.has_sound(waveform[None], silence_db).any():
            raise _silent(silence_db)
        return Clip(waveform[None], np.zeros(1), duration_s, source.rate, source.channels, source.codec)

    return _first_that_reads(file, limits, work)


def _first_that_reads(file: BinaryIO, limits: Limits, work: Callable[[AudioSource], Clip]) -> Clip:
    """What is heard through the first decoder that can read the file. Raises ClipFailed."""
    head, size = file.read(HEAD), file.seek(0, io.SEEK_END)
    if not head:
        raise ClipFailed("empty", "0 bytes")
    clock = Clock(limits.max_decode_s, file)
    refusals, empty = {}, None
    for name, opened in _decoders(head, size):
        try:
            file.seek(0)
            with opened(file, clock) as source:
                return work(source)
        except ClipFailed as failed:
            if failed.status != "empty":
                raise
            empty = failed  # the next decoder may find audio in it; if not, this is the reason
        except TimeoutError:
            raise ClipFailed("undecodable", f"decoding took longer than {limits.max_decode_s:g} s") from None
        except MemoryError:
            raise
        except Exception as error:  # codecs raise anything on broken input, and each is only this clip's reason
            refusals[name] = _reason(error)
    if empty:
        raise empty
    raise ClipFailed("undecodable", "no decoder could read it (" + "; ".join(map(": ".join, refusals.items())) + ")")


def _decoders(head: bytes, size: int) -> Sequence[tuple[str, Callable[..., AbstractContextManager[AudioSource]]]]:
    """What may read a file of so many bytes that begins so, the quickest first."""
    if head.startswith(b"OggS") and b"\x01vorbis" in head and size <= SHORT_BYTES:
        return SHORT_VORBIS
    return SHORT_FLAC if is_short_flac(head) and size <= SHORT_FLAC_BYTES else ANY


def _reason(error: Exception) -> str:
    """What a decoder says of a file it refuses, without the file's name."""
    text = one_line(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error)
    # libsndfile says this of MP3 data it cannot start on, though the file is there
    return "no MPEG frame found" if text.startswith("File does not exist") else text


def _chunks(source: AudioSource, audio: Audio, chunking: Chunking, limits: Limits) -> Clip:
    """A source's chunks that are not silent: sparse when it can seek and is long, else out of the whole waveform."""
    # frames is 0 where it cannot seek
    if source.frames and source.frames / source.rate > SPARSE * chunking.max_chunks * audio.chunk_s:
        first = chunk.planned(source.frames * audio.sample_rate // source.rate, audio, chunking)
        pcm = np.stack([_span(source, int(start), audio) for start in first])
        pcm, first = chunk.audible(pcm, first, chunking)
        duration_s = source.frames / source.rate
    else:
        waveform, duration_s = _whole(source, audio, limits)
        pcm, first = chunk.cut_up(waveform, audio, chunking)
    if not len(pcm):
        raise _silent(chunking.silence_db)
    return Clip(pcm, first / audio.sample_rate, duration_s, source.rate, source.channels, source.codec)


def _silent(silence_db: float) -> ClipFailed:
    return ClipFailed("silent", f"nothing heard of it over {silence_db:g} dBFS")


def _whole(source: AudioSource, audio: Audio, limits: Limits) -> tuple[NDArray[np.int16], float]:
    """All of a source as one int16 waveform at the model's rate, and its length in seconds."""
    frames = 0

    def counted() -> Iterator[Samples]:
        nonlocal frames
        for block in source.blocks():
            frames += len(block)
            if frames > limits.max_seconds * source.rate:
                raise ClipFailed("too_large", f"longer than {limits.max_seconds:g} s of audio (limits.max_seconds)")
            yield block

    parts = list(_resampled(counted(), source.rate, audio.sample_rate))
    waveform = np.concatenate(parts) if parts else np.empty(0, np.int16)
    if source.frames and not frames:
        raise ValueError("no audio, of which its header promises some")
    if not len(waveform):
        raise ClipFailed("empty", "too short to hear" if frames else "a header without audio")
    return waveform, frames / source.rate


def _span(source: AudioSource, start: int, audio: Audio) -> NDArray[np.int16]:
    """One chunk out of a seekable source; `start` counts samples at the model's rate."""
    edge = round(EDGE_S * source.rate)
    first = start * source.rate // audio.sample_rate
    before = min(edge, first)
    wanted = -(-audio.chunk_samples * source.rate // audio.sample_rate) + edge
    samples = source.read_at(first - before, before + wanted)
    waveform = np.concatenate(list(_resampled(iter([samples]), source.rate, audio.sample_rate)))
    skip = round(before * audio.sample_rate / source.rate)
    if len(waveform) - skip < audio.chunk_samples - 2 * EDGE_S * audio.sample_rate:
        raise ValueError("the file ends before its header says")
    return chunk.fit(waveform[skip:], audio.chunk_samples)


def _resampled(blocks: Iterator[Samples], rate: int, to_rate: int) -> Iterator[NDArray[np.int16]]:
    """Blocks of frames -> int16 blocks of their mean at `to_rate`."""
    if rate == to_rate:
        yield from map(_int16, map(_mono, blocks))
        return
    stream = soxr.ResampleStream(rate, to_rate, 1)
    for block in blocks:
        yield _int16(stream.resample_chunk(_mono(block)))
    yield _int16(stream.resample_chunk(np.empty(0, np.float32), last=True))


def _mono(block: Samples) -> NDArray[np.float32]:
    """Frames (n, channels) -> their mean (n,), within [-1, 1]; what is not a number becomes 0."""
    channels = block.shape[1]
    if block.dtype == np.int16:
        mean: NDArray[np.float32] = block.astype(np.float32) @ np.full(channels, 1 / channels / 32768, np.float32)
        return mean
    mono = (block[:, 0] if channels == 1 else block @ np.full(channels, 1 / channels, np.float32)).astype(
        np.float32, copy=False
    )
    if mono.max(initial=0.0) <= 1.0 and mono.min(initial=0.0) >= -1.0:  # nearly always, and never where one is NaN
        return mono
    clipped: NDArray[np.float32] = np.clip(np.nan_to_num(mono), -1.0, 1.0)
    return clipped


def _int16(waveform: NDArray[np.float32]) -> NDArray[np.int16]:
    """Float samples in [-1, 1] -> int16, clipped: half the bytes between decoder and model."""
    scaled = waveform * np.float32(32768)
    return np.clip(np.rint(scaled, out=scaled), -32768, 32767, out=scaled).astype(np.int16)
