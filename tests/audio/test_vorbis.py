import io
import os
from contextlib import nullcontext

import numpy as np
import pytest

from looptagger.audio.decode import Clip, decode
from looptagger.audio.sources import AudioSource, Clock, open_ffmpeg
from looptagger.audio.vorbis import VorbisSource, open_vorbis
from looptagger.config import Audio, Chunking, Limits
from looptagger.errors import ClipFailed
from tests.conftest import audio_bytes, tone


def vorbis(seconds: float = 4.0, rate: int = 44_100, channels: int = 1) -> bytes:
    levels = np.linspace(0.2, 0.6, channels, dtype=np.float32)
    return audio_bytes(tone(seconds, 500, rate)[:, None] * levels, rate, format="OGG", subtype="VORBIS")


def samples(source: AudioSource) -> np.ndarray:
    return np.concatenate(list(source.blocks()))


def through(data: bytes) -> Clip:
    return decode(io.BytesIO(data), Audio(), Chunking(), Limits())


def same(one: Clip, other: Clip) -> bool:
    return np.array_equal(one.pcm, other.pcm) and one.duration_s == other.duration_s


@pytest.mark.parametrize(("rate", "channels"), [(32_000, 1), (44_100, 1), (44_100, 2), (48_000, 6)])
def test_ffmpeg_by_itself_hears_what_it_says_packet_by_packet(rate: int, channels: int) -> None:
    data = vorbis(rate=rate, channels=channels)
    with open_vorbis(io.BytesIO(data), Clock(10)) as one, open_ffmpeg(io.BytesIO(data), Clock(10)) as other:
        assert (one.rate, one.channels, one.codec) == (rate, channels, "vorbis")
        np.testing.assert_allclose(samples(one)[:, 0], samples(other).mean(axis=1), atol=1e-6)


def test_damage_sends_the_clip_to_the_decoder_that_skips_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is heard, as by players; FFmpeg's graph would end there without a word."""
    broken = bytearray(vorbis(20.0))
    for page in (broken.find(b"OggS", len(broken) * n // 5) for n in (1, 2, 3)):
        broken[page + 40 : page + 60] = bytes(20)
    data = bytes(broken)
    with open_vorbis(io.BytesIO(data), Clock(10)) as source, pytest.raises(ValueError, match="the last page says"):
        samples(source)
    clip = through(data)
    assert 10 < clip.duration_s < 20
    monkeypatch.setattr("looptagger.audio.decode.SHORT_VORBIS", [("FFmpeg", open_ffmpeg)])
    assert same(clip, through(data))


@pytest.mark.parametrize(("more", "whole"), [(-100, True), (0, True), (256, True), (257, False)])
def test_whole_files_are_a_hair_shorter_or_longer_than_they_say(more: int, whole: bool) -> None:
    with open_vorbis(io.BytesIO(vorbis()), Clock(10)) as source:
        assert isinstance(source, VorbisSource)
        source.promised += more
        with nullcontext() if whole else pytest.raises(ValueError, match="the last page says"):
            samples(source)


def test_a_system_without_named_memory_decodes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    data = vorbis()
    clip = through(data)
    monkeypatch.delattr(os, "memfd_create")
    assert same(clip, through(data))


def test_a_vorbis_file_cut_short_gives_its_beginning_or_a_reason() -> None:
    """One reason a decoder, though FFmpeg was asked in two ways."""
    assert 2 < through(vorbis()[:-10]).duration_s <= 4
    with pytest.raises(ClipFailed, match=r"no decoder could read it \(FFmpeg: [^:]*; libsndfile: [^:]*\)"):
        through(vorbis()[:60])
