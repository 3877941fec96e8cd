"""A subtractive and FM synthesizer, and a vocoder. numpy and SciPy only.

Everything is mono float32 at RATE, and every choice is drawn from a seeded generator.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from jobs.starter.patterns import Note, Rng

Wave = NDArray[np.float32]

RATE = 32_000


@dataclass(frozen=True)
class Patch:
    """A sound of the synthesizer."""

    shape: str
    voices: int
    detune: float
    sub: float
    noise: float
    fm_ratio: float
    fm_index: float
    attack: float
    decay: float
    sustain: float
    release: float
    cut: float
    """Of the low-pass, as a multiple of the note's frequency, before the envelope opens it."""
    sweep: float
    resonance: float
    vibrato: float
    glide: float


def patch(rng: Rng, role: str) -> Patch:
    """A random sound that suits a role."""
    pluck = rng.random() < {"bass": 0.5, "chord": 0.4, "melody": 0.5}.get(role, 0.5)
    shape = str(rng.choice(["saw", "square", "triangle", "sine", "fm", "saw", "pulse"]))
    return Patch(
        shape=shape,
        voices=int(rng.choice([1, 1, 2, 3, 5])) if role != "bass" else int(rng.choice([1, 1, 1, 2, 3])),
        detune=float(rng.uniform(0.001, 0.012)),
        sub=float(rng.uniform(0, 0.7)) if role == "bass" else 0.0,
        noise=float(rng.choice([0, 0, 0, rng.uniform(0, 0.06)])),
        fm_ratio=float(rng.choice([0.5, 1, 1, 2, 3, 3.5, 7])),
        fm_index=float(rng.uniform(0.5, 6)),
        attack=float(
            rng.uniform(0.001, 0.02) if pluck or role == "bass" else rng.choice([0.01, rng.uniform(0.02, 0.5)])
        ),
        decay=float(rng.uniform(0.05, 0.5)),
        sustain=float(0.0 if pluck and rng.random() < 0.5 else rng.uniform(0.3, 1.0)),
        release=float(rng.uniform(0.02, 0.4)),
        cut=float(rng.choice([rng.uniform(1, 6), rng.uniform(4, 30)])),
        sweep=float(rng.choice([0, rng.uniform(0, 5)])),
        resonance=float(rng.choice([0.7, rng.uniform(0.7, 6)])),
        vibrato=float(rng.choice([0, 0, rng.uniform(0, 0.012)])) if role == "melody" else 0.0,
        glide=float(rng.choice([0, 0, 0, rng.uniform(0.02, 0.1)])),
    )


def oscillator(
    shape: str, phase: NDArray[np.float64], index: float | NDArray[np.float64] = 0.0, ratio: float = 1.0
) -> NDArray[np.float64]:
    """A periodic wave at a phase in turns; `fm` has its index and ratio."""
    turn = phase % 1.0
    if shape == "saw":
        return 2 * turn - 1
    if shape == "square":
        return np.where(turn < 0.5, 1.0, -1.0)
    if shape == "pulse":
        return np.where(turn < 0.2, 1.0, -1.0) + 0.6
    if shape == "triangle":
        return 4 * np.abs(turn - 0.5) - 1
    if shape == "fm":
        return np.sin(2 * np.pi * phase + index * np.sin(2 * np.pi * ratio * phase))
    return np.sin(2 * np.pi * phase)


def envelope(count: int, held: int, p: Patch) -> NDArray[np.float64]:
    """Attack, decay, sustain while held, release."""
    time = np.arange(count) / RATE
    rise = np.minimum(1.0, time / p.attack)
    fall = p.sustain + (1 - p.sustain) * np.exp(-np.maximum(time - p.attack, 0) / p.decay)
    after = np.exp(-np.maximum(time - held / RATE, 0) / p.release * 3)
    return rise * fall * after


def note(pitch: float, seconds: float, level: float, p: Patch, rng: Rng, before: float | None = None) -> Wave:
    """One note of a patch; with `before`, it glides from that pitch."""
    held, count = int(seconds * RATE), int((seconds + p.release) * RATE)
    time = np.arange(count) / RATE
    midi = np.full(count, pitch, float)
    if before is not None and p.glide:
        midi += (before - pitch) * np.exp(-time / p.glide)
    hz = 440 * 2 ** ((midi - 69) / 12) * (1 + p.vibrato * np.sin(2 * np.pi * 5.5 * time))
    phase = np.cumsum(hz) / RATE
    wave = np.zeros(count)
    for voice in range(p.voices):
        off = 1 + p.detune * (voice - (p.voices - 1) / 2)
        index = p.fm_index * np.exp(-time / max(p.decay, 0.05)) if p.shape == "fm" else 0.0
        wave += oscillator(p.shape, phase * off + rng.random(), index, p.fm_ratio)
    wave = wave / p.voices + p.sub * np.sin(np.pi * phase) + p.noise * rng.normal(0, 1, count)
    shaped = envelope(count, held, p)
    opened = hz * p.cut * (1 + p.sweep * shaped)
    wave = low_passed(wave, opened, p.resonance)
    return (level * wave * shaped).astype(np.float32)


def low_passed(wave: NDArray[np.float64], cut: NDArray[np.float64], resonance: float) -> NDArray[np.float64]:
    """A resonant low-pass whose cut-off in Hz may change, block by block."""
    out, state = np.empty_like(wave), np.zeros(2)
    for start in range(0, len(wave), 1024):
        stop = start + 1024
        w = 2 * np.pi * min(cut[start], 0.45 * RATE) / RATE
        alpha, cos = np.sin(w) / (2 * resonance), np.cos(w)
        b = np.array([(1 - cos) / 2, 1 - cos, (1 - cos) / 2]) / (1 + alpha)
        a = np.array([1, -2 * cos / (1 + alpha), (1 - alpha) / (1 + alpha)])
        out[start:stop], state = signal.lfilter(b, a, wave[start:stop], zi=state)
    return out


def played(notes: Iterable[Note], beat_s: float, seconds: float, sound: Callable[[Note, float | None], Wave]) -> Wave:
    """Notes as one waveform of so many seconds; what rings on at the end comes in again at the start, as in a loop."""
    count = int(seconds * RATE)
    out = np.zeros(count, np.float32)
    before = None
    for each in notes:
        wave = sound(each, before)
        before = each.pitch
        start = int(each.start * beat_s * RATE) % count
        while len(wave):
            some = wave[: count - start]
            out[start : start + len(some)] += some
            wave, start = wave[len(some) :], 0
    return out


def vocoded(speech: Wave, carrier: Wave, bands: int = 20) -> Wave:
    """A carrier that speaks: its bands get the levels of the speech's."""
    count = min(len(speech), len(carrier))
    out = np.zeros(count)
    edges = np.geomspace(90, 9000, bands + 1)
    smooth = signal.butter(2, 40, fs=RATE, output="sos")
    for low, high in pairwise(edges):
        sos = signal.butter(2, [low, high], "bandpass", fs=RATE, output="sos")
        level = signal.sosfilt(smooth, np.abs(signal.sosfilt(sos, speech[:count])))
        out += signal.sosfilt(sos, carrier[:count]) * np.maximum(level, 0)
    return np.asarray(out / (np.abs(out).max() + 1e-9), np.float32)
