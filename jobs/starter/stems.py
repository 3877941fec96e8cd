"""One role at a time: each maker draws an instrument from the stock and has it play a pattern of a song."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobs.starter import patterns, synth, voices
from jobs.starter.drums import DRUMS, drum
from jobs.starter.effects import levelled
from jobs.starter.instruments import from_font, from_samples, kit_of, moved, sequence, sound, struck
from jobs.starter.noises import noise
from jobs.starter.patterns import Note, Rng, Song
from jobs.starter.stock import Stock, pick
from jobs.starter.synth import Wave

BASSES = (*range(32, 40), 32, 33, 34, 38, 39, 38, 39, 43, 58, 87)
CHORDS = (
    *range(0, 8), *range(16, 32), 0, 4, 5, 24, 25, 46, 48, 49, 50, 51, 61, 62, 63, 88, 89, 90, *range(92, 97), 99,
)  # fmt: skip
MELODIES = (
    *range(0, 16), 11, 12, 13, 22, *range(24, 31), 40, 41, 42, 45, 46, *range(56, 61), *range(64, 85), 86,
    *range(104, 112), 114,
)  # fmt: skip
CHOIRS = (52, 53, 54, 85, 91)
NOISES = range(119, 128)
SINGERS = ((0,), (0,), (0,), (0, 0), (0, 12), (0, 4, 7), (0, -5))
"""How many sing a phrase, and how far from each other in semitones."""
KITS = (0, 0, 8, 16, 24, 25, 26, 32, 40, 48)
KEYS = {
    "kick": (35, 36),
    "snare": (38, 40, 37, 39),
    "hat": (42, 44, 42, 70, 69),
    "extra": (41, 43, 45, 47, 50, 51, 46, 54, 56, 60, 62, 64, 65, 67, 76, 75),
    "extra2": (49, 51, 61, 63, 66, 68, 73, 77, 80, 81),
}


@dataclass(frozen=True)
class Stem:
    """What a maker made: a waveform at RATE, longer than the song where notes ring on; its roles; its source."""

    wave: Wave
    roles: frozenset[str]
    source: str


def _synthetic(rng: Rng, song: Song, notes: list[Note], role: str) -> Wave:
    patch = synth.patch(rng, role)
    voice = lambda note, before: synth.note(note.pitch, note.beats * song.beat_s, note.level, patch, rng, before)  # noqa: E731
    return synth.played(notes, song.beat_s, song.seconds + 1.0, voice)


def _pitched(rng: Rng, song: Song, stock: Stock, notes: list[Note], role: str, programs: tuple[int, ...]) -> Stem:
    """Notes on a soundfont's preset, on real sampled notes, or on the synthesizer."""
    how = pick(rng, font=0.35, synth=0.12, notes=0.2, preset=0.28, clip=0.05)
    if how == "clip" and stock.has("clip", role):
        real = stock.one("clip", role)
        return Stem(sound(real.path), frozenset(real.roles), real.package)
    if how == "synth":
        return Stem(_synthetic(rng, song, notes, role), frozenset({role}), "synthesizer")
    if how in ("notes", "preset"):
        return _sampled(song, stock, notes, role, how)
    font, program = stock.one("font"), int(rng.choice(programs))
    wave = from_font(font.path, program, notes, song.beat_s, song.seconds)
    return Stem(wave, frozenset({role}), f"{font.package} {program}")


def _sampled(song: Song, stock: Stock, notes: list[Note], role: str, kind: str) -> Stem:
    """Notes on an instrument whose notes lie in one folder."""
    found = stock.some(kind, role, by="folder")
    wave = from_samples([each.path for each in found], notes, song.beat_s, song.seconds)
    return Stem(wave, frozenset({role}), f"{found[0].package} {Path(found[0].folder).name}")


def bass(rng: Rng, song: Song, stock: Stock) -> Stem:
    """A bass line."""
    return _pitched(rng, song, stock, patterns.bass(rng, song), "bass", BASSES)


