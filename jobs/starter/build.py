"""Make the starter data: `python -m jobs.starter OUT`. Seeded, and goes on where it stopped.

OUT/shelf holds the packages' sounds, OUT/audio the clips as 16 kHz FLAC with labels.csv for `looptagger prepare`.
"""

import csv
import hashlib
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import soundfile
import soxr

from jobs.starter.effects import dressed, levelled
from jobs.starter.patterns import Rng, song
from jobs.starter.presets import render_all
from jobs.starter.shelf import Sound, fetch, shelf
from jobs.starter.stems import MAKERS, Stem
from jobs.starter.stock import Stock, pick
from jobs.starter.synth import RATE, Wave
from looptagger.errors import ClipFailed

STORED_RATE = 16_000
COMBINATIONS = (
    "percussion bass", "percussion bass", "percussion chord", "percussion melody", "bass chord", "chord melody",
    "chord melody", "bass melody", "percussion bass chord", "percussion bass melody", "percussion voice",
    "chord voice", "fx percussion", "fx melody",
)  # fmt: skip
COLUMNS = ("path", "roles", "part", "uploader", "pack", "licence")


def clip(seed: int, number: int, part: str, stock: Stock) -> tuple[Wave, frozenset[str], str, str]:
    """Clip number so-and-so: waveform at RATE, roles, its source, and what kind of clip it is."""
    stock.rng = rng = np.random.default_rng([seed, number, len(part)])
    tune = song(rng)
    kind = pick(rng, bass=0.11, chord=0.12, melody=0.13, percussion=0.14, fx=0.18, voice=0.17, several=0.15)
    names = str(rng.choice(COMBINATIONS)).split() if kind == "several" else [kind]
    made = [MAKERS[name](rng, tune, stock) for name in names]
    roles = frozenset(role for stem in made for role in stem.roles)
    plays = not roles & {"fx", "voice"}
    fitted = [_fitted(stem, tune.seconds, rng, len(made) > 1, tune.bpm) for stem in made]
    wave: Wave = np.sum(fitted, axis=0, dtype=np.float32)
    if len(made) == 1 and plays and rng.random() < 0.15:
        wave = _one_shot(wave, rng)
    wave = trimmed(wave)
    wave = levelled(dressed(wave, rng, RATE, tune.bpm, 0.4 if len(made) > 1 else 0.15), float(rng.uniform(0.3, 0.99)))
    return wave, roles, " + ".join(stem.source for stem in made), kind


def _fitted(stem: Stem, seconds: float, rng: Rng, exact: bool, bpm: float) -> Wave:
    """A stem dressed, and cut as loops are: what rings on wraps to the start, is cut off, or stays."""
    wave = dressed(levelled(stem.wave), rng, RATE, bpm)
    count = int(seconds * RATE)
    how = pick(rng, wrap=0.55, cut=0.2, ring=0.0 if exact else 0.25)
    natural = bool(stem.roles & {"fx", "voice"}) and not exact
    if natural or how == "ring":
        return wave
    out = np.zeros(count, np.float32)
    out[: min(count, len(wave))] = wave[:count]
    if how == "wrap" and len(wave) > count:
        rest = wave[count : 2 * count]
        out[: len(rest)] += rest
    return levelled(out) * np.float32(rng.uniform(0.4, 1.0) if exact else 1.0)


def trimmed(wave: Wave) -> Wave:
    """Without near silence at its end."""
    loud = np.flatnonzero(np.abs(wave) > 0.003 * np.abs(wave).max(initial=1e-9))
    return wave[: loud[-1] + 1] if len(loud) else wave


