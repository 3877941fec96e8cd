"""95 % intervals of figures, over bootstrap resamples of the loops: scikit-learn's figures, of all resamples at once.

One by one, scikit-learn takes a millisecond a role and resample: 16 to 400 times as long. Loops of one uploader
resemble one another, so uploaders are drawn, each with all of its loops; loops drawn as if they knew nothing of each
other give intervals that are too narrow (Davison and Hinkley 1997, "Bootstrap Methods", 3.8).
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from looptagger.learn.metrics import Floats, Truth
from looptagger.roles import ROLES

Counts = NDArray[np.floating]
"""(n_resamples, n_loops): how often each loop is in each resample."""
Figure = Callable[[Truth, Floats, Counts], Floats]
"""Truth and scores of loops by role -> (n_resamples, n_roles), NaN where a resample cannot tell a role."""

RESAMPLES = 500
CONFIDENCE = 0.95
LEAST_GROUPS, LEAST_PLAYING = 10, 5
"""Groups without which there are no intervals, and groups that must play a role, and that must not, for it to have
one: of two that play it, resampled with what they happen to sound like, it holds the true figure half of the time."""
AT_ONCE = 50
"""Resamples counted together: an array of 40 MB for a hundred thousand loops."""


def roc_auc(truth: Truth, scores: Floats, counts: Counts) -> Floats:
    """The area under the ROC curve: the share of pairs in the right order, those of equal scores counting half."""

    def area(positives: Counts, negatives: Counts) -> Floats:
        below = np.cumsum(negatives, axis=1) - negatives / 2
        return _ratio((below * positives).sum(axis=1), positives.sum(axis=1) * negatives.sum(axis=1))

    return _by_role(area, truth, scores, counts)


def pr_auc(truth: Truth, scores: Floats, counts: Counts) -> Floats:
    """Average precision: the precision at each score, weighted by the recall gained there."""

    def area(positives: Counts, negatives: Counts) -> Floats:
        right = np.cumsum(positives[:, ::-1], axis=1)
        said = right + np.cumsum(negatives[:, ::-1], axis=1)
        found = (_ratio(right, said, 0.0) * positives[:, ::-1]).sum(axis=1)
        return np.where(negatives.any(axis=1), _ratio(found, positives.sum(axis=1)), np.nan)

    return _by_role(area, truth, scores, counts)


def f1(truth: Truth, predicted: Truth, counts: Counts) -> Floats:
    """F1 of what is predicted."""
    positives, total = counts @ truth, counts.sum(axis=1, keepdims=True)
    found = _ratio(2 * (counts @ (truth & predicted)), positives + counts @ predicted)
    return np.where((positives > 0) & (positives < total), found, np.nan)


def interval(
    figure: Figure, truth: Truth, scores: Floats, groups: Sequence[Hashable] | None = None
) -> dict[str, tuple[float, float] | None]:
    """The 95 % interval of each role's figure, and of the mean under `macro`; loops of one group are drawn together.

    A resample that cannot tell a role is left out of that role's interval, and out of the mean's if the loops can. So
    few groups that they tell nothing of others have no intervals, nor has a role that so few play (LEAST_PLAYING);
    the mean has it in it all the same.
    """
    numbers: dict[Hashable, int] = {}
    member = np.array([numbers.setdefault(group, len(numbers)) for group in groups or range(len(truth))])
    size = len(numbers)
    if size < LEAST_GROUPS:
        return dict.fromkeys([*ROLES[: truth.shape[1]], "macro"])
    rng, rounds = np.random.default_rng(0), range(RESAMPLES // AT_ONCE)
    values = np.concatenate([figure(truth, scores, _drawn(rng, AT_ONCE, size)[:, member]) for _ in rounds])
    judged = ~np.isnan(figure(truth, scores, np.ones((1, len(truth))))[0])
    told = [min(len(set(member[plays])), len(set(member[~plays]))) >= LEAST_PLAYING for plays in truth.T.astype(bool)]
    ends = {role: _middle(values[:, i]) if told[i] else None for i, role in enumerate(ROLES[: values.shape[1]])}
    return ends | {"macro": _middle(values[:, judged].mean(axis=1)) if any(ends.values()) else None}


def _drawn(rng: np.random.Generator, resamples: int, size: int) -> Floats:
    """How often each of `size` groups is drawn in some resamples: (resamples, size)."""
    return np.array([np.bincount(rng.integers(size, size=size), minlength=size) for _ in range(resamples)], float)


def _middle(values: Floats) -> tuple[float, float] | None:
    known, tail = values[~np.isnan(values)], 50 * (1 - CONFIDENCE)
    return (float(np.percentile(known, tail)), float(np.percentile(known, 100 - tail))) if len(known) else None


def _by_role(area: Callable[[Counts, Counts], Floats], truth: Truth, scores: Floats, counts: Counts) -> Floats:
    """An area, role by role, of the positives and the negatives at each score that there is, from the lowest up."""
    found = []
    for role in range(truth.shape[1]):
        order = np.argsort(scores[:, role])
        firsts = np.flatnonzero(np.diff(scores[order, role], prepend=-np.inf))
        each, is_played = counts[:, order], truth[order, role]
        played, others = (np.add.reduceat(each * some, firsts, axis=1) for some in (is_played, ~is_played))
        found.append(area(played, others))
    return np.stack(found, axis=1)


def _ratio(over: Floats, under: Floats, otherwise: float = np.nan) -> Floats:
    found: Floats = np.full(np.shape(over), otherwise)
    return np.divide(over, under, out=found, where=under > 0)
