"""How a cluster's CPUs and GPUs are shared among the workers of a job. Pure, so that it can be checked first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from looptagger.archive.output import Work
from looptagger.config import Compute, Workers
from looptagger.errors import UserError


@dataclass(frozen=True)
class Plan:
    """Workers, one a core, that decode and predict, where `predictors` is 0; else that decode for so many actors."""

    predictors: int
    gpus_per_predictor: float
    cores: int

    def __str__(self) -> str:
        if not self.predictors:
            return f"{self.cores} CPU workers that decode and predict"
        return f"{self.cores} CPU decoders feeding {self.predictors} GPU predictors"


def plan(cpus: float, gpus: float, compute: Compute) -> Plan:
    """The division of a cluster's logical CPUs and GPUs. Raises UserError where the job could only wait for ever."""
    wants_gpu = compute.device == "cuda" or (compute.device == "auto" and gpus > 0)
    if cpus < 1:
        raise UserError("Ray offers no CPU for tasks; start it with --num-cpus of at least 1, or free some.")
    if not wants_gpu:
        return Plan(0, 0.0, int(cpus))
    if compute.precision == "int8":
        raise UserError("compute.precision: int8 is for CPUs, and Ray offers GPUs; use auto, or compute.device=cpu.")
    whole, rest = divmod(gpus, 1)
    each, more = (int(of / compute.gpus_per_predictor + 1e-9) for of in (1, rest))
    predictors = int(whole) * each + more  # none is on two cards
    if predictors < 1:
        raise UserError(
            f"compute.device: {compute.device} asks for a GPU, but Ray offers {gpus:g} GPUs where a predictor needs "
            f"{compute.gpus_per_predictor:g}; use compute.device=cpu, or join a cluster that has them."
        )
    return Plan(predictors, compute.gpus_per_predictor, int(cpus))


CORE = 1
"""Logical CPUs of a worker that fills a core."""
PIECE = 32
"""Rows of a piece of a shard, at most, where a run begins and ends."""


def with_small_ends(works: Sequence[Work], workers: int) -> Iterator[Work]:
    """The same rows, first and last in pieces of shards, which are all part of the part that they were to be.

    The first rows come soon, with every worker on them; at the end none works for long on what the others could share
    (Polychronopoulos and Kuck, 1987, "Guided self-scheduling": half of a fair share of what is left).
    """
    begun, left = 0, sum(work.rows for work in works)
    for work in works:
        left -= work.rows
        yield from _pieces(work, PIECE if begun < workers * PIECE else max(PIECE, left // (2 * workers)))
        begun += work.rows


def _pieces(work: Work, most: int) -> Iterator[Work]:
    """As many as must be, of like size; of rows picked for another try, as of a shard."""
    shard, count = work.shard, -(-work.rows // most)
    for start, stop in pairwise(work.rows * piece // count for piece in range(count + 1)):
        if work.only is not None:
            yield replace(work, only=work.only[start:stop])
        else:
            rows = replace(shard, start=shard.start + start, stop=shard.start + stop, first=shard.first + start)
            yield replace(work, shard=rows, offset=work.offset + start)


@dataclass(frozen=True)
class Workforce:
    """Workers that train, each on a GPU or on CPU cores. `idle`: GPUs that a batch cannot be parted over."""

    workers: int
    gpus: float
    idle: int = 0

    @property
    def resources(self) -> dict[str, float]:
        """What each worker asks of Ray."""
        return {"CPU": CORE} | ({"GPU": 1.0} if self.gpus else {})

    def __str__(self) -> str:
        kind = "GPU" if self.gpus else "CPU"
        idle = f" ({self.idle} more would not divide the batch)" if self.idle else ""
        return f"{self.workers} {kind} worker{'' if self.workers == 1 else 's'}{idle}"


def workforce(nodes: Sequence[tuple[float, float]], wanted: Workers, batch: int) -> Workforce:
    """The workers of a training on nodes of so many CPUs and GPUs each.

    By default as many as there are GPUs, of which each takes a CPU of its node along, and `batch` crops can be parted
    over. Raises UserError where it could only wait for ever.
    """
    cpus, gpus = (sum(int(offers[kind]) for offers in nodes) for kind in (0, 1))
    if wanted.device == "cuda" and gpus < 1:
        raise UserError("compute.device: cuda was asked for, but Ray offers no GPU; use compute.device=cpu.")
    on_gpu = wanted.device != "cpu" and gpus >= 1
    most = sum(int(min(offers)) for offers in nodes) if on_gpu else cpus
    if most < 1:
        where = " beside its GPUs" if on_gpu else ""
        raise UserError(f"Ray offers no CPU for workers{where}; start it with --num-cpus of at least 1, or free some.")
    even = max(count for count in range(1, most + 1) if count == 1 or parts_evenly(batch, count))
    workers = wanted.workers or (even if on_gpu else 1)
    if workers > most:
        kind = f"{gpus:g} GPUs and {cpus:g} CPUs" if on_gpu else f"{cpus:g} CPUs"
        raise UserError(f"compute.workers: {workers} were asked for, but there are {kind}; ask for {most} at most.")
    return Workforce(workers, 1.0 if on_gpu else 0.0, most - workers if on_gpu and wanted.workers is None else 0)


def parts_evenly(batch: int, workers: int) -> bool:
    """Whether each worker has as many crops of a batch, and two at least, which its normalisation needs."""
    return batch % workers == 0 and batch >= 2 * workers
