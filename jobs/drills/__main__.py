"""`make drills`: jobs killed at random moments and in every way, and what is in the output after each. A table."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pyarrow as pa

from jobs.drills import site as sites
from jobs.drills import strikes
from jobs.drills.server import Server
from jobs.drills.site import Site

Strike = Callable[[Site, strikes.Job, random.Random], str]
COME = "nodes come"
MARK = ".drills"
"""By which a folder is known that may be deleted."""
MISSED = "equal, but nothing was hit"
KILLS = ("driver", "decoder", "worker", "process tree", "S3 server", "predictor", "Ray tree", "node")
ONCE = ("disk full", "output gone", "SIGTERM", "Ctrl-C", COME)
CODES = {
    "driver": -9,
    "process tree": -9,
    "Ray tree": -9,
    "SIGTERM": 130,
    "Ctrl-C": 130,
    "disk full": 2,
    "output gone": 2,
}
"""How a job that was struck ends; the others go on to their end."""
LINE = "{:>2}  {:<13}  {:>5}  {:<15}  {:>4}  {:>8}  {:>9}  {}"


@contextmanager
def _local(folder: Path, base: Site) -> Iterator[Site]:
    yield replace(base, out=str(folder / "tags"))


@contextmanager
def _on_ray(folder: Path, base: Site) -> Iterator[Site]:
    """Ray on this machine."""
    yield replace(base, out=str(folder / "tags"), address="local")


@contextmanager
def _small_disk(folder: Path, base: Site) -> Iterator[Site]:
    """A disk of 4 MB. Raises CalledProcessError where none can be mounted: only root can, and not everywhere."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)
    try:
        yield replace(base, out=str(disk / "tags"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@contextmanager
def _bucket(folder: Path, base: Site) -> Iterator[Site]:
    server = Server(folder / "s3")
    with server.running() as fs:
        for path in sorted(Path(base.source).iterdir()):
            fs.pipe_file(f"private/clips/{path.name}", path.read_bytes())
        yield replace(base, source="s3://private/clips", out="s3://private/tags", server=server)


@contextmanager
def _cluster(folder: Path, base: Site, nodes: int) -> Iterator[tuple[Site, Any]]:
    """Ray on a head that gives no CPU, and nodes that give one each."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(nodes):
        cluster.add_node(num_cpus=1)
    try:
        yield replace(base, out=str(folder / "tags"), address=cluster.address), cluster
    finally:
        cluster.shutdown()


PLACES = {"S3 server": _bucket, "disk full": _small_disk, "predictor": _on_ray, "Ray tree": _on_ray}
"""Where other than on a disk, without Ray, a kind of drill is done."""


def drill(
    kind: str, place: Site, strike: Strike, moment: float, wanted: pa.Table, rng: random.Random
) -> tuple[Any, ...]:
    """Start, strike, look; then the same command to the end, and the comparison. A row of the table."""
    place.clear()
    with place.job() as job:
        try:
            job.wait(timeout=moment)
            hit = strikes.ENDED
        except subprocess.TimeoutExpired:
            hit = strike(place, job, rng)
        code = sites.ended(job)
    rows = place.rows()
    with place.job() as job:
        again = sites.ended(job)
    due = CODES.get(kind, 0)
    is_late = due != 0 == code and rows == wanted.num_rows  # all was written when it came
    is_hit = hit not in (strikes.ENDED, strikes.NOTHING) and not is_late
    problem = f"exit code {again}" if again else sites.difference(wanted, place.table())
    if is_hit and code != due:
        problem = problem or f"ended with {code}, not {due}"
    return kind, f"{moment:.1f}", hit, code, rows, place.rows(), problem or ("equal" if is_hit else MISSED)


def _run(kinds: list[str], folder: Path, base: Site, rng: random.Random) -> Iterator[tuple[Any, ...]]:
    """The drills of each kind, in the place that the kind needs."""
    sites.undisturbed(replace(base, out=str(folder / "calm")))  # the first run of all is the slowest
    wanted, seconds = sites.undisturbed(replace(base, out=str(folder / "calm")))
    print(f"Undisturbed: {wanted.num_rows} rows in {seconds:.0f} s.", file=sys.stderr)
    simple: dict[str, Strike] = {
        "driver": strikes.driver, "decoder": strikes.decoder, "worker": strikes.worker, "process tree": strikes.tree,
        "predictor": strikes.predictor, "Ray tree": strikes.tree, "output gone": strikes.gone,
        "SIGTERM": strikes.terminate,
        "Ctrl-C": strikes.interrupt, "S3 server": strikes.server, "disk full": strikes.full,
    }  # fmt: skip
    for kind in dict.fromkeys(kinds):
        moments = [rng.uniform(0.3, 0.95) * seconds for each in kinds if each == kind]
        if kind == "node":
            with _cluster(folder, base, 2) as (place, cluster):
                yield from (drill(kind, place, strikes.node(cluster), moment, wanted, rng) for moment in moments)
        elif kind == COME:
            slow = replace(base, model=sites.make_model(folder / "slow.safetensors", 128))
            calm, _ = sites.undisturbed(replace(slow, out=str(folder / "slow")))
            with _cluster(folder, slow, 0) as (place, cluster):
                yield drill(kind, place, strikes.nodes(cluster), moments[0], calm, rng)
        else:
            where = PLACES.get(kind, _local)
            try:
                with where(folder, base) as place:
                    yield from (drill(kind, place, simple[kind], moment, wanted, rng) for moment in moments)
            except subprocess.CalledProcessError as refused:
                if refused.cmd[0] != "mount":
                    raise
                yield kind, "", "skipped: no small disk can be mounted here", "", "", "", "skipped"


@click.command()
@click.option("--rounds", default=20, show_default=True, help="Kills at random moments, dealt over the kinds of kill.")
@click.option("--only", default="", help="Kinds, with commas between; all by default.")
@click.option("--seed", default=0, show_default=True)
@click.option("--folder", default="build/drills", show_default=True, type=click.Path(path_type=Path))
def main(rounds: int, only: str, seed: int, folder: Path) -> None:
    """Run the drills; exit code 1 when a job ends otherwise, or its output is not what an undisturbed run gives."""
    folder = folder.absolute()
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise click.UsageError(f"{folder}: is there, and not of an earlier run; delete it, or give a new folder.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    sites.make_clips(folder / "clips")
    base = Site(folder, str(folder / "clips"), "", sites.make_model(folder / "model.safetensors"))
    names = [name.strip() for name in only.split(",")] if only else [*KILLS, *ONCE]
    kills = [name for name in names if name in KILLS]
    dealt = [kills[number % len(kills)] for number in range(rounds)] if kills else []
    kinds = sorted(dealt, key=KILLS.index) + [name for name in names if name in ONCE]
    began, bad, missed = time.monotonic(), 0, 0
    print(LINE.format("", "killed", "at s", "hit", "exit", "rows", "rows then", "against the undisturbed run"))
    for number, row in enumerate(_run(kinds, folder, base, random.Random(seed)), 1):
        print(LINE.format(number, *row), flush=True)
        missed += row[-1] == MISSED
        bad += row[-1] not in ("equal", "skipped", MISSED)
    minutes = (time.monotonic() - began) / 60
    print(f"{len(kinds)} drills in {minutes:.1f} min; {bad} not as they should be; {missed} hit nothing.")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