def chord(rng: Rng, song: Song, stock: Stock) -> Stem:
    """Chords; now and then real guitar strums, or a choir's."""
    notes = patterns.chords(rng, song)
    if rng.random() < 0.1:
        strums = stock.some("strums", by="series") if stock.has("strums") else []
        if strums:
            onsets = sorted({round(note.start * 4) / 4 for note in notes})
            waves = [sound(str(rng.choice([each.path for each in strums]))) for _ in onsets]
            wave = sequence(waves, [onset * song.beat_s for onset in onsets], song.seconds)
            return Stem(wave, frozenset({"chord"}), strums[0].package)
    if rng.random() < 0.06:
        stem = _from_choir(rng, song, stock, notes)
        return Stem(stem.wave, frozenset({"chord", "voice"}), stem.source)
    return _pitched(rng, song, stock, notes, "chord", CHORDS)


def melody(rng: Rng, song: Song, stock: Stock) -> Stem:
    """A melody or an arpeggio."""
    notes = patterns.melody(rng, song) if rng.random() < 0.68 else patterns.arpeggio(rng, song)
    return _pitched(rng, song, stock, notes, "melody", MELODIES)


def percussion(rng: Rng, song: Song, stock: Stock) -> Stem:
    """A drum groove."""
    groove = patterns.groove(rng, song)
    how = pick(rng, font=0.2, kit=0.3, synth=0.12, clip=0.08, hits=0.3)
    if how == "hits":
        return _hits(rng, song, stock)
    if how == "clip" and stock.has("clip", "percussion"):
        real = stock.one("clip", "percussion")
        return Stem(sound(real.path), frozenset(real.roles), real.package)
    if how == "kit":
        drums = stock.some("drums", by="folder")
        kit = kit_of([each.path for each in drums], rng)
        wave = struck(groove, kit, song.beat_s, song.seconds)
        return Stem(wave, frozenset({"percussion"}), f"{drums[0].package} kit")
    if how == "font":
        has_own = stock.has("drumfont")  # the two that there are have strokes in common: both are to train on
        font = stock.one("drumfont" if rng.random() < 0.3 and has_own else "font")
        keys = {voice: int(rng.choice(KEYS[voice])) for voice in groove}
        notes = [note._replace(pitch=keys[voice]) for voice, line in groove.items() for note in line]
        wave = from_font(font.path, int(rng.choice(KITS)), notes, song.beat_s, song.seconds, drums=True)
        return Stem(wave, frozenset({"percussion"}), f"{font.package} drums")
    wave = np.zeros(int((song.seconds + 1) * synth.RATE), np.float32)
    for voice, notes in groove.items():
        hit = drum(str(rng.choice(DRUMS[voice])), rng)
        wave += synth.played(notes, song.beat_s, song.seconds + 1, hit) * np.float32(rng.uniform(0.4, 1))
    return Stem(wave, frozenset({"percussion"}), "synthesizer")


def _hits(rng: Rng, song: Song, stock: Stock) -> Stem:
    """One drum: a single stroke that rings out, or a few; at times higher or lower than recorded."""
    if rng.random() < 0.25:
        font, note = stock.one("font"), Note(0.0, 2.0, int(rng.integers(35, 82)), float(rng.uniform(0.5, 1)))
        source, wave = font.package, from_font(font.path, 0, [note], 0.5, 1.5, drums=True)
    else:
        real = stock.some("drums", by="folder")
        steps = int(rng.integers(-8, 9)) if rng.random() < 0.4 else 0
        source, wave = real[0].package, moved(str(rng.choice([each.path for each in real])), steps)
    wave = levelled(wave)
    if rng.random() < 0.5:
        onsets = patterns.rhythm(rng, float(rng.uniform(0.1, 0.5)))
        wave = sequence(
            [wave * rng.uniform(0.5, 1) for _ in onsets], [b * song.beat_s for b in onsets], 4 * song.beat_s
        )
    return Stem(wave, frozenset({"percussion"}), f"{source} hits")


