"""`make bench-peers`: looptagger beside what people would write instead: the same clips, weights and cores, in turn.

Each is a process of its own, timed from its start to its end (cold), and from its first clips to its end (warm: what
start-up costs is left out, as it is in a long job).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
from rich.console import Console
from rich.table import Table

from jobs.bench import make_clips
from looptagger.roles import ROLES

PEERS = {
    "looptagger": "ours",
    "DataLoader, soundfile, torchaudio": "dataloader",
    "process pool, Essentia's MonoLoader": "pool",
    "Daft": "with_daft",
    "looptagger again": "ours",
}
"""The first comes last, too: how much the machine itself changed meanwhile."""


@dataclass(frozen=True)
class Time:
    """Clips/s of a whole run, and after its first clips, which came after `first_s`; each clip's surest role."""

    cold: float
    warm: float
    first_s: float
    roles: dict[str, str]


def timed(script: str, folder: str, model: str, out: str, clips: int) -> Time:
    """Run one of them."""
    began = time.time()
    command = [sys.executable, "-m", f"jobs.peers.{script}", folder, model, out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    ended = time.time()
    if done.returncode:
        raise SystemExit(f"{script} failed: {done.stderr[-2000:]}")
    said = next(line.split() for line in done.stdout.splitlines() if line.startswith("first "))
    first, count = float(said[1]), int(said[2])
    return Time(clips / (ended - began), (clips - count) / (ended - first), first - began, dict(first_roles(out)))


def first_roles(out: str) -> Iterator[tuple[str, str]]:
    """Name and first role of each clip in an output, be it a file or a folder of them."""
    files = f"{out}/*.parquet" if os.path.isdir(out) else out
    names = duckdb.execute(f"describe from read_parquet('{files}')").fetchall()
    flat = ", ".join(ROLES) if len(names) > 2 else ", ".join(f"scores[{i + 1}]" for i in range(len(ROLES)))
    for name, *scores in duckdb.execute(f"select id, {flat} from read_parquet('{files}')").fetchall():
        yield Path(name).name, ROLES[scores.index(max(scores))]


def race(count: int, model: str) -> Table:
    """All of them on so many clips."""
    title = f"{count:,} clips of 1 to 12 s, {len(os.sched_getaffinity(0))} cores, {model}"
    table = Table(
        "", "clips/s cold", "ours ÷", "clips/s warm", "ours ÷", "first after, s", "same first role", title=title
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "clips"
        folder.mkdir()
        make_clips(folder, count)
        ours: Time | None = None
        for number, (name, script) in enumerate(PEERS.items()):
            found = timed(script, str(folder), model, f"{place}/{number}", count)
            ours = ours or found
            alike = sum(found.roles[clip] == role for clip, role in ours.roles.items()) / count
            ratios = (f"{ours.cold / found.cold:.2f}", f"{ours.warm / found.warm:.2f}")
            speeds = (f"{found.cold:.1f}", ratios[0], f"{found.warm:.1f}", ratios[1])
            table.add_row(name, *speeds, f"{found.first_s:.0f}", f"{alike:.1%}")
    return table


def main() -> None:
    """Race with each number of clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--model", default="starter")
    args = parser.parse_args()
    for count in args.clips:
        Console(width=120).print(race(count, args.model))


if __name__ == "__main__":
    main()
