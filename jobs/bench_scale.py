"""`make scale`: what grows with the number of clips, and what memory is held when disk and model are of unlike speed.

Scale: manifests of tiny clips, of silence, so that they are read and decoded but the model is not in the way.
Pressure: a decoder far ahead of the model; a model far ahead of the store; hours among seconds. Ray's one GPU is a
logical one there, so that decoding tasks feed a predictor through the object store as on a GPU machine.
"""

import argparse
import io
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from rich.console import Console
from rich.table import Table

from jobs.drills.proxy import Faults, Proxy
from jobs.drills.server import ENVIRONMENT, Server
from looptagger.archive import manifest
from looptagger.archive.sources import open_sources
from looptagger.archive.storage import Folder
from looptagger.archive.tags import parse
from looptagger.config import Model, Storage
from looptagger.model import checkpoint

RATE, DISTINCT, CLIPS = 16_000, 64, 60
STORE_MB = 400
"""The object store given to the drills of memory."""
PRETENDED = "LOOPTAGGER_GPU_IS_PRETENDED"
"""As cluster.tagging has it."""
PRESSED = {"num_cpus": 2, "num_gpus": 1, "object_store_memory": STORE_MB * 1_000_000}


def watched(**asked: Any) -> dict[str, Any]:
    """What a job took, run in a process of its own."""
    command = [sys.executable, "-m", "jobs.watched", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, PRETENDED: "1"})
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def model(folder: Path, channels: int) -> str:
    """A checkpoint of some width."""
    path = folder / f"{channels}.safetensors"
    path.write_bytes(checkpoint.untrained(Model(channels=channels)))
    return str(path)


