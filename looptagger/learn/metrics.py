"""Truth and scores into figures: ROC-AUC, PR-AUC, F1, thresholds. Pure; scikit-learn counts.

A role with no positive (or no negative) loop has no AUC: its figure is None, and means say what they are over.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score

from looptagger.roles import ROLES

Truth = NDArray[np.bool_]
"""(n_loops, n_roles)"""
Floats = NDArray[np.floating]
"""(n_loops, n_roles), in [0, 1]"""
ByRole = dict[str, float | None]

UNDECIDED: Final = 0.5
"""The threshold of a role that the validation part cannot tell."""
LEAST_THRESHOLD: Final = 1e-4
PUBLISHED_THRESHOLD: Final = 0.1


def roc_auc(truth: Truth, scores: Floats) -> ByRole:
    """The area under the ROC curve, role by role."""
    return _by_role(truth, scores, roc_auc_score)


def pr_auc(truth: Truth, scores: Floats) -> ByRole:
    """Average precision, role by role."""
    return _by_role(truth, scores, average_precision_score)


def f1(truth: Truth, predicted: Truth) -> ByRole:
    """F1, role by role; None where no loop plays the role, or every one: over the same roles as the areas."""
    return _by_role(truth, predicted, partial(f1_score, zero_division=0.0))


def f1_samples(truth: Truth, scores: Floats) -> float:
    """F1 loop by loop, averaged over loops, at the published code's threshold."""
    return float(f1_score(truth, scores >= PUBLISHED_THRESHOLD, average="samples", zero_division=0.0))


def first_right(truth: Truth, scores: Floats) -> float:
    """The share of loops whose highest score is that of a role they play."""
    return float(truth[np.arange(len(truth)), scores.argmax(axis=1)].mean())


def said(predicted: Truth) -> dict[str, float]:
    """The share of loops by how many roles they are said to play: `0`, `1`, `2`, `3+`."""
    counts = np.minimum(predicted.sum(axis=1), 3)
    return {name: float((counts == i).mean()) for i, name in enumerate(("0", "1", "2", "3+"))}


def macro(values: ByRole) -> float | None:
    """The mean over the roles that have a figure."""
    known = [value for value in values.values() if value is not None]
    return float(np.mean(known)) if known else None


def cross_entropy(truth: Truth, scores: Floats) -> float:
    """Binary cross-entropy of scores, averaged over loops and roles."""
    sure = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(truth, np.log(sure), np.log1p(-sure))))


def best_thresholds(truth: Truth, scores: Floats, otherwise: Mapping[str, float] = {}) -> dict[str, float]:
    """The threshold of each role, from 0.0001 to 0.9999, at which F1 is highest.

    It lies halfway to the next lower score, so that a loop like the least sure one still counts. Of a role that the
    truth does not tell, it is `otherwise`'s, or 0.5.
    """
    found = {}
    for i, role in enumerate(_names(truth)):
        known = otherwise.get(role, UNDECIDED)
        found[role] = _best_threshold(truth[:, i], scores[:, i]) if is_told(truth[:, i]) else known
    return found


def _best_threshold(truth: NDArray[np.bool_], scores: Floats) -> float:
    precision, recall, at = precision_recall_curve(truth, scores.astype(np.float64))
    f = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    below = np.append(0.0, at[:-1])
    middle = np.clip((at + below) / 2, LEAST_THRESHOLD, 1 - LEAST_THRESHOLD)
    best = int(np.argmax(f[np.searchsorted(at, middle)]))
    short = float(f"{middle[best]:.4g}")
    return short if below[best] < short <= at[best] else float(middle[best])


def _by_role(truth: Truth, scores: Floats | Truth, figure: Callable[..., float]) -> ByRole:
    return {
        role: float(figure(truth[:, i], scores[:, i])) if is_told(truth[:, i]) else None
        for i, role in enumerate(_names(truth))
    }


def is_told(truth: NDArray[np.bool_]) -> bool:
    """Whether some loops play a role and others do not."""
    return bool(truth.any() and not truth.all())


def _names(truth: Truth) -> tuple[str, ...]:
    return ROLES[: truth.shape[1]]
