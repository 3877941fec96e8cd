"""How good a model is on the loops of a data set: our protocol, with intervals, and the published code's."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from looptagger.archive.storage import Folder
from looptagger.config import Protocol
from looptagger.errors import UserError
from looptagger.learn import intervals, metrics, table
from looptagger.learn.metrics import ByRole, Floats, Truth
from looptagger.learn.scoring import joined, scored
from looptagger.learn.table import Dataset
from looptagger.model.predictor import Predictor
from looptagger.roles import ROLES

Report = dict[str, Any]

PUBLISHED_ROLES = ROLES[:5]
"""The roles over which the published code averages a network's areas: voice is left out."""
Figures = dict[str, tuple[Callable[[Truth, Floats], ByRole], intervals.Figure]]
"""Figures by name, each with how it is counted over resamples."""
AREAS: Figures = {"roc_auc": (metrics.roc_auc, intervals.roc_auc), "pr_auc": (metrics.pr_auc, intervals.pr_auc)}


def scores_of(
    predictor: Predictor,
    folder: Folder,
    dataset: Dataset,
    split: str,
    part: str,
    protocol: Protocol = "ours",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Truth, Floats]:
    """Truth and a model's scores of one part of a split, in the table's order.

    Raises UserError where the part holds nothing, or audio at a rate that is not the model's.
    """
    total = dataset.size(split, part)
    if not total:
        raise UserError(f"{folder.uri}: the {part} part of the {split} split holds no loops; choose another.")
    if predictor.card.audio.sample_rate != dataset.sample_rate:
        rates = f"{dataset.sample_rate:,} Hz, the model hears {predictor.card.audio.sample_rate:,} Hz"
        raise UserError(f"{folder.uri}: holds audio at {rates}; prepare it again with --set sample_rate.")
    found, done = [], 0
    for pair in scored(table.rows(folder, dataset, split, part), predictor, protocol):
        found.append(pair)
        done += len(pair[0])
        progress(done, total)
    return joined(found)


def judged(
    predictor: Predictor,
    folder: Folder,
    dataset: Dataset,
    split: str,
    part: str,
    protocol: Protocol,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Report, list[str], Truth, Floats]:
    """The figures of a model on one part of a split, and the loops' ids, truth and scores. Raises UserError."""
    truth, scores = scores_of(predictor, folder, dataset, split, part, protocol, progress)
    makers, limits = table.makers(folder, dataset, split, part), predictor.thresholds
    about = {"model": predictor.model_id, "data": dataset.source, "digest": dataset.digest, "split": split}
    about |= {"part": part, "protocol": protocol}
    groups = list(makers.values())
    figures = published(truth, scores, groups) if protocol == "published" else ours(truth, scores, limits, groups)
    return {**about, "loops": len(truth), **figures}, list(makers), truth, scores


Groups = Sequence[Hashable] | None
"""Of each loop: loops of one group resemble one another, see learn.intervals."""


def ours(truth: Truth, scores: Floats, limits: Floats, groups: Groups = None) -> Report:
    """Six roles: ROC-AUC and PR-AUC with 95 % intervals, F1 at thresholds (6,); each role and the mean.

    Also how often the highest score is right, and how many roles the loops are said to play.
    """
    f1: Figures = {
        "f1": (
            lambda truth, scores: metrics.f1(truth, scores >= limits),
            lambda truth, scores, counts: intervals.f1(truth, scores >= limits, counts),
        )
    }
    report = _report(truth, scores, AREAS | f1, groups)
    return {**report, "first_right": metrics.first_right(truth, scores), "said": metrics.said(scores >= limits)}


def published(truth: Truth, scores: Floats, groups: Groups = None, roles: Sequence[str] = PUBLISHED_ROLES) -> Report:
    """Areas of the first `roles`, F1 loop by loop at 0.1 over all six, to stand beside the paper's Table 2."""
    report = _report(truth[:, : len(roles)], scores[:, : len(roles)], AREAS, groups)
    return {**report, "f1_samples": metrics.f1_samples(truth, scores)}


def _report(truth: Truth, scores: Floats, figures: Figures, groups: Groups) -> Report:
    roles = ROLES[: truth.shape[1]]
    report: Report = {"positives": {role: int(truth[:, i].sum()) for i, role in enumerate(roles)}}
    for name, (figure, resampled) in figures.items():
        values = figure(truth, scores)
        report[name] = {**values, "macro": metrics.macro(values)}
        report[f"{name}_interval"] = intervals.interval(resampled, truth, scores, groups)
    report["makers"] = len(set(groups)) if groups else len(truth)
    report["not_judged"] = [role for role in roles if report["roc_auc"][role] is None]
    return report
