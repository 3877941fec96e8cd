"""Drum voices of a synthesizer. Each is drawn once and then gives one hit after another."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from jobs.starter.patterns import Note, Rng
from jobs.starter.synth import RATE, Wave

DRUMS = {
    "kick": ("kick",),
    "snare": ("snare", "snare", "clap"),
    "hat": ("hat", "hat", "shaker"),
    "extra": ("tom", "bell", "shaker", "open", "clap"),
    "extra2": ("tom", "bell", "shaker", "open"),
}
"""The sounds that may play a groove's voice."""
SECONDS = {"kick": 0.7, "open": 0.5, "hat": 0.15}
Doubles = NDArray[np.float64]


def drum(kind: str, rng: Rng) -> Callable[[Note, float | None], Wave]:
    """A drum: a function that gives one hit of a note's level."""
    pitch, decay = rng.uniform(45, 65), rng.uniform(0.1, 0.5)
    tone, bright = rng.uniform(150, 240), rng.uniform(1500, 8000)
    time = np.arange(int(SECONDS.get(kind, 0.3) * RATE)) / RATE

    def hit(note: Note, before: float | None) -> Wave:
        noise = rng.normal(0, 1, len(time))
        wave = {
            "kick": lambda: _kick(time, noise, pitch, decay),
            "snare": lambda: 0.5 * _tone(tone, time, 25) + 0.6 * noise * np.exp(-time * 16),
            "hat": lambda: _band(noise, 6500, 15_000) * np.exp(-time * 50),
            "open": lambda: _band(noise, 6500, 15_000) * np.exp(-time * 9),
            "clap": lambda: _band(noise, 900, 3000) * _bursts(time),
            "tom": lambda: _tone(tone * 0.7 * (1 + 0.6 * np.exp(-time * 30)), time, 9),
            "bell": lambda: _tone(540, time, 14) + _tone(800, time, 14),
            "shaker": lambda: (
                _band(noise, bright, min(bright * 1.6, 15_000)) * np.minimum(time * 60, 1) * np.exp(-time * 22)
            ),
        }[kind]()
        return np.asarray(note.level * wave / (np.abs(wave).max() + 1e-9), np.float32)

    return hit


def _kick(time: Doubles, noise: Doubles, pitch: float, decay: float) -> Doubles:
    body = np.sin(2 * np.pi * np.cumsum(pitch + 180 * np.exp(-time * 45)) / RATE) * np.exp(-time / decay * 3)
    kick: Doubles = body + 0.1 * noise * np.exp(-time * 400)
    return kick


def _tone(hz: float | Doubles, time: Doubles, fall: float) -> Doubles:
    tone: Doubles = np.sin(2 * np.pi * np.cumsum(np.broadcast_to(hz, time.shape)) / RATE) * np.exp(-time * fall)
    return tone


def _band(noise: Doubles, low: float, high: float) -> Doubles:
    band: Doubles = signal.sosfilt(signal.butter(2, [low, high], "bandpass", fs=RATE, output="sos"), noise)
    return band


def _bursts(time: Doubles) -> Doubles:
    found = np.zeros(len(time))
    for delay in (0, 0.011, 0.023):
        found += np.exp(-np.maximum(time - delay, 0) * 90) * (time >= delay)
    return found