def fx(rng: Rng, song: Song, stock: Stock) -> Stem:
    """Sound effects: a real one, several in a row, or made ones."""
    how = pick(rng, real=0.48, several=0.14, made=0.24, font=0.04, preset=0.1)
    if how == "made":
        return Stem(noise(rng, song.seconds), frozenset({"fx"}), "synthesizer")
    if how == "font":
        font, program = stock.one("font"), int(rng.choice(NOISES))
        notes = [Note(beat, 2.0, int(rng.integers(40, 80)), 1.0) for beat in patterns.rhythm(rng, 0.12, 1)]
        return Stem(from_font(font.path, program, notes, song.beat_s, song.seconds), frozenset({"fx"}), font.package)
    if how == "preset":
        notes = [Note(0.0, rng.uniform(1, 8), int(rng.integers(24, 84)), 1.0) for _ in range(rng.integers(1, 3))]
        return _sampled(song, stock, notes, "fx", "preset")
    if how == "real":
        real = stock.one("clip", "fx")
        wave = sound(real.path)
        return Stem(wave[::-1].copy() if rng.random() < 0.07 else wave, frozenset({"fx"}), real.package)
    pair = [stock.one("clip", "fx"), stock.one("clip", "fx")]
    few = [sound(each.path) for each in pair]
    onsets = [beat for bar in range(song.bars) for beat in (4 * bar + b for b in patterns.rhythm(rng, 0.12, 2))]
    waves = [levelled(few[rng.integers(2)]) for _ in onsets]
    wave = sequence(waves, [beat * song.beat_s for beat in onsets], song.seconds)
    return Stem(wave, frozenset({"fx"}), " + ".join(dict.fromkeys(each.package for each in pair)))


def _from_choir(rng: Rng, song: Song, stock: Stock, notes: list[Note]) -> Stem:
    if rng.random() < 0.5 and stock.has("preset", "voice"):
        return _sampled(song, stock, notes, "voice", "preset")
    font, program = stock.one("font"), int(rng.choice(CHOIRS))
    return Stem(from_font(font.path, program, notes, song.beat_s, song.seconds), frozenset({"voice"}), font.package)


def voice(rng: Rng, song: Song, stock: Stock) -> Stem:
    """Voices: spoken, chopped, sung, robotic, vocoded, beatboxed, a choir's."""
    how = pick(
        rng,
        said=0.2,
        altered=0.14,
        chopped=0.1,
        sung=0.22,
        held=0.12,
        robot=0.05,
        vocoded=0.06,
        beatbox=0.08,
        choir=0.06,
        espeak=0.03,
    )
    speech = stock.speaker()
    if how == "espeak" and stock.espeaks:
        return Stem(voices.spoken(rng), frozenset({"voice"}), "espeak-ng")
    said = sound(speech[0].path)
    if how == "choir":
        return _from_choir(rng, song, stock, patterns.melody(rng, song))
    roles, wave = frozenset({"voice"}), None
    if how == "chopped":
        onsets = [4.0 * bar + beat for bar in range(song.bars) for beat in patterns.rhythm(rng, 0.25)]
        wave = voices.chopped([sound(each.path) for each in speech], onsets, song.beat_s, song.seconds, rng)
    elif how in ("sung", "held"):
        steps = SINGERS[int(rng.integers(len(SINGERS)))]
        notes = patterns.melody(rng, song) if how == "sung" else patterns.held(rng, song)
        wave = voices.choral(speech[0].path, notes, song.beat_s, song.seconds, rng, steps, how == "held")
        roles = frozenset({"voice", "chord"}) if len(steps) > 2 and wave is not None else roles
    elif how == "altered":
        wave = voices.altered(speech[0].path, rng)
    elif how == "beatbox":
        wave = voices.beatboxed(speech[0].path, patterns.groove(rng, song), song.beat_s, song.seconds, rng)
        roles = frozenset({"voice", "percussion"}) if wave is not None else roles
    elif how == "robot":
        wave = voices.robotic(said, rng)
    elif how == "vocoded":
        wave = synth.vocoded(said, levelled(_synthetic(rng, song, patterns.chords(rng, song), "chord")))
    source = " + ".join(dict.fromkeys(each.package for each in (speech if how == "chopped" else speech[:1])))
    return Stem(said if wave is None else wave, roles, source)


MAKERS = {"bass": bass, "chord": chord, "melody": melody, "percussion": percussion, "fx": fx, "voice": voice}
