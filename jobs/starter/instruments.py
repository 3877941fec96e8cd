"""Instruments: presets of soundfonts, sampled notes, drum kits, guitar strums. Notes in, mono float32 at RATE out."""

import functools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import fluidsynth
import numpy as np
import soxr

from jobs.starter.patterns import Note, Rng
from jobs.starter.synth import RATE, Wave
from looptagger.audio.decode import decode_whole
from looptagger.config import Audio, Limits

LONGEST_S = 12.0
TAIL_S = 1.5
"""Rendered past the end, so that the last notes ring out."""
PITCHES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


@functools.lru_cache(maxsize=150)
def sound(path: str) -> Wave:
    """A file as mono float32 at RATE, without silence at its start; at most LONGEST_S."""
    if path.endswith(".g722"):
        wave = _g722(path)
    else:
        with open(path, "rb") as file:
            clip = decode_whole(file, Audio(sample_rate=RATE), Limits(), silence_db=-120)
        wave = clip.pcm[0].astype(np.float32) / 32768
    loud = np.flatnonzero(np.abs(wave) > 0.02 * np.abs(wave).max(initial=1e-9))
    start = max(0, loud[0] - 64) if len(loud) else 0
    return wave[start : start + int(LONGEST_S * RATE)].copy()


def _g722(path: str) -> Wave:
    with av.open(path, format="g722") as opened:
        pcm = np.concatenate([frame.to_ndarray().reshape(-1) for frame in opened.decode(audio=0)])
    found: Wave = soxr.resample(pcm.astype(np.float32) / 32768, 16_000, RATE)
    return found


@contextmanager
def _font(path: str) -> Iterator[tuple[fluidsynth.Synth, int]]:
    """A synth of its own for each clip: dither and filters would carry over from one to the next.

    It loads the samples of the presets that are played only, in some hundredths of a second.
    """
    synth = fluidsynth.Synth(samplerate=float(RATE), gain=0.5, **{"synth.dynamic-sample-loading": 1})
    try:
        synth.set_reverb(0, 0, 0, 0)
        synth.setting("synth.chorus.active", 0)
        yield synth, synth.sfload(path)
    finally:
        synth.delete()


def from_font(
    path: str, program: int, notes: Sequence[Note], beat_s: float, seconds: float, drums: bool = False
) -> Wave:
    """Notes played by a General MIDI program of a soundfont, or by its drums (program: the kit)."""
    with _font(path) as (synth, number):
        channel = 9 if drums else 0
        presets = ((128, program), (128, 0), (0, 0)) if drums else ((0, program), (0, 0))
        bank, preset = next(each for each in presets if synth.sfpreset_name(number, *each))
        synth.program_select(channel, number, bank, preset)
        stereo = np.concatenate(_played(synth, channel, notes, beat_s, seconds)).reshape(-1, 2)
    return np.asarray(stereo.mean(axis=1) / 32768, np.float32)


def _played(synth: fluidsynth.Synth, channel: int, notes: Sequence[Note], beat_s: float, seconds: float) -> list[Any]:
    """What a synth gives from event to event, and after the last one."""
    events = [(note.start * beat_s, 1, note) for note in notes]
    events += [((note.start + note.beats) * beat_s - 0.004, 0, note) for note in notes]
    pieces, now = [], 0
    for when, on, note in sorted(events, key=lambda event: event[:2]):
        upto = max(now, int(when * RATE))
        if upto > now:
            pieces.append(synth.get_samples(upto - now))
            now = upto
        if on:
            synth.noteon(channel, note.pitch, max(1, min(127, int(note.level * 120))))
        else:
            synth.noteoff(channel, note.pitch)
    return [*pieces, synth.get_samples(max(1, int((seconds + TAIL_S) * RATE) - now))]


def midi_of(path: str) -> int:
    """The pitch in a file's name: `As3.mp3` is A sharp 3."""
    letter, sharp, octave = re.fullmatch(r"([A-G])(s?)(\d)", Path(path).stem).groups()  # type: ignore[union-attr]
    return 12 * (int(octave) + 1) + PITCHES[letter] + len(sharp)


@functools.lru_cache(maxsize=800)
def moved(path: str, semitones: int) -> Wave:
    """A sound played faster or slower."""
    wave = sound(path)
    moved: Wave = soxr.resample(wave, RATE * 2 ** (semitones / 12), RATE, quality="MQ") if semitones else wave
    return moved


def from_samples(paths: Sequence[str], notes: Sequence[Note], beat_s: float, seconds: float) -> Wave:
    """Notes played by the nearest of some sampled notes."""
    pitches = np.array([midi_of(path) for path in paths])
    out = np.zeros(int((seconds + TAIL_S) * RATE), np.float32)
    for note in notes:
        nearest = int(np.argmin(np.abs(pitches - note.pitch)))
        wave = moved(paths[nearest], int(np.clip(note.pitch - pitches[nearest], -12, 12)))
        held = max(int(note.beats * beat_s * RATE), 400)
        wave = wave[: held + int(0.12 * RATE)].copy()
        fade = max(0, len(wave) - held)
        if fade:
            wave[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
        _add(out, wave * note.level, note.start * beat_s)
    return out


def struck(hits: dict[str, list[Note]], kit: dict[str, str], beat_s: float, seconds: float) -> Wave:
    """A groove on a kit of one-shots: a file for each voice."""
    out = np.zeros(int((seconds + TAIL_S) * RATE), np.float32)
    for voice, notes in hits.items():
        wave = sound(kit[voice])
        wave = wave / (np.abs(wave).max() + 1e-6)
        for note in notes:
            _add(out, wave * note.level, note.start * beat_s)
    return out


def _add(out: Wave, wave: Wave, when_s: float) -> None:
    start = int(when_s * RATE)
    some = wave[: max(0, len(out) - start)]
    out[start : start + len(some)] += some


def sequence(waves: Sequence[Wave], onsets_s: Sequence[float], seconds: float) -> Wave:
    """Sounds one after another, each from its onset."""
    out = np.zeros(int((seconds + TAIL_S) * RATE), np.float32)
    for wave, when in zip(waves, onsets_s, strict=True):
        _add(out, wave, when)
    return out


VOICES = {
    "kick": r"kick|bass ?drum|(^|[^a-z])bd|bombo",
    "snare": r"snare|(^|[^a-z])s[nd]([^a-z]|$)|clap|rim|sidestick",
    "hat": r"hat|(^|[^a-z])hh|shaker|maraca|cabasa",
}


def voice_of(path: str) -> str:
    """Which voice of a kit a one-shot is, from its file name."""
    name = Path(path).stem.lower()
    return next((voice for voice, pattern in VOICES.items() if re.search(pattern, name)), "extra")


def kit_of(paths: Sequence[str], rng: Rng) -> dict[str, str]:
    """A kit drawn from one-shots: kick, snare, hat and two more voices."""
    shelves: dict[str, list[str]] = {}
    for path in paths:
        shelves.setdefault(voice_of(path), []).append(path)
    draw = {"kick": "kick", "snare": "snare", "hat": "hat", "extra": "extra", "extra2": "extra"}
    return {voice: str(rng.choice(shelves.get(kind) or list(paths))) for voice, kind in draw.items()}
