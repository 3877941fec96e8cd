"""Figures against what can be counted by hand."""

import numpy as np
import pytest

from looptagger.learn import metrics
from looptagger.learn.scoring import published_windows
from looptagger.roles import ROLES


def one_role(truth: list[int], scores: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """The same role six times."""
    return np.array(truth, bool)[:, None].repeat(6, 1), np.array(scores)[:, None].repeat(6, 1)


def test_areas_are_those_counted_by_hand() -> None:
    truth, scores = one_role([1, 0, 1, 0, 0], [0.9, 0.8, 0.7, 0.2, 0.1])
    assert metrics.roc_auc(truth, scores)["bass"] == pytest.approx(5 / 6)  # of 6 pairs, one is the wrong way round
    assert metrics.pr_auc(truth, scores)["bass"] == pytest.approx((1 + 2 / 3) / 2)


def test_roles_that_cannot_be_judged_are_named_not_averaged() -> None:
    truth = np.zeros((4, 6), bool)
    truth[:2, 0] = True
    truth[:, 1] = True
    scores = np.linspace(1, 0, 4)[:, None].repeat(6, 1)
    found = metrics.roc_auc(truth, scores)
    assert found == {"percussion": 1.0, **dict.fromkeys(ROLES[1:])}
    assert metrics.macro(found) == 1.0
    assert metrics.macro(dict.fromkeys(ROLES)) is None
    assert metrics.f1(truth, scores > 0.5)["voice"] is None
    assert metrics.f1(np.ones_like(truth), scores > 0.5)["voice"] is None, "over the same roles as the areas"


def test_thresholds_part_what_can_be_parted() -> None:
    truth, scores = one_role([1, 1, 0, 0], [0.3, 0.2, 0.1, 0.05])
    found = metrics.best_thresholds(truth, scores)
    assert found["fx"] == pytest.approx(0.15)
    assert metrics.f1(truth, scores >= 0.15)["fx"] == 1.0
    close, nearly = one_role([1, 0], [0.50001, 0.50000])
    found = metrics.best_thresholds(close, nearly)["fx"]
    assert metrics.f1(close, nearly >= found)["fx"] == 1.0
    truth[:] = False
    assert set(metrics.best_thresholds(truth, scores).values()) == {0.5}


def test_thresholds_stay_between_nothing_and_everything() -> None:
    truth, scores = one_role([1, 0], [1.0, 1.0])
    assert metrics.best_thresholds(truth, scores)["bass"] == 0.5
    truth, scores = one_role([1, 0, 0], [0.0001, 0.00005, 0.0])
    assert metrics.best_thresholds(truth, scores)["bass"] == 0.0001


@pytest.mark.parametrize(
    ("on", "levels", "best"),
    [
        ([1, 1, 1, 0, 0, 0, 0, 0], [0.9, 5e-5, 5e-5, 2e-4, 3e-4, 1e-5, 1e-5, 1e-5], 1 / 2),
        ([1] * 6 + [0] * 6, [*[0.99999] * 4, 0.5, 0.4, 0.99995, 0.99994, 0.99993, 0.99992, 0.3, 0.2], 3 / 4),
    ],
)
def test_where_the_best_lies_outside_the_next_best_inside_is_taken(
    on: list[int], levels: list[float], best: float
) -> None:
    truth, scores = one_role(on, levels)
    at = metrics.best_thresholds(truth, scores)["bass"]
    assert metrics.f1(truth, scores >= at)["bass"] == pytest.approx(best)


def test_a_role_that_nothing_tells_keeps_its_threshold() -> None:
    truth, scores = one_role([1, 0], [0.9, 0.1])
    told = [role for i, role in enumerate(ROLES) if metrics.is_told(truth[:, i])]
    known = dict.fromkeys(ROLES, 0.3)
    found = metrics.best_thresholds(truth, scores, known)
    assert {role: found[role] for role in ROLES if role not in told} == {
        role: 0.3 for role in ROLES if role not in told
    }
    assert all(found[role] != 0.3 for role in told)


@pytest.mark.parametrize(
    ("on", "levels"),
    [
        ([1, 1, 1, 0, 0], [0.006, 0.007, 0.009, 0.0001, 0.0001]),  # a rare role's
        ([1, 1, 0, 0], [0.9992, 0.995, 0.9945, 0.991]),  # a network that is sure of all
        ([1, 1, 1, 1, 0, 0, 0, 0], [0.3, 0.008, 0.007, 0.0065, 0.006, 0.004, 0.002, 0.001]),
    ],
)
def test_the_threshold_is_where_f1_is_highest(on: list[int], levels: list[float]) -> None:
    truth, scores = one_role(on, levels)
    at = metrics.best_thresholds(truth, scores)["bass"]
    assert metrics.f1(truth, scores >= at)["bass"] == 1.0


def test_the_published_f1_is_loop_by_loop() -> None:
    truth = np.array([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]], bool)
    scores = np.array([[0.9, 0.2, 0, 0, 0], [0.9, 0.05, 0, 0, 0]])
    assert metrics.f1_samples(truth, scores) == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_cross_entropy_of_sure_and_unsure_scores() -> None:
    truth, scores = one_role([1, 0], [0.5, 0.5])
    assert metrics.cross_entropy(truth, scores) == pytest.approx(np.log(2))
    assert metrics.cross_entropy(truth, truth.astype(float)) == pytest.approx(0, abs=1e-6)


def test_published_windows_never_reach_the_end_and_pad_short_loops() -> None:
    waveform = np.arange(1, 4001, dtype=np.int16)
    found = published_windows(waveform, 1000, 0)
    assert found.shape == (16, 1000)
    assert found[:, 0].tolist() == [1 + i * (3000 // 16) for i in range(16)]
    assert found.max() < 4000
    short = published_windows(waveform[:10], 1000, 3)
    assert (np.count_nonzero(short, axis=1) == 10).all()
    assert np.array_equal(short, published_windows(waveform[:10], 1000, 3))


def test_first_roles_and_how_many_are_said() -> None:
    truth = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1], [1, 1, 1]], bool)
    scores = np.array([[0.9, 0.1, 0.2], [0.6, 0.1, 0.5], [0.1, 0.1, 0.2], [0.6, 0.7, 0.8]])
    assert metrics.first_right(truth, scores) == 0.75
    assert metrics.said(scores >= 0.5) == {"0": 0.25, "1": 0.25, "2": 0.25, "3+": 0.25}
