"""Files that are longer than libsndfile takes them for."""

import io
from contextlib import nullcontext

import av
import numpy as np
import pytest

from looptagger.audio.decode import Clip, decode
from looptagger.audio.sources import Clock, open_libsndfile
from looptagger.config import Audio, Chunking, Limits
from tests.conftest import audio_bytes, tone

RATE = 44_100


class Pipe(io.RawIOBase):
    """Takes bytes one after another: an encoder cannot come back to write a length into the header."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.taken += data
        return len(data)


def vbr_mp3(waveform: np.ndarray, file: io.RawIOBase | io.BytesIO) -> None:
    """An MP3 of variable bit rate."""
    with av.open(file, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=RATE, layout="mono")
        stream.codec_context.qscale = True
        stream.codec_context.global_quality = 2 * 118  # as `lame -V2`
        frame = av.AudioFrame.from_ndarray((waveform * 32_000).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        to_frames = av.AudioResampler(format=stream.format, layout="mono", rate=RATE, frame_size=1_152)
        for each in [*to_frames.resample(frame), *to_frames.resample(None), None]:
            container.mux(stream.encode(each))


def fading(seconds: float) -> np.ndarray:
    """Noise, whose bit rate is high, for a second of ten, and then a tone, whose bit rate is low."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * RATE / 10))
    return np.concatenate([noise, tone(seconds * 0.9, 220.0, RATE)])


def heard(data: bytes, max_chunks: int = 40, **limits: float) -> Clip:
    return decode(io.BytesIO(data), Audio(), Chunking(max_chunks=max_chunks), Limits(**limits))


def test_a_long_mp3_that_was_cut_is_as_long_as_what_is_left() -> None:
    """Its header says more than a chunk's end, which would be filled up with the chunk's beginning."""
    whole = audio_bytes(tone(300.0), format="MP3")
    assert heard(whole).duration_s == pytest.approx(300.0, abs=0.1)
    assert heard(whole[: len(whole) * 99 // 100]).duration_s == pytest.approx(297.0, abs=0.5)


@pytest.mark.parametrize(("seconds", "max_chunks"), [(12.0, 40), (400.0, 40), (400.0, 5)])
def test_an_mp3_of_variable_rate_that_was_piped(seconds: float, max_chunks: int) -> None:
    """Its header says no length; by its first frames' rate it would be a sixth of it, heard whole or in parts."""
    pipe = Pipe()
    vbr_mp3(fading(seconds), pipe)
    clip = heard(bytes(pipe.taken), max_chunks)
    assert clip.duration_s == pytest.approx(seconds, abs=0.1)
    assert clip.start_s[-1] == pytest.approx(seconds - 3, abs=0.1)


def test_tags_after_the_audio_are_no_audio() -> None:
    written = io.BytesIO()
    vbr_mp3(fading(12.0), written)
    plain = heard(written.getvalue())
    assert plain.duration_s == pytest.approx(12.0, abs=0.1)
    for size in (128, 4_000, 100_000):  # an ID3v1 tag, an APE tag, one with a picture
        data = written.getvalue() + b"TAG" + bytes(size - 3)
        assert heard(data).duration_s == pytest.approx(12.0, abs=0.1)
        refused = pytest.raises(ValueError, match="for the whole file") if size > 4_096 else nullcontext()
        with refused, open_libsndfile(io.BytesIO(data), Clock(60)) as source:
            list(source.blocks())


@pytest.mark.parametrize(("form", "subtype"), [("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS")])
def test_a_file_of_which_the_middle_is_heard_is_not_taken_for_one_that_ended_early(form: str, subtype: str) -> None:
    """Read whole instead, it would be too large."""
    long = audio_bytes(tone(60.0, rate=48_000), 48_000, format=form, subtype=subtype)
    clip = heard(long, max_chunks=1, max_seconds=30)
    assert clip.start_s.tolist() == pytest.approx([28.5], abs=0.1)


def test_silence_before_another_stream_is_not_all() -> None:
    parts = [
        audio_bytes(each, 48_000, format="OGG", subtype="OPUS") for each in (np.zeros(96_000), tone(6.0, rate=48_000))
    ]
    assert heard(b"".join(parts)).duration_s == pytest.approx(8.0, abs=0.1)


def test_joined_files_are_heard_to_their_end() -> None:
    parts = [io.BytesIO(), io.BytesIO()]
    for part in parts:
        vbr_mp3(fading(6.0), part)
    joined = heard(b"".join(part.getvalue() for part in parts))
    assert joined.duration_s == pytest.approx(12.0, abs=0.2)
    opus = audio_bytes(tone(6.0, rate=48_000), 48_000, format="OGG", subtype="OPUS")
    assert heard(opus * 2).duration_s == pytest.approx(12.0, abs=0.1)


def test_a_damaged_header_does_not_end_a_clip() -> None:
    """libsndfile takes a frame of another rate for the end, without a word."""
    mp3 = bytearray(audio_bytes(tone(20.0, 220.0, RATE), RATE, format="MP3"))
    mp3[mp3.index(b"\xff\xfb", len(mp3) // 4) + 2] ^= 0b100
    assert heard(bytes(mp3)).duration_s == pytest.approx(20.0, abs=0.2)
