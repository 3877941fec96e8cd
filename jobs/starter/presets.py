"""Presets of LMMS's synthesizers and of ZynAddSubFX as sampled instruments: rendered note by note through LMMS.

Each preset becomes a folder of notes (`C2.flac`, `Fs2.flac`, ...), which `instruments.from_samples` plays.
"""

import gzip
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import click
import numpy as np
import soundfile
import soxr

from jobs.starter.effects import levelled
from jobs.starter.synth import RATE

PITCHES = range(24, 85, 6)
HELD_S, EVERY_S = 2.0, 3.0
TIMEOUT_S = 300
NAMES = ("C", "Cs", "D", "Ds", "E", "F", "Fs", "G", "Gs", "A", "As", "B")
ROLES = (
    ("voice", r"choir|voice|vocal|vox|aah|ooh"),
    ("bass", r"bass(?!oon)|\bsub\b"),
    ("chord", r"pad|string|organ(?!ic)|rhodes|piano|brass|orch|chord|accord|clav"),
    ("melody", r"lead|pluck|bell|flute|reed|sax|trumpet|oboe|clarinet|bassoon|guitar|\bharp|marimba|glock|celest"),
    ("fx", r"noise|\bwind|\brain|thunder|fx\b|effect|explo|laser|alien|robot|helicop|storm|scratch|glitch|siren|alarm"
           r"|water|\bufo|laugh|scream|swoosh|whoosh"),
    ("chord", r"warm|soft|ambient|atmos"),
    ("melody", r"synth|saw|square"),
)  # fmt: skip
"""What presets are for, by the names of their files, else of their banks; the surest words first, others left out."""

PROJECT = """<?xml version="1.0"?><!DOCTYPE lmms-project>
<lmms-project version="1.0" creator="LMMS" creatorversion="1.2.2" type="song">
<head timesig_numerator="4" timesig_denominator="4" bpm="120" masterpitch="0" mastervol="100"/>
<song><trackcontainer type="song"><track muted="0" type="0" name="x" solo="0">{track}
<pattern muted="0" steps="16" name="x" type="1" pos="0" frozen="0">{notes}</pattern></track></trackcontainer></song>
</lmms-project>"""

ZYN = """<instrumenttrack pan="0" fxch="0" pitch="0" basenote="57" vol="100"><instrument name="zynaddsubfx"><zynaddsubfx
portamento="0" filterfreq="64" filterq="64" bandwidth="64" fmgain="127" resonancecenterfreq="64"
resonancebandwidth="64" modifiedcontrollers=""><ZynAddSubFX-data version-major="2" version-minor="4"
version-revision="1"><MASTER><par name="volume" value="80"/><par name="key_shift" value="64"/><PART id="0">
<par_bool name="enabled" value="yes"/><par name="volume" value="96"/><par name="panning" value="64"/>
<par name="min_key" value="0"/><par name="max_key" value="127"/><par name="key_shift" value="64"/>
<par name="rcv_chn" value="0"/><par name="velocity_sensing" value="64"/><par name="velocity_offset" value="64"/>
<par_bool name="note_on" value="yes"/><par_bool name="poly_mode" value="yes"/><par name="key_limit" value="15"/>
{body}</PART></MASTER></ZynAddSubFX-data></zynaddsubfx></instrument></instrumenttrack>"""


def role_of(preset: Path) -> str | None:
    """What a preset is for, from its name, else its bank's."""
    for text in (preset.stem.lower(), preset.parent.name.lower()):
        for role, pattern in ROLES:
            if re.search(pattern, text):
                return role
    return None


def project(preset: Path) -> str:
    """An LMMS project that plays a preset's notes, one after another."""
    raw = preset.read_bytes()
    text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8", "ignore")
    if preset.suffix == ".xiz":
        found = re.search(r"<INSTRUMENT[ >].*</INSTRUMENT>", text, re.DOTALL)
        track = ZYN.format(body=found[0]) if found else ""
    else:
        found = re.search(r"<instrumenttrack[ >].*</instrumenttrack>", text, re.DOTALL)
        track = found[0] if found else ""
    ticks = 96  # a second at 120 beats a minute, 48 ticks a beat
    notes = [
        f'<note pos="{round(i * EVERY_S * ticks)}" len="{round(HELD_S * ticks)}" key="{pitch - 12}" vol="100" pan="0"/>'
        for i, pitch in enumerate(PITCHES)
    ]
    return PROJECT.format(track=track, notes="".join(notes))


def render(preset: Path, out: Path) -> bool:
    """Write a preset's notes into a folder; False where LMMS makes no sound of it.

    Raises ClickException when it hangs: SystemExit would end the thread alone, and whoever waits for it would for ever.
    """
    with tempfile.TemporaryDirectory() as folder:
        song, wav = Path(folder) / "x.mmp", Path(folder) / "x.wav"
        song.write_text(project(preset))
        command = ["lmms", "--allowroot", "render", str(song), "-f", "wav", "-o", str(wav), "-s", "44100"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        try:
            subprocess.run(command, timeout=TIMEOUT_S, env={**os.environ, "QT_QPA_PLATFORM": "offscreen"}, **quiet)  # type: ignore[call-overload]
            wave, rate = soundfile.read(wav, dtype="float32", always_2d=True)
        except subprocess.TimeoutExpired:
            raise click.ClickException(
                f"{preset}: LMMS took over {TIMEOUT_S} s; is the machine busy? Try again."
            ) from None
        except (OSError, RuntimeError):
            return False
    mono = soxr.resample(wave.mean(axis=1), rate, RATE)
    every = int(EVERY_S * RATE)
    notes = [mono[i * every : (i + 1) * every] for i in range(len(PITCHES))]
    peaks = [float(np.abs(note).max(initial=0)) for note in notes]
    if min(peaks) < 1e-3:
        return False
    coming = out.with_suffix(".part")
    coming.mkdir(parents=True, exist_ok=True)
    for pitch, note in zip(PITCHES, notes, strict=True):
        soundfile.write(coming / f"{NAMES[pitch % 12]}{pitch // 12 - 1}.flac", levelled(note), RATE)
    coming.rename(out)
    return True


def render_all(shelf: Path, threads: int) -> Iterator[str]:
    """Render the presets on the shelf that have a role, each into its package's `rendered/ROLE/BANK/PRESET`.

    What is there already is left; yields the names of the others as they are done. LMMS brings a copy of
    ZynAddSubFX's banks, which is passed over.
    """
    wanted = []
    for preset in sorted([*(shelf / "zynaddsubfx-data").rglob("*.xiz"), *shelf.rglob("*.xpf")]):
        home = shelf / preset.relative_to(shelf).parts[0] / "rendered"
        out = home / str(role_of(preset)) / preset.parent.name / preset.stem
        if role_of(preset) and not out.exists() and not out.with_suffix(".silent").exists():
            wanted.append((preset, out))

    def one(task: tuple[Path, Path]) -> str:
        if not (render(*task) or render(*task)):  # it may have failed for want of memory, or of luck
            task[1].parent.mkdir(parents=True, exist_ok=True)
            task[1].with_suffix(".silent").touch()
        return task[0].stem

    with ThreadPool(threads) as pool:
        yield from pool.imap(one, wanted)