def scale(folder: Path, sizes: list[int]) -> Iterator[tuple[str, ...]]:
    """The same job at several sizes; then nine tenths of its parts are there and it goes on."""
    for number in range(DISTINCT):
        soundfile.write(folder / f"{number}.wav", np.zeros(RATE // 4), RATE)
    for size in sizes:
        rows = range(size)
        uris = [str(folder / f"{number % DISTINCT}.wav") for number in rows]
        pq.write_table(pa.table({"id": [f"clip-{number:09d}" for number in rows], "uri": uris}), folder / "m.parquet")
        out = folder / f"out-{size}"
        job = {"source": str(folder / "m.parquet"), "out": str(out), "model": model(folder, 2)}
        took = watched(**job, settings=["compute.device=cpu"])
        parts = sorted(path for path in out.iterdir() if parse(path.name))
        for path in parts[::10]:
            path.unlink()
        again = watched(**job, settings=["compute.device=cpu"])
        yield (
            f"{size:,}", f"{took['clips'] / took['tagged_s']:,.0f}", f"{took['driver_mb']:.0f}",
            f"{took['store_mb']:.1f}", f"{took.get('listed', 0):.1f}", f"{took['first']:.1f}", f"{len(parts):,}",
            f"{again['clips']:,} in {again['whole_s']:.0f} s, the first after {again['first']:.1f}",
        )  # fmt: skip


def listed(endpoint: str, out: str) -> tuple[int, float, float, float]:
    """Keys of the bucket `many` taken into a manifest: how many, in how long, the first told after, the peak in MB."""
    began, told = time.monotonic(), list[float]()
    sources = open_sources(["s3://many/loops/"], Storage(endpoint_url=endpoint))
    files = manifest.freeze(Folder(out), sources, written=lambda rows: told.append(time.monotonic() - began))
    with open("/proc/self/status") as file:
        peak = next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
    return sum(file.rows for file in files), time.monotonic() - began, told[0], peak


def listing(folder: Path, sizes: list[int]) -> Iterator[tuple[str, ...]]:
    """Listing a bucket, from a server that makes its pages up."""
    os.environ.update(ENVIRONMENT)
    for size in sizes:
        proxy = Proxy("127.0.0.1:9", Faults(many=size))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows, seconds, first, peak = pool.apply(listed, (proxy.endpoint, str(folder / f"listed-{size}")))
        proxy.close()
        yield f"{rows:,}", f"{seconds:.0f}", f"{first:.1f}", f"{peak:.0f}"


def hours(folder: Path, long: int, short: int) -> None:
    """Clips of an hour among ones of a second, as FLAC."""
    folder.mkdir()
    hum = np.random.default_rng(0).normal(0, 0.1, 10 * RATE).astype(np.float32)
    body = io.BytesIO()
    with soundfile.SoundFile(body, "w", RATE, 1, format="FLAC") as file:
        for _ in range(360):
            file.write(hum)
    for number in range(long):
        (folder / f"{number * short // long:04d}-long.flac").write_bytes(body.getvalue())
    for number in range(short):
        soundfile.write(folder / f"{number:04d}.wav", hum[:RATE], RATE)


def pressure(folder: Path) -> Iterator[tuple[str, ...]]:
    """Three unlike speeds, through the pipeline of a GPU machine."""
    quick, slow = model(folder, 2), model(folder, 64)
    minute = folder / "minutes"
    minute.mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, 60 * RATE).astype(np.float32)
    for number in range(CLIPS):
        soundfile.write(minute / f"{number}.wav", noise, RATE)
    few = ["compute.shard_rows=8", "chunking.max_chunks=20"]
    took = watched(source=str(minute), out=str(folder / "slow"), model=slow, settings=few[:1], ray=PRESSED)
    yield _line(f"slow model, fast disk: {CLIPS} clips of a minute", took)

    server = Server(folder / "s3")
    with server.running() as fs:
        for number in range(CLIPS):
            fs.pipe_file(f"private/slow/{number}.wav", (minute / f"{number}.wav").read_bytes())
        proxy = Proxy(server.endpoint.removeprefix("http://"), Faults(pause_s=0.5))
        os.environ.update(ENVIRONMENT)
        endpoint = [f"storage.endpoint_url={proxy.endpoint}"]
        took = watched(
            source="s3://private/slow", out=str(folder / "fast"), model=quick, settings=few + endpoint, ray=PRESSED
        )
        proxy.close()
    yield _line("fast model, slow store: the same, 0.5 s an object", took)

    hours(folder / "hours", 12, 240)
    most = ["compute.shard_rows=16", "chunking.max_chunks=1200"]
    took = watched(source=str(folder / "hours"), out=str(folder / "long"), model=quick, settings=most, ray=PRESSED)
    yield _line("12 hours among 240 seconds, heard whole", took)


def _line(name: str, took: dict[str, Any]) -> tuple[str, ...]:
    return (
        name, f"{took['clips']} ({took['by_status'].get('ok', 0)} ok)", f"{took['whole_s']:.0f}",
        f"{took['driver_mb']:.0f}", f"{took['store_mb']:.0f} of {STORE_MB}", f"{took['spilled_mb']:.0f}",
    )  # fmt: skip


def main() -> None:
    """Run the parts asked for and print a table each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--no-pressure", action="store_true")
    args = parser.parse_args()
    began = time.monotonic()
    console = Console(width=160)
    growth = Table("rows", "clips/s", "driver MB", "store MB", "listed s", "first row s", "parts", "a tenth again")
    with tempfile.TemporaryDirectory() as folder:
        for row in scale(Path(folder), args.rows):
            growth.add_row(*row)
        console.print(growth)
        found = Table("keys listed", "s", "first told after s", "peak MB")
        for row in listing(Path(folder), args.rows):
            found.add_row(*row)
    console.print(found)
    if not args.no_pressure:
        held = Table("pressure", "clips", "s", "driver MB", "object store MB", "spilled MB")
        with tempfile.TemporaryDirectory() as folder:
            for row in pressure(Path(folder)):
                held.add_row(*row)
        console.print(held)
    console.print(f"{(time.monotonic() - began) / 60:.1f} min")


if __name__ == "__main__":
    main()
