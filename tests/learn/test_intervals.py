"""Intervals against scikit-learn's figures, resample by resample."""

from collections.abc import Callable

import numpy as np
import pytest

from looptagger.learn import intervals, metrics
from looptagger.learn.metrics import ByRole


def few_loops(seed: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """So few loops, and so few different scores, that resamples miss a role and loops tie."""
    rng = np.random.default_rng(seed)
    truth = rng.random((14, 6)) < 0.25
    return truth, np.round((truth * 0.3 + rng.random((14, 6)) * 0.7) * steps) / steps


@pytest.mark.parametrize("steps", [4, 1000])
@pytest.mark.parametrize(
    ("resampled", "figure"),
    [
        (intervals.roc_auc, metrics.roc_auc),
        (intervals.pr_auc, metrics.pr_auc),
        (
            lambda truth, scores, counts: intervals.f1(truth, scores >= 0.5, counts),
            lambda truth, scores: metrics.f1(truth, scores >= 0.5),
        ),
    ],
    ids=["roc_auc", "pr_auc", "f1"],
)
def test_every_resample_has_scikit_learns_figure(
    steps: int, resampled: intervals.Figure, figure: Callable[[np.ndarray, np.ndarray], ByRole]
) -> None:
    truth, scores = few_loops(1, steps)
    picks = np.random.default_rng(2).integers(14, size=(80, 14))
    counts = np.array([np.bincount(pick, minlength=14) for pick in picks], float)
    found = resampled(truth, scores, counts)
    wanted = np.array([list(figure(truth[pick], scores[pick]).values()) for pick in picks], float)  # None is NaN
    assert 0 < np.isnan(wanted).sum() < wanted.size / 2
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_intervals_hold_the_figure_and_narrow_with_more_loops() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for count in (60, 600):
        truth = rng.random((count, 6)) < 0.3
        scores = truth * 0.3 + rng.random((count, 6))
        found = intervals.interval(intervals.roc_auc, truth, scores)
        value = metrics.macro(metrics.roc_auc(truth, scores))
        low, high = found["macro"]
        assert low < value < high
        widths.append(found["bass"][1] - found["bass"][0])
    assert widths[1] < 0.5 * widths[0]
    assert found == intervals.interval(intervals.roc_auc, truth, scores)  # seeded


def test_loops_that_resemble_one_another_are_drawn_together() -> None:
    """Twelve copies of each loop tell no more than one of each."""
    rng = np.random.default_rng(0)
    truth = rng.random((60, 6)) < 0.3
    scores = truth * 0.3 + rng.random((60, 6))
    once = intervals.interval(intervals.roc_auc, truth, scores)
    copied = np.repeat(truth, 12, axis=0), np.repeat(scores, 12, axis=0)
    groups = np.repeat(np.arange(60), 12).tolist()
    assert intervals.interval(intervals.roc_auc, *copied, groups)["macro"] == pytest.approx(once["macro"])
    few = np.repeat(np.arange(9), 80).tolist()
    assert set(intervals.interval(intervals.roc_auc, *copied, few).values()) == {None}
    blind = intervals.interval(intervals.roc_auc, *copied)["macro"]
    assert blind[1] - blind[0] < 0.5 * (once["macro"][1] - once["macro"][0])


def test_a_role_of_few_uploaders_has_no_interval_of_its_own() -> None:
    """Of one or two who play it, however many loops they made, nothing is known of others."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 10)
    truth = rng.random((400, 6)) < 0.3
    scores = truth * 0.3 + rng.random((400, 6))
    truth[:, 5] = groups < 4
    truth[:, 4] = groups >= 4
    found = intervals.interval(intervals.roc_auc, truth, scores, groups.tolist())
    assert [role for role, ends in found.items() if ends is None] == ["fx", "voice"]
    truth[groups == 4, 5] = True
    assert intervals.interval(intervals.roc_auc, truth, scores, groups.tolist())["voice"] is not None


def test_a_role_that_cannot_be_told_has_no_interval_and_no_part_in_the_mean() -> None:
    truth, scores = few_loops(3, 1000)
    truth[:, 5] = False
    found = intervals.interval(intervals.roc_auc, truth, scores)
    assert found["voice"] is None
    without = intervals.interval(intervals.roc_auc, truth[:, :5], scores[:, :5])
    assert found == {**without, "voice": None}
    truth[:] = True
    assert set(intervals.interval(intervals.pr_auc, truth, scores).values()) == {None}
