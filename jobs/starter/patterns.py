"""Musical patterns as notes: bass lines, chord progressions, melodies, arpeggios, drum grooves. Pure and seeded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Rng = np.random.Generator


class Note(NamedTuple):
    """A note: when it begins and how long it lasts, in beats; its MIDI pitch; its level from 0 to 1."""

    start: float
    beats: float
    pitch: int
    level: float


@dataclass(frozen=True)
class Song:
    """What the stems of one loop share: tempo, length, tonality, chords."""

    bpm: float
    bars: int
    root: int
    """Pitch class of the key, 0 to 11."""
    scale: tuple[int, ...]
    degrees: tuple[int, ...]
    """A chord a bar, as degrees of the scale."""
    swing: float
    """Share of a sixteenth by which every second one comes late."""

    @property
    def beats(self) -> int:
        """Its length in beats of a 4/4 bar."""
        return 4 * self.bars

    @property
    def seconds(self) -> float:
        """Its length in seconds."""
        return self.beats * 60 / self.bpm

    @property
    def beat_s(self) -> float:
        """Seconds a beat."""
        return 60 / self.bpm

    def pitch(self, degree: int, octave: int) -> int:
        """The MIDI pitch of a scale degree; degrees past the scale go on into the next octaves."""
        step, within = divmod(degree, len(self.scale))
        return 12 * (octave + 1 + step) + self.root + self.scale[within]

    def degree_at(self, beat: float) -> int:
        """The chord's degree at a beat."""
        return self.degrees[int(beat // 4) % len(self.degrees)]


SCALES = (
    (0, 2, 4, 5, 7, 9, 11),
    (0, 2, 3, 5, 7, 8, 10),
    (0, 2, 3, 5, 7, 8, 10),
    (0, 2, 3, 5, 7, 9, 10),
    (0, 2, 4, 5, 7, 9, 10),
    (0, 1, 3, 5, 7, 8, 10),
    (0, 2, 3, 5, 7, 8, 11),
)
PROGRESSIONS = (
    (0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 4, 3), (0, 6, 5, 6), (1, 4, 0, 0), (0, 0, 3, 3), (0, 5, 1, 4),
    (0,), (0, 6), (0, 3), (0, 2, 3, 4), (5, 4, 3, 4), (0, 0, 5, 6),
)  # fmt: skip
TEMPI = ((70, 95), (85, 110), (110, 128), (118, 132), (126, 145), (140, 175), (60, 80))


def song(rng: Rng, longest_s: float = 9.0) -> Song:
    """A song of 1, 2 or 4 bars, at most so many seconds long."""
    bpm = float(np.round(rng.uniform(*TEMPI[rng.integers(len(TEMPI))]), 1))
    bars = int(rng.choice([b for b in (1, 2, 2, 4) if b * 240 / bpm <= longest_s] or [1]))
    scale, chords = SCALES[rng.integers(len(SCALES))], PROGRESSIONS[rng.integers(len(PROGRESSIONS))]
    swing = float(rng.choice([0, 0, 0, rng.uniform(0.1, 0.35)]))
    return Song(bpm, bars, int(rng.integers(12)), scale, tuple(chords), swing)


def rhythm(rng: Rng, density: float, grid: int = 4) -> list[float]:
    """Onsets in one bar, in beats, on a grid of so many a beat: syncopated, the first beat likely."""
    weight = {0: 1.6, 2: 0.9, 1: 0.55, 3: 0.55}
    onsets = []
    for i in range(4 * grid):
        chance = density * weight[i % 4] * (1.3 if i == 0 else 1.0)
        if rng.random() < min(chance, 0.97):
            onsets.append(i / grid)
    return onsets or [0.0]


def _varied(rng: Rng, song: Song, one: Sequence[float]) -> list[float]:
    """A bar's onsets over the whole song; now and then a bar differs."""
    beats: list[float] = []
    for bar in range(song.bars):
        kept = [b for b in one if bar == 0 or rng.random() > 0.08]
        beats += [4 * bar + b for b in kept]
    return beats


def _lengths(onsets: Sequence[float], end: float, share: float) -> list[float]:
    later = [*onsets[1:], end]
    return [max(0.08, (b - a) * share) for a, b in zip(onsets, later, strict=True)]


def _late(song: Song, beat: float) -> float:
    return beat + (song.swing * 0.25 if round(beat * 4) % 2 else 0.0)


def bass(rng: Rng, song: Song) -> list[Note]:
    """A bass line: one note at a time, low, mostly roots, fifths and octaves."""
    kind = rng.choice(["pulse", "sparse", "walk", "riff", "long", "sub"])
    if kind == "pulse":
        one = [i / 2 for i in range(8)] if rng.random() < 0.6 else [i / 2 + 0.5 for i in range(0, 8, 2)]
    elif kind == "walk":
        one = [0.0, 1.0, 2.0, 3.0]
    elif kind in ("long", "sub"):
        one = [0.0] if rng.random() < 0.6 else [0.0, 2.5]
    else:
        one = rhythm(rng, 0.3 if kind == "sparse" else 0.55)
    onsets = _varied(rng, song, one)
    steps = {b: int(rng.choice([0, 0, 0, 0, 4, 2, 7, 6, 1])) for b in one}
    octave = int(rng.choice([0, 1, 1, 1, 2])) if kind != "sub" else 1
    lengths = _lengths(onsets, song.beats, float(rng.uniform(0.4, 1.0)))
    notes = []
    for beat, length in zip(onsets, lengths, strict=True):
        step = steps.get(beat % 4, 0) if kind != "walk" else int(rng.integers(0, 7))
        pitch = song.pitch(song.degree_at(beat) + step, octave)
        while pitch > 55:
            pitch -= 12
        while pitch < 26:
            pitch += 12
        notes.append(Note(_late(song, beat), length, pitch, float(rng.uniform(0.75, 1.0))))
    return notes


def chords(rng: Rng, song: Song) -> list[Note]:
    """Chords of three to five voices: pads, stabs, strums, comping."""
    kind = rng.choice(["pad", "stab", "strum", "comp", "half"])
    voicing = [0, 2, 4] + [int(v) for v in rng.choice([6, 7, 8, 9], rng.integers(0, 3), replace=False)]
    if rng.random() < 0.12:  # a rock guitar's power chords: no third
        voicing = [0, 4, 7]
    lift = rng.integers(0, 3)  # inversion
    steps = sorted(v + 7 if i < lift else v for i, v in enumerate(voicing))
    right = 1.0
    if rng.random() < 0.4:  # the root below, as pianists and guitarists play it; in octaves, too, and the loudest
        steps = [-14, -7, *steps] if rng.random() < 0.4 else [-7, *steps]
        right = float(rng.uniform(0.3, 1.0))
    one = {"pad": [0.0], "half": [0.0, 2.0]}.get(str(kind)) or rhythm(rng, 0.3 if kind == "stab" else 0.45)
    onsets = [0.0] if rng.random() < 0.12 else _varied(rng, song, one)  # one chord that rings
    share = {"pad": 1.0, "half": 0.97, "stab": rng.uniform(0.15, 0.5)}.get(str(kind), rng.uniform(0.5, 1.0))
    octave = int(rng.choice([2, 3, 3, 4, 4]))
    notes = []
    for beat, length in zip(onsets, _lengths(onsets, song.beats, float(share)), strict=True):
        spread = rng.uniform(0.01, 0.06) if kind == "strum" else 0.0
        down = rng.random() < 0.6
        level = float(rng.uniform(0.6, 1.0))
        for i, step in enumerate(steps if down else steps[::-1]):
            pitch = max(song.pitch(song.degree_at(beat) + step, octave), 24 + song.root)
            notes.append(Note(_late(song, beat) + i * spread, length, pitch, level * (right if step >= 0 else 1.0)))
    return notes


def held(rng: Rng, song: Song) -> list[Note]:
    """A few long notes."""
    every = float(rng.choice([2, 4, 4, 8, 16]))
    onsets = [beat for beat in np.arange(0, song.beats, every) if beat == 0 or rng.random() < 0.85]
    lengths = _lengths(onsets, song.beats, float(rng.uniform(0.6, 1.0)))
    degrees = [int(rng.choice([0, 2, 4, 7])) + song.degree_at(beat) for beat in onsets]
    pitches = [song.pitch(degree, int(rng.choice([4, 5]))) for degree in degrees]
    return [Note(float(b), n, p, float(rng.uniform(0.7, 1))) for b, n, p in zip(onsets, lengths, pitches, strict=True)]


def melody(rng: Rng, song: Song) -> list[Note]:
    """One voice that moves mostly by steps, with leaps, rests, repeated motifs."""
    one = rhythm(rng, float(rng.uniform(0.25, 0.6)), int(rng.choice([2, 4, 4])))
    onsets = _varied(rng, song, one)
    degree, motif = int(rng.choice([0, 2, 4, 7])), dict[float, int]()
    octave = int(rng.choice([4, 4, 5, 5, 6]))
    share = float(rng.uniform(0.5, 1.0))
    notes = []
    for beat, length in zip(onsets, _lengths(onsets, song.beats, share), strict=True):
        place = beat % 4
        if place in motif and rng.random() < 0.65:
            degree = motif[place]
        else:
            degree += int(rng.choice([-3, -2, -1, -1, 0, 1, 1, 2, 3, 4]))
            degree = min(max(degree, -2), 11)
            motif[place] = degree
        notes.append(Note(_late(song, beat), length, song.pitch(degree, octave), float(rng.uniform(0.6, 1.0))))
    return notes


def arpeggio(rng: Rng, song: Song) -> list[Note]:
    """Broken chords, up, down, both or at random, in eighths or sixteenths."""
    steps = [0, 2, 4, 7] + ([9, 11] if rng.random() < 0.4 else [])
    order = rng.choice(["up", "down", "both", "random"])
    steps = {"up": steps, "down": steps[::-1], "both": steps + steps[-2:0:-1], "random": steps}[str(order)]
    unit = float(rng.choice([0.5, 0.25, 0.25, 1 / 3]))
    octave, share = int(rng.choice([3, 4, 4, 5])), float(rng.uniform(0.4, 1.1))
    notes = []
    for i in range(int(song.beats / unit)):
        step = steps[i % len(steps)] if order != "random" else int(rng.choice(steps))
        beat = i * unit
        if rng.random() < 0.04:
            continue
        notes.append(
            Note(beat, unit * share, song.pitch(song.degree_at(beat) + step, octave), float(rng.uniform(0.6, 1)))
        )
    return notes


KICKS = (
    "x...x...x...x...",
    "x.....x.x.......",
    "x..x..x...x.....",
    "x.........x.....",
    "x.x.......x..x..",
    "x...x..x..x.x...",
)
SNARES = ("....x.......x...", "....x.......x..x", "........x.......", "....x..x.x..x...", "....x.......x.x.")
HATS = ("x.x.x.x.x.x.x.x.", "..x...x...x...x.", "xxxxxxxxxxxxxxxx", "x.xxx.xxx.xxx.xx", "x...x...x...x...")
EXTRAS = ("...x..x....x..x.", "x..x..x..x..x.x.", "..x.x...x.x.x...", "......x.......x.", "x.......x.x.....")


def groove(rng: Rng, song: Song) -> dict[str, list[Note]]:
    """A drum groove: onsets of kick, snare, hat and further voices, with fills. Pitches are 0."""
    chosen = {"kick": KICKS, "snare": SNARES, "hat": HATS, "extra": EXTRAS, "extra2": EXTRAS}
    kind = rng.choice(["full", "full", "full", "no kick", "hats", "perc", "kick"])
    voices = {
        "full": ["kick", "snare", "hat"] + ["extra"] * (rng.random() < 0.5),
        "no kick": ["snare", "hat", "extra"],
        "hats": ["hat", "extra"],
        "perc": ["extra", "extra2"],
        "kick": ["kick"] + ["hat"] * (rng.random() < 0.5),
    }[str(kind)]
    found: dict[str, list[Note]] = {}
    for voice in voices:
        line = str(rng.choice(chosen[voice]))
        if rng.random() < 0.3:  # turn a few sixteenths round
            flips = rng.integers(0, 16, 2)
            line = "".join("x" if i in flips and c == "." else c for i, c in enumerate(line))
        found[voice] = []
        for bar in range(song.bars):
            fill = bar == song.bars - 1 and voice in ("snare", "extra") and rng.random() < 0.25
            for i, hit in enumerate(line):
                if hit == "x" or (fill and i >= 12 and rng.random() < 0.8):
                    level = rng.uniform(0.8, 1) if i % 4 == 0 else rng.uniform(0.4, 0.9)
                    beat = _late(song, 4 * bar + i / 4)
                    found[voice].append(Note(beat, 0.25, 0, float(level)))
    return found