def _one_shot(wave: Wave, rng: Rng) -> Wave:
    """The first stroke alone."""
    start = int(np.flatnonzero(np.abs(wave) > 0.05)[:1].sum())
    piece = wave[start : start + int(rng.uniform(0.25, 1.5) * RATE)].copy()
    fade = min(len(piece), int(0.1 * RATE))
    piece[len(piece) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    return piece


def _write(task: tuple[int, int, str, str]) -> dict[str, Any] | None:
    seed, number, part, out = task
    name = f"{part}-{number:06d}"
    row_file = Path(out) / "rows" / f"{name}.csv"
    if not row_file.exists():
        try:
            wave, roles, source, kind = clip(seed, number, part, _STOCKS[part])
        except ClipFailed:  # a sound on the shelf that is broken, or silent
            return None
        except Exception as error:
            raise RuntimeError(f"clip {name}: {error}") from error
        wave = soxr.resample(wave, RATE, STORED_RATE)
        if len(wave) < STORED_RATE // 10 or not np.isfinite(wave).all():
            return None
        soundfile.write(Path(out) / f"{name}.flac", np.clip(wave, -1, 1), STORED_RATE)
        coming = row_file.with_suffix(".tmp")
        coming.write_text("\t".join([f"{name}.flac", ";".join(sorted(roles)), part, source, kind, "mixed"]))
        coming.rename(row_file)
    return dict(zip(COLUMNS, row_file.read_text().split("\t"), strict=True))


_STOCKS: dict[str, Stock] = {}


def _ready(folder: str) -> None:
    sounds = shelf(Path(folder))
    for part in ("train", "validation"):
        _STOCKS[part] = Stock([each for each in sounds if each.part == part], espeaks=part == "train")


def real_rows(sounds: list[Sound], audio: Path) -> list[dict[str, Any]]:
    """The Sonic Pi samples to validate on, as they are; paths count from the folder of labels.csv."""
    found = []
    for each in sounds:
        if each.kind == "listed":
            path = os.path.relpath(each.path, audio)
            row = (path, ";".join(each.roles), each.part, each.package, "real", each.licence)
            found.append(dict(zip(COLUMNS, row, strict=True)))
    return found


def _same_recipe(note: Path, *asked: int) -> None:
    """Refuse to go on with clips that other code, another seed or other counts made. Raises SystemExit."""
    made = [Path(__file__).parent.glob(pattern) for pattern in ("*.py", "*.tsv")]
    texts = [path.read_bytes() for path in sorted(path for paths in made for path in paths)]
    recipe = hashlib.blake2b(b"".join(texts) + str(asked).encode(), digest_size=8).hexdigest()
    if note.exists() and note.read_text() != recipe:
        raise SystemExit(f"{note.parent}: made by another recipe; delete all of {note.parent.parent}.")
    note.write_text(recipe)


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--train", default=20_000, help="Clips to train on.")
@click.option(
    "--validation", default=1000, help="Clips to choose the best epoch and the thresholds on, besides real ones."
)
@click.option("--processes", default=multiprocessing.cpu_count())
@click.option("--seed", default=0)
def main(out: Path, train: int, validation: int, processes: int, seed: int) -> None:
    """Fetch the packages, make the clips, write labels.csv."""
    audio = out / "audio"
    (audio / "rows").mkdir(parents=True, exist_ok=True)
    _same_recipe(audio / "recipe", seed, train, validation)
    for package in fetch(out / "shelf"):
        click.echo(f"fetching {package}", err=True)
    for number, preset in enumerate(render_all(out / "shelf", processes), 1):
        click.echo(f"rendering preset {number}: {preset}", err=True)
    rows = real_rows(shelf(out / "shelf"), audio)
    counts = {"train": train, "validation": validation}
    tasks = [(seed, number, part, str(audio)) for part, count in counts.items() for number in range(count)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _ready, (str(out / "shelf"),)) as pool:
        for done, row in enumerate(pool.map(_write, tasks, chunksize=8), 1):
            rows += [row] if row else []
            if done % 50 == 0 or done == len(tasks):
                print(f"\r{done:,}/{len(tasks):,} clips", end="", file=sys.stderr, flush=True)
    with (audio / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    click.echo(f"\n{len(rows):,} rows in {audio / 'labels.csv'}", err=True)
