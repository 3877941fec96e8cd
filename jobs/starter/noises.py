"""Sound effects made from nothing: risers, lasers, sirens, impacts, bubbles, wind, beeps, rattles, drones, glitches."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from jobs.starter.patterns import Rng
from jobs.starter.synth import RATE, Wave, low_passed, oscillator

Doubles = NDArray[np.float64]


def _sweep(rng: Rng, time: Doubles) -> Doubles:
    share = time / time[-1]
    way = share if rng.random() < 0.5 else 1 - share
    low, high = rng.uniform(40, 400), rng.uniform(1500, 9000)
    wave = low_passed(rng.normal(0, 1, len(time)), low * (high / low) ** way, rng.uniform(0.8, 4))
    tone = np.sin(2 * np.pi * np.cumsum(low * (high / low / 3) ** way) / RATE)
    swept: Doubles = (wave + tone * rng.choice([0, 0, rng.uniform(0, 0.8)])) * way ** rng.uniform(0.3, 1.5)
    return swept


def _laser(rng: Rng, time: Doubles) -> Doubles:
    inside = time % rng.uniform(0.12, 1.5)
    hz = rng.uniform(40, 400) + rng.uniform(1500, 9000) * np.exp(-inside * rng.uniform(4, 30))
    shape = str(rng.choice(["sine", "square", "saw"]))
    return oscillator(shape, np.cumsum(hz) / RATE) * np.exp(-inside * rng.uniform(1, 8))


def _siren(rng: Rng, time: Doubles) -> Doubles:
    turn = 2 * np.pi * rng.uniform(0.3, 9) * time
    swing = np.sin(turn) if rng.random() < 0.6 else signal.sawtooth(turn)
    hz = rng.uniform(120, 1200) * 2 ** (swing * rng.uniform(0.2, 2))
    return oscillator(str(rng.choice(["sine", "square", "triangle", "saw"])), np.cumsum(hz) / RATE)


def _impact(rng: Rng, time: Doubles) -> Doubles:
    thud = np.sin(2 * np.pi * np.cumsum(30 + 120 * np.exp(-time * 8)) / RATE) * np.exp(-time * rng.uniform(1, 5))
    wave = rng.normal(0, 1, len(time)) * np.exp(-time * rng.uniform(1.5, 12)) + 2 * thud
    return low_passed(wave, np.full(len(time), rng.uniform(1500, 9000)), 0.8)


def _bubbles(rng: Rng, time: Doubles) -> Doubles:
    wave = np.zeros(len(time))
    for _ in range(int(rng.uniform(3, 14) * time[-1])):
        length = int(rng.uniform(0.02, 0.15) * RATE)
        start = rng.integers(max(1, len(time) - length))
        hz = rng.uniform(200, 1600) * (1 + rng.uniform(-0.5, 3) * np.linspace(0, 1, length))
        chirp = np.sin(2 * np.pi * np.cumsum(hz) / RATE) * np.hanning(length) * rng.uniform(0.3, 1)
        wave[start : start + length] += chirp[: len(time) - start]
    return wave


def _wind(rng: Rng, time: Doubles) -> Doubles:
    slow = signal.sosfilt(signal.butter(2, rng.uniform(0.4, 3), fs=RATE, output="sos"), rng.normal(0, 1, len(time)))
    slow = slow / (np.abs(slow).max() + 1e-9)
    cut = rng.uniform(300, 2500) * 2 ** (2 * slow)
    wind: Doubles = low_passed(rng.normal(0, 1, len(time)), cut, rng.uniform(0.7, 6)) * (0.3 + np.abs(slow))
    return wind


def _beeps(rng: Rng, time: Doubles) -> Doubles:
    step = (time / rng.uniform(0.04, 0.25)).astype(int)
    hz = rng.uniform(300, 3000, step[-1] + 1)[step]
    on = (rng.random(step[-1] + 1) < 0.7)[step]
    beeps: Doubles = oscillator(str(rng.choice(["sine", "square"])), np.cumsum(hz) / RATE) * on
    return beeps


def _rattle(rng: Rng, time: Doubles) -> Doubles:
    hits = (rng.random(len(time)) < rng.uniform(8, 60) / RATE) * rng.uniform(0.2, 1, len(time))
    short = np.arange(4000) / RATE
    ring = np.exp(-short * rng.uniform(60, 400)) * np.sin(2 * np.pi * rng.uniform(300, 5000) * short)
    rattle: Doubles = signal.fftconvolve(hits, ring)[: len(time)] + 0.02 * rng.normal(0, 1, len(time))
    return rattle


def _drone(rng: Rng, time: Doubles) -> Doubles:
    low, wave = rng.uniform(40, 400), np.zeros(len(time))
    for ratio in rng.uniform(0.5, 7, 5):
        wave += np.sin(2 * np.pi * low * ratio * time + 3 * np.sin(2 * np.pi * rng.uniform(0.1, 7) * time))
    drone: Doubles = wave * (0.4 + 0.6 * np.abs(np.sin(2 * np.pi * rng.uniform(0.1, 2) * time)))
    return drone


def _glitch(rng: Rng, time: Doubles) -> Doubles:
    unit = int(rng.uniform(0.02, 0.12) * RATE)
    grains = [rng.normal(0, 0.6, unit) for _ in range(6)]
    for _ in range(6):
        shape = str(rng.choice(["saw", "square", "sine"]))
        grains.append(oscillator(shape, rng.uniform(60, 4000) * np.arange(unit) / RATE))
    drawn = [grains[int(rng.integers(12))] * rng.choice([0, 1, 1]) for _ in range(len(time) // unit + 1)]
    return np.concatenate(drawn)[: len(time)]


KINDS: tuple[Callable[[Rng, Doubles], Doubles], ...] = (
    _sweep, _sweep, _laser, _siren, _impact, _bubbles, _wind, _beeps, _rattle, _drone, _glitch
)  # fmt: skip


def noise(rng: Rng, seconds: float) -> Wave:
    """A sound effect of one of the kinds."""
    wave = KINDS[int(rng.integers(len(KINDS)))](rng, np.arange(int(seconds * RATE)) / RATE)
    return np.asarray(wave / (np.abs(wave).max() + 1e-9), np.float32)
