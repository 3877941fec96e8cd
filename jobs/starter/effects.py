"""Effects on a mono waveform, each with its settings drawn from a seeded generator. numpy and SciPy only."""

import io
from collections.abc import Callable

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from scipy import signal

Wave = NDArray[np.float32]
Rng = np.random.Generator


def levelled(wave: Wave, peak: float = 0.9) -> Wave:
    """The waveform at a peak level; silence stays silence."""
    most = float(np.abs(wave).max()) if len(wave) else 0.0
    return (wave * (peak / most)).astype(np.float32) if most > 1e-6 else wave.astype(np.float32)


def distorted(wave: Wave, rng: Rng) -> Wave:
    """Soft clipping."""
    drive = rng.uniform(1.5, 12)
    return np.asarray(np.tanh(levelled(wave) * drive), np.float32)


def filtered(wave: Wave, rng: Rng, rate: int) -> Wave:
    """A low-pass, high-pass or peak filter, at times swept over the loop."""
    kind = rng.choice(["lowpass", "highpass", "lowpass"])
    cut = rng.uniform(600, 6000) if kind == "lowpass" else rng.uniform(60, 500)
    if rng.random() < 0.3:
        return swept(wave, cut * rng.uniform(0.15, 0.6), cut * rng.uniform(1.0, 2.5), rate)
    sos = signal.butter(int(rng.integers(1, 4)), min(cut, 0.45 * rate), str(kind), fs=rate, output="sos")
    return np.asarray(signal.sosfilt(sos, wave), np.float32)


def swept(wave: Wave, low: float, high: float, rate: int, blocks: int = 40) -> Wave:
    """A low-pass whose cut-off glides from `low` to `high` Hz."""
    out = np.empty_like(wave)
    state = np.zeros((1, 2))
    edges = np.linspace(0, len(wave), blocks + 1).astype(int)
    for i in range(blocks):
        cut = low * (high / low) ** (i / blocks)
        sos = signal.butter(2, min(cut, 0.45 * rate), fs=rate, output="sos")
        out[edges[i] : edges[i + 1]], state = signal.sosfilt(sos, wave[edges[i] : edges[i + 1]], zi=state)
    return out


def reverbed(wave: Wave, rng: Rng, rate: int) -> Wave:
    """A room: noise that decays, darker as it does, added to the dry sound."""
    seconds = float(rng.choice([rng.uniform(0.1, 0.6), rng.uniform(0.6, 2.5)]))
    time = np.arange(int(seconds * rate)) / rate
    impulse = rng.normal(0, 1, len(time)) * np.exp(-6.9 * time / seconds)
    sos = signal.butter(1, rng.uniform(1500, 7000), fs=rate, output="sos")
    wet = signal.fftconvolve(wave, signal.sosfilt(sos, impulse))[: len(wave)]
    return (levelled(wave) + levelled(wet.astype(np.float32)) * rng.uniform(0.1, 0.6)).astype(np.float32)


def echoed(wave: Wave, rng: Rng, rate: int) -> Wave:
    """A delay line with feedback."""
    gap, fade = int(rng.uniform(0.08, 0.45) * rate), rng.uniform(0.2, 0.6)
    out = wave.copy()
    for i in range(1, 6):
        if i * gap < len(wave):
            out[i * gap :] += wave[: len(wave) - i * gap] * fade**i
    return out


def compressed(wave: Wave, rng: Rng, rate: int) -> Wave:
    """Loud parts made quieter, by a slow envelope."""
    envelope = signal.lfilter([0.002], [1, -0.998], np.abs(levelled(wave)))
    gain = (np.maximum(envelope, 1e-3) / 0.1) ** -rng.uniform(0.2, 0.6)
    return np.asarray(wave * np.clip(gain, 0.2, 4), np.float32)


def crushed(wave: Wave, rng: Rng) -> Wave:
    """Fewer bits and a lower rate."""
    steps, hold = 2 ** rng.integers(3, 8), int(rng.integers(1, 6))
    held = np.repeat(wave[::hold], hold)[: len(wave)]
    return (np.round(levelled(held) * steps) / steps).astype(np.float32)


