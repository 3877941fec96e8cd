from collections.abc import Sequence
from itertools import pairwise

import pytest

from looptagger.archive.manifest import Shard
from looptagger.archive.output import Work
from looptagger.cluster.plan import PIECE, plan, with_small_ends, workforce
from looptagger.config import Compute, Workers
from looptagger.errors import UserError


def test_without_gpus_every_core_decodes_and_predicts() -> None:
    assert plan(8, 0, Compute()).predictors == 0
    assert str(plan(8, 0, Compute())) == "8 CPU workers that decode and predict"
    assert plan(8, 2, Compute(device="cpu")).predictors == 0


def test_gpus_are_shared_out() -> None:
    assert plan(8, 2, Compute()).predictors == 2
    assert plan(8, 1, Compute(gpus_per_predictor=0.1)).predictors == 10
    assert plan(8, 4, Compute(gpus_per_predictor=0.3)).predictors == 12, "three a card"
    assert plan(8, 2, Compute(gpus_per_predictor=0.6)).predictors == 2
    assert plan(8, 0.5, Compute(gpus_per_predictor=0.25)).predictors == 2
    assert str(plan(8, 1, Compute())) == "8 CPU decoders feeding 1 GPU predictors"


def test_what_could_only_wait_for_ever_is_refused() -> None:
    with pytest.raises(UserError, match="no CPU"):
        plan(0, 4, Compute())
    with pytest.raises(UserError, match="offers 0 GPUs where a predictor needs 1"):
        plan(8, 0, Compute(device="cuda"))
    with pytest.raises(UserError, match="int8 is for CPUs"):
        plan(8, 1, Compute(precision="int8"))
    assert plan(8, 1, Compute(precision="int8", device="cpu")).predictors == 0


def test_training_takes_a_gpu_and_a_cpu_of_one_node_for_each_worker() -> None:
    some = [(0.0, 0.0), (16.0, 0.0), (8.0, 4.0), (1.0, 2.0)]  # a head, a decoder, two machines with cards
    assert str(workforce(some, Workers(), 60)) == "5 GPU workers"
    assert workforce(some, Workers(device="cpu"), 64).workers == 1
    assert workforce(some, Workers(device="cpu", workers=25), 64).resources == {"CPU": 1}
    with pytest.raises(UserError, match=r"6 were asked for, but there are 6 GPUs and 25 CPUs; ask for 5 at most"):
        workforce(some, Workers(workers=6), 60)
    with pytest.raises(UserError, match="no CPU for workers beside its GPUs"):
        workforce([(16, 0), (0, 4)], Workers(), 64)
    with pytest.raises(UserError, match="no GPU"):
        workforce([(16, 0)], Workers(device="cuda"), 64)


@pytest.mark.parametrize(
    ("gpus", "batch", "workers"), [(1, 64, 1), (3, 64, 2), (7, 64, 4), (8, 64, 8), (5, 16, 4), (64, 64, 32), (6, 7, 1)]
)
def test_training_takes_as_many_gpus_as_divide_a_batch(gpus: int, batch: int, workers: int) -> None:
    force = workforce([(16, gpus)] if gpus < 16 else [(16, 16)] * (gpus // 16), Workers(), batch)
    assert (force.workers, force.idle) == (workers, gpus - workers)
    assert ("more would not divide the batch" in str(force)) == (gpus > workers)
    assert workforce([(16, 8)], Workers(workers=3), batch).workers == 3, "which is refused later, in a sentence"


def archive(shards: int, rows: int, offset: int = 0) -> list[Work]:
    return [Work(f"part-{n}", Shard("f", n * rows, (n + 1) * rows, n * rows), offset) for n in range(shards)]


def rows(works: Sequence[Work]) -> list[tuple[str, int, int, int]]:
    """What becomes of each row: its part, its place there, in the manifest's file, and in the whole manifest."""
    each = [(work, row) for work in works for row in range(work.shard.rows)]
    return [(work.part, work.offset + row, work.shard.start + row, work.shard.first + row) for work, row in each]


@pytest.mark.parametrize(
    ("shards", "each", "workers"), [(9, 1000, 2), (3, 1024, 64), (40, 8, 2), (1, 33, 1), (9, 1, 2), (0, 8, 2)]
)
def test_pieces_are_the_same_rows_and_go_where_the_shards_would(shards: int, each: int, workers: int) -> None:
    works = archive(shards, each, offset=7)
    assert rows(list(with_small_ends(works, workers))) == rows(works)


def test_a_job_begins_and_ends_with_small_pieces_and_has_whole_shards_between() -> None:
    sizes = [work.rows for work in with_small_ends(archive(20, 1024), 4)]
    assert sizes[:32] == [PIECE] * 32, "one shard, on which all four begin"
    assert sizes[32:42] == [1024] * 10
    assert all(after <= before + 1 for before, after in pairwise(sizes[42:]))
    assert sizes[-1] == PIECE
    assert len(sizes) < 120


def test_small_shards_stay_whole_and_rows_picked_for_another_try_are_divided() -> None:
    small = archive(100, PIECE)
    assert list(with_small_ends(small, 8)) == small
    picked = Work("part-0", Shard("f", 0, 1000, 0), 24, tuple(range(0, 1000, 2)))
    pieces = list(with_small_ends([picked], 8))
    assert {(work.part, work.shard, work.offset) for work in pieces} == {(picked.part, picked.shard, picked.offset)}
    assert sum((work.only or () for work in pieces), ()) == picked.only
    assert {work.rows for work in pieces} == {PIECE - 1, PIECE}
