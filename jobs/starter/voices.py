"""Voices: speech cut, repeated, sung on notes (through the WORLD vocoder), spoken in robots' and beatboxers' ways."""

import functools
import io
import subprocess
from collections.abc import Sequence

import numpy as np
import pyworld
import soundfile
from numpy.typing import NDArray
from scipy import signal

from jobs.starter.instruments import sequence, sound
from jobs.starter.patterns import Note, Rng
from jobs.starter.synth import RATE, Wave

WORLD_RATE = 16_000
FRAME_S = 0.005
Doubles = NDArray[np.float64]


@functools.lru_cache(maxsize=64)
def _analysed(path: str) -> tuple[Doubles, Doubles, Doubles]:
    """Pitch (0 where there is none), spectrum and breath of up to 3 s of speech, a frame every 5 ms."""
    wave = signal.resample_poly(sound(path)[: 3 * RATE].astype(np.float64), WORLD_RATE, RATE)
    f0, time = pyworld.dio(wave, WORLD_RATE, frame_period=FRAME_S * 1000)
    f0 = pyworld.stonemask(wave, f0, time, WORLD_RATE)
    spectrum = pyworld.cheaptrick(wave, f0, time, WORLD_RATE, f0_floor=71.0)
    return f0, spectrum, pyworld.d4c(wave, f0, time, WORLD_RATE)


def _made(f0: Doubles, spectrum: Doubles, breath: Doubles) -> Wave:
    wave = pyworld.synthesize(
        np.ascontiguousarray(f0),
        np.ascontiguousarray(spectrum),
        np.ascontiguousarray(breath),
        WORLD_RATE,
        FRAME_S * 1000,
    )
    return np.asarray(signal.resample_poly(wave, RATE, WORLD_RATE), np.float32)


def altered(path: str, rng: Rng) -> Wave:
    """Speech by another throat: higher or lower, with shorter or longer formants, livelier or flatter."""
    f0, spectrum, breath = _analysed(path)
    voiced = np.flatnonzero(f0)
    middle = np.median(f0[voiced]) if len(voiced) else 1.0
    lift, life = 2 ** rng.uniform(-0.6, 1.0), rng.uniform(0.3, 1.8)
    bent = np.where(f0 > 0, lift * middle * (np.maximum(f0, 1) / middle) ** life, 0.0)
    return _made(np.clip(bent, 0, 900), _warped(spectrum, rng.uniform(0.85, 1.25)), breath)


def _warped(spectrum: Doubles, ratio: float) -> Doubles:
    """The same spectra with all formants moved by a ratio."""
    bins = np.arange(spectrum.shape[1])
    at = np.minimum(bins / ratio, bins[-1])
    low = at.astype(int)
    share = at - low
    high = np.minimum(low + 1, bins[-1])
    return np.ascontiguousarray(spectrum[:, low] ** (1 - share) * spectrum[:, high] ** share)


def _held(run: NDArray[np.int64], count: int, spectrum: Doubles, rng: Rng) -> Doubles:
    """Frames of a vowel held: quickly into the loudest moment of a voiced run, and to and fro about it."""
    best = int(run[np.argmax(spectrum[run].sum(axis=1))])
    into = min(count, best - int(run[0]) + 1)
    wander = np.convolve(rng.normal(0, 1, count), np.hanning(61), "same")[: count - into] * 0.6
    return np.concatenate([np.linspace(run[0], best, into), np.clip(best + wander, run[0], run[-1])])


def sung(
    path: str, notes: Sequence[Note], beat_s: float, seconds: float, rng: Rng, vowels: bool = False
) -> Wave | None:
    """A phrase sung: syllables of a speaker on notes, the pitch gliding from one to the next, with vibrato.

    Syllables are stretched, or with `vowels` held at their loudest, as trained singers do. None where the speech has
    too little voice.
    """
    f0, spectrum, breath = _analysed(path)
    voiced = np.flatnonzero(f0)
    runs = [run for run in np.split(voiced, np.flatnonzero(np.diff(voiced) > 1) + 1) if len(run) >= 10]
    if len(voiced) < 30 or not runs:
        return None
    own = 69 + 12 * np.log2(np.median(f0[voiced]) / 440) + rng.choice([0, 4, 7, 12, 16] if vowels else [0, 4, 7])
    lift = 12 * round((own - float(np.median([note.pitch for note in notes]))) / 12)
    count = int(seconds / FRAME_S)
    at, pitch, level = np.zeros(count, int), np.full(count, np.nan), np.zeros(count)
    for i, note in enumerate(notes):
        run = runs[i % len(runs)]
        first = int(note.start * beat_s / FRAME_S)
        last = min(count, first + max(16, int(note.beats * beat_s / FRAME_S)))
        lead = min(10, int(run[0]), first)
        long = max(0, last - first)
        body = _held(run, long, spectrum, rng) if vowels else np.linspace(run[0], run[-1], long)
        frames = np.concatenate([np.arange(run[0] - lead, run[0]), body])
        at[first - lead : last] = frames[: last - first + lead]
        pitch[first:last], level[first - lead : last] = note.pitch + lift, note.level
    known = np.flatnonzero(~np.isnan(pitch))
    steps = np.interp(np.arange(count), known, pitch[known])
    glide = np.hanning(int(rng.uniform(0.04, 0.4 if vowels else 0.16) / FRAME_S) | 1)
    time = np.arange(count) * FRAME_S
    drift = np.convolve(rng.normal(0, 1, count), np.hanning(81), "same") * rng.uniform(0, 0.05)
    bend = rng.uniform(0, 1.0 if vowels else 0.5) * np.sin(2 * np.pi * rng.uniform(4.5, 6.5) * time) + drift
    tone = 440 * 2 ** ((np.convolve(steps, glide / glide.sum(), "same") + bend - 69) / 12)
    soft = np.convolve(level, np.hanning(9) / np.hanning(9).sum(), "same")
    warped = _warped(spectrum, rng.uniform(0.9, 1.15))[at] * (soft[:, None] ** 2 + 1e-9)
    return _made(np.where((f0[at] > 0) & (level > 0), tone, 0.0), warped, breath[at])


