"""Decoding and resampling to 16 kHz mono, beside what other libraries take: part of `make bench`."""

import statistics
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from jobs.ratios import ROUNDS, paired, seconds, spread
from looptagger import memory
from looptagger.config import Audio, Chunking, Limits

RATE = 16_000
KINDS = ("wav", "flac", "ogg", "mp3")


Samples = NDArray[np.float32] | NDArray[np.int16]


def ours(path: Path) -> Samples:
    """looptagger's own, out of bytes as the job has them, into the 16 bit samples that it hands on, chunk by chunk."""
    import io

    from looptagger.audio.decode import decode

    return decode(io.BytesIO(path.read_bytes()), *settings()).pcm.ravel()


@cache
def settings() -> tuple[Audio, Chunking, Limits]:
    """The job's, made once."""
    return Audio(), Chunking(), Limits()


def librosa(path: Path) -> Samples:
    """Its defaults: soundfile or audioread, then soxr."""
    import librosa

    return librosa.load(path, sr=RATE)[0]  # type: ignore[no-any-return]


def torchaudio(path: Path) -> Samples:
    """torchaudio's resampler on what soundfile reads."""
    import soundfile
    import torch

    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return _resampler(rate)(torch.from_numpy(samples).mean(dim=1)).numpy()  # type: ignore[no-any-return]


@cache
def _resampler(rate: int) -> Any:
    from torchaudio.transforms import Resample

    return Resample(rate, RATE)


def torchcodec(path: Path) -> Samples:
    """FFmpeg's decoder and resampler, by PyTorch."""
    from torchcodec.decoders import AudioDecoder

    return AudioDecoder(path, sample_rate=RATE, num_channels=1).get_all_samples().data[0].numpy()  # type: ignore[no-any-return]


def pyav(path: Path) -> Samples:
    """The same by PyAV."""
    import av

    resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
    with av.open(str(path)) as container:
        frames = [*container.decode(audio=0), None]
        parts = [part.to_ndarray() for frame in frames for part in resampler.resample(frame)]
    return np.concatenate(parts, axis=1)[0]  # type: ignore[no-any-return]


def essentia(path: Path) -> Samples:
    """MonoLoader: FFmpeg, then libsamplerate at its default quality."""
    import essentia.standard

    return essentia.standard.MonoLoader(filename=str(path), sampleRate=RATE)()  # type: ignore[no-any-return]


PEERS: tuple[Callable[[Path], Samples], ...] = (librosa, torchaudio, torchcodec, pyav, essentia)


def _all(decode: Callable[[Path], Any], paths: Sequence[Path]) -> None:
    for path in paths:
        decode(path)


def bench_decode(clips: Sequence[Path]) -> Table:
    """Ours ÷ each that is installed, format by format, one core, in turn."""
    import torch

    torch.set_num_threads(1)
    memory.keep()  # as in the process that decodes; the others have it, too
    there = [peer for peer in PEERS if find_spec({"pyav": "av"}.get(peer.__name__, peer.__name__))]
    columns = ["decode to 16 kHz", "clips/s a core", *(f"÷ {peer.__name__}" for peer in there)]
    table = Table(*columns, title="ours ÷ theirs: median (range)")
    for kind in (*KINDS, "all"):
        paths = [path for path in clips if kind in ("all", path.suffix[1:])][:50]
        if not paths:
            continue
        ratios = [spread(paired(partial(_all, ours, paths), partial(_all, peer, paths))) for peer in there]
        rate = len(paths) / statistics.median(seconds(partial(_all, ours, paths)) for _ in range(ROUNDS))
        table.add_row(kind, f"{rate:.0f}", *ratios)
    return table
