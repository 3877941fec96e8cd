"""Short FLAC files through dr_flac: what libsndfile hears, or left to it."""

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
import soundfile

from looptagger.audio import decode as decoding
from looptagger.audio import flac as flac_files
from looptagger.audio.decode import Clip, decode
from looptagger.audio.flac import SHORT_SAMPLES, is_short_flac, open_flac
from looptagger.audio.sources import Clock
from looptagger.config import Audio, Chunking, Limits
from looptagger.errors import ClipFailed

pytestmark = pytest.mark.skipif(flac_files.miniaudio is None, reason="there is no miniaudio for this machine")


def flac(seconds: float = 4.0, rate: int = 44_100, channels: int = 2, subtype: str = "PCM_16") -> bytes:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (int(seconds * rate), channels))
    file = io.BytesIO()
    soundfile.write(file, noise, rate, format="FLAC", subtype=subtype)
    return file.getvalue()


def through(data: bytes) -> Clip | str:
    try:
        return decode(io.BytesIO(data), Audio(), Chunking(), Limits())
    except ClipFailed as failed:
        return failed.status


@pytest.fixture
def libsndfile(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], Clip | str]:
    """What comes without dr_flac."""

    def without(data: bytes) -> Clip | str:
        with monkeypatch.context() as patch:
            patch.setattr(decoding, "SHORT_FLAC", decoding.ANY)
            return through(data)

    return without


def same(one: Clip | str, other: Clip | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    told = [(clip.duration_s, clip.sample_rate, clip.channels, clip.codec) for clip in (one, other)]
    return np.array_equal(one.pcm, other.pcm) and told[0] == told[1]


def promising(frames: int, data: bytes) -> bytes:
    """A file whose head says another length."""
    (packed,) = struct.unpack_from(">Q", data, 18)
    return data[:18] + struct.pack(">Q", packed >> 36 << 36 | frames) + data[26:]


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"),
    [
        (44_100, 2, "PCM_16"),
        (16_000, 1, "PCM_16"),
        (48_000, 1, "PCM_24"),
        (96_000, 2, "PCM_24"),
        (22_050, 1, "PCM_S8"),
        (44_100, 6, "PCM_16"),
    ],
)
def test_it_hears_what_libsndfile_does(
    rate: int, channels: int, subtype: str, libsndfile: Callable[[bytes], Clip | str]
) -> None:
    data = flac(rate=rate, channels=channels, subtype=subtype)
    with open_flac(io.BytesIO(data), Clock(10)) as source:
        assert (source.rate, source.channels, source.codec, source.frames) == (rate, channels, "flac", 4 * rate)
        assert len(source.read_at(4 * rate - 10, 100)) == 10
    assert same(through(data), libsndfile(data))


def test_it_is_asked_first_of_short_files_only() -> None:
    head, large = flac()[: decoding.HEAD], promising(SHORT_SAMPLES, flac())[: decoding.HEAD]
    assert decoding._decoders(head, decoding.SHORT_FLAC_BYTES) is decoding.SHORT_FLAC
    assert decoding._decoders(head, decoding.SHORT_FLAC_BYTES + 1) is decoding.ANY
    assert decoding._decoders(large, 1_000) is decoding.ANY


@pytest.mark.parametrize("part", ["middle", "end", "start"])
def test_damage_is_left_to_libsndfile(part: str, libsndfile: Callable[[bytes], Clip | str]) -> None:
    data = bytearray(flac())
    at = {"start": len(data) // 20, "middle": len(data) // 2, "end": len(data) - 900}[part]
    data[at : at + 400] = bytes(400)
    with pytest.raises(ValueError, match="promises"), open_flac(io.BytesIO(data), Clock(10)):
        pass
    assert same(through(bytes(data)), libsndfile(bytes(data)))


@pytest.mark.parametrize("kept", [30, 60, 5_000, -1_000])
def test_a_file_cut_short_is_left_to_libsndfile(kept: int, libsndfile: Callable[[bytes], Clip | str]) -> None:
    data = flac()[:kept]
    assert same(through(data), libsndfile(data))


@pytest.mark.parametrize("frames", [0, 1, 100_000, 176_399, 176_401, SHORT_SAMPLES // 2, (1 << 36) - 1])
def test_a_head_that_lies_of_the_length_changes_nothing(frames: int, libsndfile: Callable[[bytes], Clip | str]) -> None:
    data = promising(frames, flac())
    assert is_short_flac(data) is (0 < frames <= SHORT_SAMPLES // 2)
    assert same(through(data), libsndfile(data))


def test_more_than_the_head_says_is_not_decoded_at_once() -> None:
    """A short file may hold hours of one value."""
    data = promising(44_100, flac(10.0))
    assert len(flac_files._samples(data)) == 44_101
    with pytest.raises(ValueError, match="not the 44,100 frames"), open_flac(io.BytesIO(data), Clock(10)):
        pass


@pytest.mark.parametrize("rate", [0, 379_972])
def test_a_head_of_another_rate_is_left_to_libsndfile(rate: int, libsndfile: Callable[[bytes], Clip | str]) -> None:
    data = flac()
    (packed,) = struct.unpack_from(">Q", data, 18)
    damaged = data[:18] + struct.pack(">Q", rate << 44 | packed & (1 << 44) - 1) + data[26:]
    assert is_short_flac(data)
    assert not is_short_flac(damaged)
    assert same(through(damaged), libsndfile(damaged))


def test_a_machine_without_it_decodes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    data = flac()
    clip = through(data)
    monkeypatch.setattr(flac_files, "miniaudio", None)
    assert not is_short_flac(data)
    assert same(clip, through(data))