def choral(
    path: str,
    notes: Sequence[Note],
    beat_s: float,
    seconds: float,
    rng: Rng,
    steps: Sequence[int],
    vowels: bool = False,
) -> Wave | None:
    """The same phrase sung several times, each so many semitones away and a little later: doubled, or in parts."""
    takes = []
    for step in steps:
        late = rng.uniform(0, 0.06)
        moved = [note._replace(pitch=note.pitch + step, start=note.start + late) for note in notes]
        takes.append(sung(path, moved, beat_s, seconds, rng, vowels))
    heard = [take for take in takes if take is not None]
    if not heard:
        return None
    count = min(len(take) for take in heard)
    return np.asarray(np.sum([take[:count] for take in heard], axis=0), np.float32)


def beatboxed(path: str, groove: dict[str, list[Note]], beat_s: float, seconds: float, rng: Rng) -> Wave | None:
    """A groove made with a mouth: breath of a speaker as hats and snares, his voice falling as the kick."""
    f0, spectrum, breath = _analysed(path)
    power = spectrum.sum(axis=1)
    voiced, unvoiced = np.flatnonzero(f0), np.flatnonzero((f0 == 0) & (power > 0.02 * power.max()))
    if len(voiced) < 20 or len(unvoiced) < 12:
        return None

    def hit(frames: int, at: int, tone: float) -> Wave:
        rows = np.clip(np.arange(at, at + frames), 0, len(f0) - 1)
        fall = np.exp(-np.arange(frames) / frames * 4)
        pitch = tone * (0.4 + 0.6 * np.exp(-np.arange(frames) / 6)) if tone else np.zeros(frames)
        noise = np.ones_like(breath[rows]) if not tone else breath[rows]
        wave = _made(pitch, spectrum[rows] * fall[:, None] ** 2, noise)
        return np.asarray(wave / (np.abs(wave).max() + 1e-6), np.float32)

    highs = unvoiced[np.argsort(spectrum[unvoiced, 200:].sum(axis=1) / power[unvoiced])]
    made = {
        "kick": hit(int(rng.integers(20, 40)), int(voiced[0]), float(rng.uniform(120, 220))),
        "snare": hit(int(rng.integers(20, 40)), int(rng.choice(unvoiced)), 0.0),
        "hat": hit(int(rng.integers(8, 20)), int(highs[-1]), 0.0),
        "extra": hit(int(rng.integers(15, 60)), int(rng.choice(voiced)), float(rng.uniform(90, 300))),
    }
    waves, onsets = [], []
    for voice, notes in groove.items():
        for note in notes:
            waves.append(made.get(voice, made["extra"]) * note.level)
            onsets.append(note.start * beat_s)
    return sequence(waves, onsets, seconds)


def chopped(waves: Sequence[Wave], onsets: Sequence[float], beat_s: float, seconds: float, rng: Rng) -> Wave:
    """Slices of speech on the beat, some again and again, some higher or lower."""
    pieces = []
    for _ in onsets:
        wave = waves[int(rng.integers(len(waves)))]
        start = int(rng.integers(max(1, len(wave) // 2))) if rng.random() < 0.4 else 0
        piece = wave[start : start + int(rng.uniform(0.1, 0.8) * RATE)].copy()
        if rng.random() < 0.3:
            piece = np.interp(np.arange(0, len(piece) - 1, rng.uniform(0.7, 1.5)), np.arange(len(piece)), piece)
        fade = min(len(piece), 400)
        piece[len(piece) - fade :] *= np.linspace(1, 0, fade)
        pieces.append(piece.astype(np.float32))
    return sequence(pieces, [onset * beat_s for onset in onsets], seconds)


def robotic(wave: Wave, rng: Rng) -> Wave:
    """Speech times a tone: a ring modulator."""
    tone = np.sin(2 * np.pi * rng.uniform(30, 300) * np.arange(len(wave)) / RATE)
    return (wave * (tone if rng.random() < 0.5 else 0.5 + 0.5 * tone)).astype(np.float32)


WORDS = (
    "yeah come on everybody feel the music love baby tonight dance with me higher never let go one two three four hey",
    "you break it down listen to the rhythm of my heart all night long oh la la do you want to fly away in the rain",
)


def spoken(rng: Rng) -> Wave:
    """A few words by espeak-ng, in a random voice, speed and pitch."""
    words = " ".join(WORDS).split()
    start = int(rng.integers(len(words) - 8))
    text = " ".join(words[start : start + int(rng.integers(2, 8))])
    accent = str(rng.choice(["en", "en-us", "en-gb-scotland", "fr", "de", "es", "it", "sv", "ru", "pl"]))
    kind = str(rng.choice(["m1", "m2", "m3", "m5", "f1", "f2", "f3", "f5", "croak", "whisper"]))
    settings = ["-p", str(rng.integers(10, 95)), "-s", str(rng.integers(90, 220)), "-v", f"{accent}+{kind}"]
    done = subprocess.run(["espeak-ng", "--stdout", *settings, text], check=True, capture_output=True)
    wave, rate = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    return np.asarray(signal.resample_poly(wave, RATE // 50, rate // 50), np.float32)