def chorused(wave: Wave, rng: Rng, rate: int) -> Wave:
    """Two copies whose delay swings: chorus, flanger, vibrato."""
    time = np.arange(len(wave))
    depth, base = rng.uniform(0.0005, 0.004) * rate, rng.uniform(0.002, 0.02) * rate
    delay = base + depth * (1 + np.sin(2 * np.pi * rng.uniform(0.2, 5) * time / rate))
    copy = np.interp(time - delay, time, wave, left=0.0)
    return (wave + rng.uniform(0.4, 1.0) * copy).astype(np.float32)


def gated(wave: Wave, rng: Rng, rate: int, bpm: float) -> Wave:
    """Chopped in time."""
    period = 60 / bpm / float(rng.choice([2, 4])) * rate
    on = (np.arange(len(wave)) % period) < period * rng.uniform(0.4, 0.8)
    smooth = signal.lfilter([0.02], [1, -0.98], on.astype(float))
    return np.asarray(wave * smooth, np.float32)


def worn(wave: Wave, rng: Rng, rate: int) -> Wave:
    """Vinyl: hiss, crackle, a slow wow."""
    hiss = rng.normal(0, 10 ** rng.uniform(-3.2, -2), len(wave))
    clicks = (rng.random(len(wave)) < 8 / rate) * rng.uniform(-0.3, 0.3, len(wave))
    time = np.arange(len(wave))
    wow = time + rng.uniform(5, 40) * np.sin(2 * np.pi * 0.55 * time / rate)
    return (np.interp(wow, time, levelled(wave)) + hiss + clicks).astype(np.float32)


def coded(wave: Wave, rng: Rng, rate: int) -> Wave:
    """Through a lossy codec and back."""
    file = io.BytesIO()
    how = (
        {"format": "MP3", "subtype": "MPEG_LAYER_III"} if rng.random() < 0.5 else {"format": "OGG", "subtype": "VORBIS"}
    )
    with soundfile.SoundFile(file, "w", rate, 1, compression_level=float(rng.uniform(0.3, 0.95)), **how) as sound:
        wave = levelled(wave)
        for start in range(0, len(wave), rate):
            sound.write(wave[start : start + rate])
    file.seek(0)
    out, _ = soundfile.read(file, dtype="float32")
    out = np.resize(out, len(wave)) if len(out) < len(wave) else out[: len(wave)]
    return out.astype(np.float32)


def narrowed(wave: Wave, rng: Rng, rate: int) -> Wave:
    """As old recordings are: a low sampling rate, at times 8 bits."""
    low = int(rng.choice([8000, 11025, 16000, 22050]))
    out = soxr.resample(soxr.resample(levelled(wave), rate, low), low, rate)
    if rng.random() < 0.4:
        out = np.round(out * 127) / 127
    return np.resize(out, len(wave)).astype(np.float32)


def dressed(wave: Wave, rng: Rng, rate: int, bpm: float, amount: float = 1.0) -> Wave:
    """A waveform through a random chain of effects."""
    chain: list[tuple[float, Callable[[Wave], Wave]]] = [
        (0.15, lambda w: distorted(w, rng)),
        (0.30, lambda w: filtered(w, rng, rate)),
        (0.12, lambda w: chorused(w, rng, rate)),
        (0.15, lambda w: echoed(w, rng, rate)),
        (0.40, lambda w: reverbed(w, rng, rate)),
        (0.06, lambda w: gated(w, rng, rate, bpm)),
        (0.07, lambda w: crushed(w, rng)),
        (0.20, lambda w: compressed(w, rng, rate)),
        (0.08, lambda w: worn(w, rng, rate)),
        (0.12, lambda w: narrowed(w, rng, rate)),
        (0.25, lambda w: coded(w, rng, rate)),
    ]
    for chance, effect in chain:
        if rng.random() < chance * amount:
            wave = levelled(np.nan_to_num(effect(levelled(wave))))
    return levelled(wave)
