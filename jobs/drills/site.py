"""What a drill works with: clips, a model, a place for the tags, the command, and the look at what came out."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import soundfile

from jobs.drills.processes import descendants, kill
from jobs.drills.server import ENVIRONMENT, Server
from looptagger.config import Model
from looptagger.model import checkpoint

RATE, CLIPS = 16_000, 160
FORMATS = (("wav", "PCM_16"), ("flac", "PCM_16"), ("ogg", "VORBIS"))
LONGEST_S = 240.0
"""A job that takes longer counts as hung."""
CLOSE = 1e-5


def make_clips(folder: Path) -> None:
    """Chords of a few seconds in three formats; three files are broken, so that failures are rows too."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(CLIPS):
        ending, kind = FORMATS[number % len(FORMATS)]
        time_s = np.arange(int(rng.uniform(1, 5) * RATE)) / RATE
        waveform = sum(np.sin(2 * np.pi * hz * time_s) for hz in rng.uniform(60, 2000, 3)) * 0.2
        soundfile.write(folder / f"clip {number:03d} #ü.{ending}", waveform, RATE, subtype=kind)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "junk.mp3").write_bytes(b"junk" * 999)
    (folder / "cut.flac").write_bytes((folder / "clip 001 #ü.flac").read_bytes()[:1000])


@dataclass
class Site:
    """Where a drill's clips are and its tags go; `server` is where they are on S3, `address` where Ray is a cluster."""

    folder: Path
    source: str
    out: str
    model: str
    server: Server | None = None
    address: str | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> subprocess.Popen[bytes]:
        """The command, started."""
        sets = ["compute.device=cpu", "compute.shard_rows=8", "storage.timeout_s=5"]
        command = [sys.executable, "-m", "looptagger", "tag", self.source, "-o", self.out, "--model", self.model]
        command += [word for each in sets for word in ("--set", each)]
        command += ["--address", self.address] if self.address else []
        command += ["--endpoint-url", self.server.endpoint] if self.server else []
        with open(self.folder / "log", "ab") as log:
            env = {**os.environ, **self.environment, **(ENVIRONMENT if self.server else {})}
            return subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)

    @contextmanager
    def job(self) -> Iterator[subprocess.Popen[bytes]]:
        """The command, running; what is left of it in the end is killed, Ray's processes too."""
        job = self.start()
        try:
            yield job
        finally:
            if job.poll() is None:
                kill(list(descendants(job.pid)))
                job.wait()

    def clear(self) -> None:
        """No tags."""
        if self.server:
            fs = self.server.filesystem()
            if fs.exists(self.out):
                fs.rm(self.out, recursive=True)
        else:
            shutil.rmtree(self.out, ignore_errors=True)

    def parts(self) -> list[Path]:
        """The parts, on this disk."""
        if not self.server:
            return sorted(Path(self.out).glob("*.parquet"))
        copies = self.folder / "copies"
        shutil.rmtree(copies, ignore_errors=True)
        copies.mkdir()
        fs = self.server.filesystem()
        for name in fs.glob(f"{self.out}/*.parquet"):
            fs.get_file(name, str(copies / Path(name).name))
        return sorted(copies.glob("*.parquet"))

    def rows(self) -> int:
        """Rows that DuckDB reads in all parts."""
        names = [str(path) for path in self.parts()]
        return int(duckdb.read_parquet(names).count("*").fetchall()[0][0]) if names else 0

    def table(self) -> pa.Table:
        """All rows by id, which is the file's name, wherever it lies."""
        table = pa.concat_tables(pq.read_table(path) for path in self.parts())
        names = pa.array([uri.rsplit("/", 1)[-1] for uri in table.column("uri").to_pylist()])
        return table.drop_columns(["uri"]).set_column(0, "id", names).sort_by("id")


def ended(job: subprocess.Popen[bytes]) -> int:
    """A job's exit code; one that hangs is killed, and raises TimeoutExpired."""
    try:
        return job.wait(timeout=LONGEST_S)
    except subprocess.TimeoutExpired:
        job.send_signal(signal.SIGABRT)
        raise


def difference(wanted: pa.Table, found: pa.Table) -> str:
    """How a table of tags differs from another, or nothing."""
    ids = found.column("id").to_pylist()
    if len(ids) != len(set(ids)):
        return f"{len(ids) - len(set(ids))} ids twice"
    if ids != wanted.column("id").to_pylist():
        return f"{wanted.num_rows} ids wanted, {len(ids)} found"
    for name in wanted.column_names:
        one, other = wanted.column(name).combine_chunks(), found.column(name).combine_chunks()
        if pa.types.is_floating(one.type):
            gap = pc.max(pc.abs(pc.subtract(one, other))).as_py() or 0.0
            if gap > CLOSE or pc.is_null(one) != pc.is_null(other):
                return f"{name} differs by {gap:.2g}"
        elif one.to_pylist() != other.to_pylist():
            return f"{name} differs"
    return ""


def make_model(path: Path, channels: int = 48) -> str:
    """A model wide enough that tagging takes some seconds."""
    path.write_bytes(checkpoint.untrained(Model(channels=channels)))
    return str(path)


def undisturbed(site: Site) -> tuple[pa.Table, float]:
    """What a run without faults gives, and how long it takes."""
    site.clear()
    began = time.monotonic()
    with site.job() as job:
        code = ended(job)
    if code:
        raise RuntimeError(f"the undisturbed run ends with {code}; see {site.folder / 'log'}")
    return site.table(), time.monotonic() - began
