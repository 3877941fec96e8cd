"""Work on this machine's cores alone, without Ray: it starts in seconds, and leaves the cores to the work."""

import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import joblib
import numpy as np
import pyarrow as pa

from looptagger.archive import output
from looptagger.cluster.engine import Engine
from looptagger.cluster.plan import Plan, plan, with_small_ends
from looptagger.cluster.team import Team, Work, by_number
from looptagger.config import Compute
from looptagger.steps.worker import Brief, Tagger, decoded, rows

CARDS = ("/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/dxg", "/dev/kfd")
"""What a GPU's driver puts there: NVIDIA's, that of Windows' Linux, AMD's."""

WINDOW = 4
"""Blocks a core that may be done before the first that is not: they wait in memory."""

Computed = Callable[..., Iterator[pa.Table]]
"""Makes what a function makes of blocks: see `session.computed`."""


def wants_ray(address: str | None, device: Literal["auto", "cpu", "cuda"] = "cpu") -> bool:
    """Whether a job is one for Ray: a session that is open or named, or GPUs. A machine's cores do without."""
    ray = sys.modules.get("ray")
    is_named = address or os.environ.get("RAY_ADDRESS") or (ray and ray.is_initialized())
    return bool(is_named) or device == "cuda" or (device == "auto" and any(map(os.path.exists, CARDS)))


def divided(compute: Compute) -> Plan:
    """A worker for each core that this process may use, or that its container has."""
    return plan(joblib.cpu_count(), 0, compute)


@contextmanager
def engine(works: Sequence[output.Work], brief: Brief, model: bytes, compute: Compute) -> Iterator[Engine]:
    """The tagging job: a worker on each core reads a shard's rows, decodes and predicts, as one of Ray's does."""
    workers = divided(compute)
    team = Team(with_small_ends(works, workers.cores), workers.cores, _tagger, brief, model)

    def blocks() -> Generator[pa.Table]:
        yield from (table for _, table in team.tables() if table is not None)

    try:
        yield Engine(workers, blocks, lambda: "It may be long clips, or a store that is away.", lambda: 0)
    finally:
        team.end()


def _tagger(brief: Brief, model: bytes) -> Work:
    return partial(_tagged, Tagger(brief, model, "cpu", decodes=True), brief)


def _tagged(tagger: Tagger, brief: Brief, work: output.Work) -> Iterator[pa.Table]:
    yield from map(tagger, decoded(rows(work, brief), brief))


@contextmanager
def workers(address: str | None, note: Callable[[str], None]) -> Iterator[Computed]:
    """Workers for blocks: Ray's where it is wanted, else this machine's cores."""
    if not wants_ray(address):
        yield computed
        return
    from looptagger.cluster import session

    with session.session(address, note):
        yield session.computed


def computed(blocks: Sequence[pa.Table], work: Work, in_order: bool, **given: Any) -> Iterator[pa.Table]:
    """What workers, one a core, make of blocks."""
    count = joblib.cpu_count()
    whole = (block.take(np.arange(block.num_rows)) for block in blocks)  # pickled slices have all of their table
    team = Team(whole, count, _with, work, given, window=WINDOW * count if in_order else None)
    try:
        tables = team.tables()
        yield from by_number(tables) if in_order else (table for _, table in tables if table is not None)
    finally:
        team.end()


def _with(work: Work, given: dict[str, Any]) -> Work:
    return partial(work, **given)
