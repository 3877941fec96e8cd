import pytest

from looptagger.cluster.plan import CORE, READER, plan, readers
from looptagger.config import Compute
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


def test_readers_fit_beside_workers_and_do_not_swamp_a_large_machine() -> None:
    assert CORE + READER == 1.0
    assert [readers(cpus) for cpus in (1, 2, 16, 96)] == [1, 1, 4, 24]
