"""The sources of the starter data as a Markdown table for MODEL_CARD.md: python -m jobs.starter.card AUDIO."""

import csv
from collections import Counter
from pathlib import Path

import click

from jobs.starter.shelf import sources

USES = {
    "font": "soundfont",
    "drumfont": "drum soundfont",
    "drums": "drum one-shots",
    "strums": "guitar strums",
    "clip": "sounds as they are",
    "listed": "sounds as they are",
    "notes": "recorded notes",
    "preset": "synthesizer presets",
    "speech": "speech, also sung, cut, vocoded, beatboxed",
}


def table(labels: Path) -> str:
    """Each source, its licence, how it is used, and the share of the training and validation clips that hold it."""
    parts: Counter[str] = Counter()
    used: Counter[tuple[str, str]] = Counter()
    with labels.open(newline="") as file:
        for row in csv.DictReader(file):
            parts[row["part"]] += 1
            used.update({(source.split(" ")[0], row["part"]) for source in row["uploader"].split(" + ")})
    about: dict[str, tuple[str, list[str]]] = {
        "synthesizer": ("ours", ["jobs/starter's synthesizer, drums, noises"]),
        "espeak-ng": ("GPL-3+ (the program)", ["synthetic speech"]),
    }
    for row in sources():
        licence, uses = about.setdefault(row["package"], (row["licence"], []))
        uses += [USES[row["kind"]]] if USES[row["kind"]] not in uses else []
    lines = ["| source | licence | used as | training clips | validation clips |", "|---|---|---|---|---|"]
    for package, (licence, uses) in sorted(about.items(), key=lambda each: -used[each[0], "train"]):
        shares = [f"{used[package, part] / max(1, parts[part]):.1%}" for part in ("train", "validation")]
        lines.append(f"| {package} | {licence} | {', '.join(uses)} | {' | '.join(shares)} |")
    return "\n".join(lines)


@click.command()
@click.argument("audio", type=click.Path(path_type=Path))
def main(audio: Path) -> None:
    """Print the table."""
    click.echo(table(audio / "labels.csv"))


if __name__ == "__main__":
    main()
