import io
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from looptagger.audio.decode import SHORT_BYTES, Clip, decode
from looptagger.audio.sources import Clock, FfmpegSource, open_ffmpeg
from looptagger.config import Audio, Chunking, Limits
from looptagger.errors import ClipFailed
from tests.conftest import RATE, SHARED, audio_bytes, tone

AWKWARD = SHARED / "audio" / "awkward"


def heard(data: bytes, chunking: Chunking = Chunking(), limits: Limits = Limits()) -> Clip:
    return decode(io.BytesIO(data), Audio(), chunking, limits)


def refused(data: bytes, **how: object) -> tuple[str, str]:
    with pytest.raises(ClipFailed) as error:
        heard(data, **how)  # type: ignore[arg-type]
    return error.value.status, str(error.value)


def loudest_hz(pcm: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(pcm[0] * np.hanning(len(pcm[0])))).argmax() * RATE / len(pcm[0]))


def assert_as_loud(clip: Clip) -> None:
    """As the tone that was encoded, at half of full scale, whatever the samples' format; codecs change it a little."""
    assert np.percentile(np.abs(clip.pcm), 99) == pytest.approx(16384, rel=0.06)


SNDFILE = [
    ("WAV", "PCM_U8"), ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"),
    ("WAV", "ULAW"), ("WAV", "ALAW"), ("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"), ("WAVEX", "PCM_24"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"), ("AIFF", "PCM_S8"), ("AIFF", "PCM_16"), ("AIFF", "FLOAT"), ("CAF", "PCM_24"), ("CAF", "ALAC_16"),
    ("AU", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "subtype"), SNDFILE)
def test_formats_of_libsndfile(kind: str, subtype: str) -> None:
    clip = heard(audio_bytes(tone(3.2, 1000, 48_000), 48_000, format=kind, subtype=subtype))
    assert clip.pcm.shape == (2, 48_000)
    assert abs(loudest_hz(clip.pcm) - 1000) < 2
    assert clip.duration_s == pytest.approx(3.2, abs=0.06)
    codec = {"FLAC": "flac", "MP3": "mp3"}.get(kind, subtype.lower())
    assert (clip.codec, clip.sample_rate, clip.channels) == (codec, 48_000, 1)
    assert_as_loud(clip)


def encoded(container: str, codec: str, rate: int = 44_100, layout: str = "mono") -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 128_000
        resampler = av.AudioResampler(stream.format, layout, rate, frame_size=stream.codec_context.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(tone(3.2, 1000, rate)[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        for packed in [*resampler.resample(frame), *resampler.resample(None), None]:
            out.mux([packet for packet in stream.encode(packed) if packet.size])
    return file.getvalue()


FFMPEG = [
    ("mp4", "aac", 44_100),
    ("mp4", "alac", 44_100),
    ("asf", "wmav2", 44_100),
    ("webm", "libopus", 48_000),
    ("matroska", "flac", 44_100),
    ("adts", "aac", 44_100),
    ("ogg", "flac", 44_100),
    ("wv", "wavpack", 44_100),
]


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("matroska", "pcm_s16le"), ("matroska", "libopus")])
def test_eight_channels_by_ffmpeg(container: str, codec: str) -> None:
    clip = heard(encoded(container, codec, 48_000, "7.1"))
    assert clip.channels == 8
    assert abs(loudest_hz(clip.pcm) - 1000) < 2


def test_more_channels_than_ffmpeg_s_vorbis_knows() -> None:
    clip = heard(audio_bytes(tone(2.0)[:, None] * np.ones(16, np.float32), 16_000, format="OGG", subtype="VORBIS"))
    assert clip.channels == 16


@pytest.mark.parametrize(("container", "codec", "rate"), FFMPEG)
def test_formats_of_ffmpeg(container: str, codec: str, rate: int) -> None:
    clip = heard(encoded(container, codec, rate))
    assert len(clip.pcm) == 2
    assert abs(loudest_hz(clip.pcm) - 1000) < 2
    assert (clip.codec, clip.sample_rate, clip.channels) == (codec.removeprefix("lib"), rate, 1)
    assert_as_loud(clip)
    assert clip.duration_s == pytest.approx(3.2, abs=0.15)


@pytest.mark.parametrize("rate", [1_000, 8_000, 11_025, 16_000, 22_050, 44_100, 96_000, 192_000, 384_000])
def test_any_rate(rate: int) -> None:
    clip = heard(audio_bytes(tone(3.0, 300, rate), rate))
    assert abs(loudest_hz(clip.pcm) - 300) < 2
    assert clip.duration_s == pytest.approx(3.0)


@pytest.mark.parametrize("channels", [1, 2, 5, 8, 32])
def test_channels_are_averaged(channels: int) -> None:
    levels = np.linspace(0.3, 0.5, channels, dtype=np.float32)
    clip = heard(audio_bytes(tone(3.0, level=1.0)[:, None] * levels, subtype="FLOAT"))
    assert clip.channels == channels
    assert np.abs(clip.pcm).max() == pytest.approx(32768 * levels.mean(), rel=1e-3)


@pytest.mark.parametrize("channels", [(2, 1), (1, 2)])
def test_of_a_stream_that_changes_on_the_way_one_format_is_heard(channels: tuple[int, int]) -> None:
    """That of the header, wherever it lies. FFmpeg's buffer would read mono as stereo, past its end."""
    parts = [audio_bytes(np.tile(tone(1.0)[:, None], (1, n)), format="MP3") for n in channels]
    with open_ffmpeg(io.BytesIO(b"".join(parts)), Clock(10.0)) as source:
        heard = np.concatenate(list(source.blocks()))
    assert heard.shape[1] == source.channels
    assert RATE * 0.9 < len(heard) < RATE * 1.2
    assert np.abs(heard).max() == pytest.approx(0.5, abs=0.05)


def test_what_ffmpeg_cannot_read_on_from_ends_the_clip_and_does_not_lose_it() -> None:
    whole = encoded("wv", "wavpack")
    assert heard(whole[: len(whole) // 2]).duration_s == 1.0  # of two blocks of a second the whole one
    assert heard(whole + b"TAG" + bytes(125)).duration_s == pytest.approx(3.2, abs=0.1)
    links = (audio_bytes(tone(4.0, rate=rate), rate, format="OGG") for rate in (44_100, 22_050))
    assert heard(b"".join(links)).duration_s == pytest.approx(4.0, abs=0.1)


def test_a_codec_that_nobody_knows_is_a_reason() -> None:
    wav = bytearray(audio_bytes(tone()))
    wav[20:22] = b"\x34\x12"
    status, reason = refused(bytes(wav))
    assert status == "undecodable"
    assert "FFmpeg: no audio stream that it can decode" in reason


def test_short_clips_are_tiled_and_the_tail_counts() -> None:
    one = heard(audio_bytes(tone(1.0)))
    assert np.array_equal(one.pcm[0, :RATE], one.pcm[0, RATE : 2 * RATE])
    late = np.concatenate([np.zeros(4 * RATE, np.float32), tone(0.5)])
    clip = heard(audio_bytes(late))
    assert clip.start_s.tolist() == [1.5]
    assert np.abs(clip.pcm[-1, -RATE // 4 :]).max() > 10_000


def test_silence_in_a_clip_is_not_heard() -> None:
    """Models take it for something, and it would count as much as what sounds."""
    parts = [tone(3.0), np.zeros(6 * RATE, np.float32), tone(3.0, 880.0)]
    clip = heard(audio_bytes(np.concatenate(parts)))
    assert clip.start_s.tolist() == [0.0, 9.0]
    assert clip.duration_s == 12.0
    assert np.array_equal(clip.pcm[0], heard(audio_bytes(parts[0])).pcm[0])


class Damaged:
    """A container one of whose packets does not decode, by the error that FFmpeg's AAC gives for some damage."""

    def __init__(self, container: Any) -> None:
        self.container, self.streams = container, container.streams

    def demux(self, stream: Any) -> Iterator[Any]:
        for number, packet in enumerate(self.container.demux(stream)):
            yield self if number == 3 else packet

    def decode(self) -> None:
        raise av.error.PermissionError(1, "Operation not permitted")


def test_a_packet_that_does_not_decode_is_left_out() -> None:
    with av.open(io.BytesIO(audio_bytes(tone(3.0), format="MP3"))) as container:
        whole = sum(map(len, FfmpegSource(container, Clock(10)).blocks()))
    with av.open(io.BytesIO(audio_bytes(tone(3.0), format="MP3"))) as container:
        assert 0 < whole - sum(map(len, FfmpegSource(Damaged(container), Clock(10)).blocks())) < 2_000


def test_not_a_number_infinity_offset_and_clipping_stay_finite() -> None:
    wild = tone(3.0, level=50.0) + 3
    wild[100], wild[200], wild[300] = np.nan, np.inf, -np.inf
    clip = heard(audio_bytes(wild, subtype="FLOAT"))
    assert np.abs(clip.pcm.astype(int)).max() <= 32_768


def test_status_of_silence_and_emptiness() -> None:
    assert refused(audio_bytes(np.zeros(RATE, np.float32))) == ("silent", "nothing heard of it over -80 dBFS")
    assert refused(b"") == ("empty", "0 bytes")
    for kind in ("WAV", "AU", "W64", "CAF"):  # FFmpeg knows nothing of some without audio
        assert refused(audio_bytes(np.empty(0, np.float32), format=kind)) == ("empty", "a header without audio")
    quiet = audio_bytes(tone(level=1e-3))
    assert heard(quiet, Chunking(silence_db=-80)).pcm.any()
    assert refused(quiet, chunking=Chunking(silence_db=-40)) == ("silent", "nothing heard of it over -40 dBFS")
    assert refused(audio_bytes(np.full(1, 0.5, np.float32), rate=384_000)) == ("empty", "too short to hear")


def test_what_no_decoder_reads_gives_one_line_with_both_reasons() -> None:
    for junk in (b"\x00" * 5000, b"<html>not found</html>", b"RIFF\xff\xff\xff\xffWAVE", b"ID3" + b"\xff" * 900):
        status, reason = refused(junk)
        assert status == "undecodable"
        assert "\n" not in reason
        assert "0x" not in reason
        assert "libsndfile" in reason


def test_a_wrong_ending_does_not_matter_and_truncation_gives_what_is_there() -> None:
    whole = audio_bytes(tone(10, 500, 44_100), 44_100, format="FLAC")
    clip = heard(whole[: len(whole) // 2])
    assert 2 < clip.duration_s <= 10
    assert abs(loudest_hz(clip.pcm) - 500) < 2


PEAK = """
import resource, sys
from looptagger.audio.decode import decode
from looptagger.config import Audio, Chunking, Limits
from looptagger.errors import ClipFailed
for path in sys.argv[1:]:
    try: decode(open(path, "rb"), Audio(), Chunking(), Limits())
    except ClipFailed: pass
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
"""Decodes files, with the largest memory of the process so far after each, in KiB."""


def test_headers_that_lie_about_length_allocate_nothing(tmp_path: Path) -> None:
    data, flac = bytearray(audio_bytes(tone(1.0))), bytearray(audio_bytes(tone(1.0), format="FLAC"))
    files = {"wav": bytes(data), "flac": bytes(flac)}
    data[4:8] = data[40:44] = (0xFFFFFFF0).to_bytes(4, "little")
    flac[21] |= 0x0F  # the top bits of STREAMINFO's total samples
    flac[22:26] = b"\xff\xff\xff\xff"
    files |= {"lying.wav": bytes(data), "lying.flac": bytes(flac)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert heard(bytes(data)).duration_s == pytest.approx(1.0)
    paths = [tmp_path / name for name in files]
    done = subprocess.run([sys.executable, "-c", PEAK, *paths], capture_output=True, text=True, check=True, timeout=120)
    _, honest, *lying = map(int, done.stdout.split())
    assert max(lying) - honest < 100_000


def test_limits_of_seconds_and_work() -> None:
    assert refused(audio_bytes(tone(5)), limits=Limits(max_seconds=4))[0] == "too_large"
    long = audio_bytes(np.tile(tone(10, 200, 8000), 60), 8000, format="OGG", subtype="VORBIS")
    status, reason = refused(long, chunking=Chunking(max_chunks=1000), limits=Limits(max_decode_s=1e-9))
    assert (status, "longer than" in reason) == ("undecodable", True)


class Late(io.BytesIO):
    """A file whose store hesitates, and which says so."""

    waited_s = 0.0

    def readinto(self, buffer: Any) -> int:
        """What libsndfile reads by."""
        began = time.monotonic()
        time.sleep(0.2)
        self.waited_s += time.monotonic() - began
        return super().readinto(buffer)


class Silent(Late):
    """One that does not."""

    waited_s = property(lambda self: 0.0, lambda self, _: None)  # type: ignore[assignment]


def test_time_that_a_store_takes_is_not_time_to_decode() -> None:
    data, limits = audio_bytes(tone(20.0)), Limits(max_decode_s=0.6)
    assert len(decode(Late(data), Audio(), Chunking(), limits).pcm) == 7
    with pytest.raises(ClipFailed, match="longer than"):
        decode(Silent(data), Audio(), Chunking(), limits)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_long_clips_are_heard_sparsely_and_the_same_as_whole(kind: str) -> None:
    rate = 44_100
    wave = np.concatenate([tone(30, hz, rate) for hz in (200, 400, 800, 1600)])
    wave += np.random.default_rng(0).normal(0, 0.05, len(wave)).astype(np.float32)  # no two places sound the same
    data = audio_bytes(wave, rate, format=kind)
    assert len(data) > SHORT_BYTES  # else Vorbis is decoded whole
    sparse = heard(data, Chunking(max_chunks=8))
    whole = heard(data, Chunking(max_chunks=40))
    assert len(sparse.pcm) == 8
    assert sparse.start_s[-1] == pytest.approx(117, abs=0.01)
    assert [round(loudest_hz(piece[None])) for piece in sparse.pcm] == [200, 200, 400, 400, 800, 800, 1600, 1600]
    for place in (0, -1):
        assert whole.start_s[place] == pytest.approx(sparse.start_s[place], abs=1e-4)
        at_same_place = whole.pcm[place].astype(int) - sparse.pcm[place]
        assert np.abs(at_same_place[100:-100]).max() < 40


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    target = tmp_path / "secret.wav"
    target.write_bytes(audio_bytes(tone(1.0)))
    for text in (f"#EXTM3U\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n", f"ffconcat version 1.0\nfile '{target}'\n"):
        assert refused(text.encode())[0] == "undecodable"


awkward = pytest.mark.skipif(not AWKWARD.is_dir(), reason="the shared folder of awkward files is not here")
EXPECTED = {
    "wma__empty": "undecodable", "zero_frames": "empty", "tag_only": "empty", "no_data_chunk": "undecodable",
    "excessive_alloc": "undecodable", "ooming_header": "undecodable", "too_short": "undecodable",
    "aiff_4ch": "silent", "almost_silent": "silent", "dup_id3": "silent", "m4a_albumart": "silent",
    "ogg_albumart": "silent", "wavpack": "silent",
}  # fmt: skip


@awkward
@pytest.mark.parametrize(
    "path", sorted(set(AWKWARD.glob("*.*")) - {AWKWARD / "INDEX.tsv"}), ids=lambda path: path.name[:24]
)
def test_awkward_files_give_a_result_or_a_reason_in_time(path: Path) -> None:
    began = time.monotonic()
    with open(path, "rb") as file:
        try:
            status = "ok" if decode(file, Audio(), Chunking(), Limits()).pcm.any() else "nothing"
        except ClipFailed as undecoded:
            status = undecoded.status
    assert time.monotonic() - began < 10
    assert status == next((value for start, value in EXPECTED.items() if path.name.startswith(start)), "ok")


@awkward
def test_awkward_files_stay_within_a_gibibyte() -> None:
    script = f"""
import resource; resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
from pathlib import Path
from looptagger.audio.decode import decode
from looptagger.config import Audio, Chunking, Limits
from looptagger.errors import ClipFailed
for path in sorted(Path({str(AWKWARD)!r}).glob("*.*")):
    try: decode(open(path, "rb"), Audio(), Chunking(), Limits())
    except ClipFailed: pass
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) * 1024 < 1 << 30


def test_soundfile_is_built_with_mp3_and_opus() -> None:
    assert "MP3" in soundfile.available_formats()
    assert "OPUS" in soundfile.available_subtypes("OGG")
