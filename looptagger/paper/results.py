"""All that there is of the comparison, written as the paper shows it: tables, and figures 1, 3 and 4."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from looptagger.archive.storage import Folder
from looptagger.config import Audio, Protocol
from looptagger.learn import table
from looptagger.learn.table import Dataset
from looptagger.paper import figures, runs, tables
from looptagger.paper.figures import Example, Guess
from looptagger.paper.runs import TEST, Makers, Run
from looptagger.paper.settings import SYSTEMS, System
from looptagger.paper.tables import Table
from looptagger.roles import ROLES

Scores = Mapping[tuple[System, Protocol], Sequence[tuple[Run, pa.Table]]]
"""(system, protocol) -> its runs and their scores."""


@dataclass(frozen=True)
class Results:
    """What was written: the tables, the names of all files, roles that no test loop, or every one, plays.

    `failed`: why runs that were asked for are not in them.
    """

    tables: Sequence[Table]
    files: Sequence[str]
    not_judged: Sequence[str]
    failed: Sequence[str] = ()


def write(
    all_runs: Sequence[Run], out: Folder, data: Folder, dataset: Dataset, other: tuple[Folder, Dataset] | None
) -> Results:
    """Tables and figures of the runs whose scores are there; judged is the data set's own test part, or another set."""
    test, judged = other or (data, dataset)
    scores, makers = _stored(all_runs, out), table.makers(test, judged, "paper", "all")
    reports = {
        key: runs.over_seeds(runs.report(each, run.system, run.protocol, makers) for run, each in found)
        for key, found in scores.items()
    }
    gaps = _gaps(scores, makers)
    one, last = tables.table_1(dataset), [tables.differences(gaps)] if gaps else []
    full = [one, tables.table_2(reports, True), tables.by_role(reports, True), *last]
    about = {f"{system}, {protocol}": report for (system, protocol), report in reports.items()}
    part = "its test part" if other is None else f"{judged.source}, all of it"
    head = f"Learned from {dataset.source}, judged on {part}.\n"
    whose = {"data": dataset.digest, "judged": judged.digest}
    files: dict[str, bytes] = {
        "table1.csv": one.csv().encode(),
        "table2.csv": tables.tidy(reports).encode(),
        "tables.md": "\n".join([head, *(each.markdown() for each in full)]).encode(),
        "results.json": json.dumps({**whose, "systems": about, "hcnn_ahead": gaps}, indent=1).encode(),
        **_figures(scores, data, dataset),
    }
    for name, content in files.items():
        out.write(name, content)
    shown = [one, tables.table_2(reports, False), tables.by_role(reports, False), *last]
    return Results(shown, sorted(files), _untold([report["roc_auc"] for report in reports.values()]))


def _untold(areas: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Roles that some report should tell and cannot: the protocols' test parts are not the same."""
    return [role for role in ROLES if any(role in each and each[role]["mean"] is None for each in areas)]


def _stored(all_runs: Sequence[Run], out: Folder) -> Scores:
    found: dict[tuple[System, Protocol], list[tuple[Run, pa.Table]]] = {}
    for run in all_runs:
        scores = run.stored(out)
        if scores is not None:
            found.setdefault((run.system, run.protocol), []).append((run, scores))
    return found


def _gaps(scores: Scores, makers: Makers) -> dict[str, tuple[float, float, float] | None]:
    """How far HCNN is ahead of each other system that there is, ours, by the first seed of each."""
    best = scores.get(("HCNN", "ours"))
    if not best:
        return {}
    others = [system for system in SYSTEMS[:-1] if (system, "ours") in scores]
    return {system: runs.difference(best[0][1], scores[system, "ours"][0][1], makers) for system in others}


def _figures(scores: Scores, data: Folder, dataset: Dataset) -> dict[str, bytes]:
    """Figure 1 of the data; 3 and 4 of the last system of Table 2 that there is under our protocol."""
    drawn = {"figure1": figures.spectrograms(_examples(data, dataset), Audio(sample_rate=dataset.sample_rate))}
    shown = [system for system in SYSTEMS if (system, "ours") in scores]
    if shown:
        found = scores[shown[-1], "ours"][0][1]
        truth, guessed = runs.arrays(found, TEST)
        limits = runs.thresholds(found)
        drawn["figure3"] = figures.together(truth, guessed >= limits, shown[-1])
        ids = found.column("id").to_pylist()[-len(truth) :]
        picked = {
            role: tuple(Guess(ids[i], guessed[i], truth[i]) for i in pair)
            for role, pair in figures.chosen(truth, guessed).items()
        }
        drawn["figure4"] = figures.predictions(picked, limits, shown[-1])
    return {
        f"{name}.{kind}": content for name, each in drawn.items() for kind, content in figures.pictures(each).items()
    }


def _examples(data: Folder, dataset: Dataset) -> dict[str, list[Example]]:
    """The first loops of the table that play one role alone."""
    found: dict[str, list[Example]] = {role: [] for role in ROLES}
    for rows in table.rows(data, dataset, "paper", "all"):
        alone = table.truth(rows)
        waveforms, ids = table.waveforms(rows), rows.column("id").to_pylist()
        for i in np.flatnonzero(alone.sum(axis=1) == 1):
            shown = found[ROLES[int(alone[i].argmax())]]
            if len(shown) < figures.PER_ROLE:
                shown.append(Example(ids[i], waveforms[i].copy()))
        if all(len(shown) == figures.PER_ROLE for shown in found.values()):
            break
    return found
