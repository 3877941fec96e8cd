"""A run of the comparison: one system, one protocol, one seed. Its scores are kept, and figures made of them."""

import hashlib
import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from looptagger.archive.patience import patiently
from looptagger.archive.storage import Folder
from looptagger.archive.tags import read_part, write_part
from looptagger.config import Protocol
from looptagger.errors import Unreachable, UserError
from looptagger.learn import evaluation, intervals, metrics
from looptagger.learn.evaluation import PUBLISHED_ROLES
from looptagger.learn.metrics import Floats, Truth
from looptagger.learn.table import Dataset
from looptagger.paper.settings import NETWORKS, Paper, System
from looptagger.roles import FIGURES, ROLES

SCORES = "scores"
VALIDATION, TEST = "validation", "test"
CLASSIC_VERSION = 1
"""Another number where another code would give a classic system other scores."""
HEARD_VERSION = 3
"""Another number where, by our protocol, another code would hear other chunks of a loop."""

Report = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One training of one system, and its scores on the test part.

    `trained` is a digest of all that the training depends on, `key` of all that the scores do.
    """

    system: System
    protocol: Protocol
    seed: int
    trained: str
    key: str

    @property
    def name(self) -> str:
        """The stem of its file."""
        return f"{self.system}-{self.protocol}-{self.seed}-{self.key}".lower()

    @property
    def title(self) -> str:
        """What people are told of it."""
        return f"{self.system} ({self.protocol}, seed {self.seed})"

    def stored(self, folder: Folder) -> pa.Table | None:
        """Its scores, if it has been done: `id`, `part`, `is_<role>` and the scores by role."""
        if f"{self.name}.parquet" not in folder.names(SCORES):
            return None
        return kept(folder, f"{SCORES}/{self.name}.parquet")

    def store(self, folder: Folder, scores: pa.Table) -> None:
        """Keep its scores."""
        patiently(lambda: write_part(folder, f"{SCORES}/{self.name}.parquet", scores), folder.storage)


def kept(folder: Folder, name: str) -> pa.Table:
    """A table that the comparison has stored. Raises UserError for one that is damaged."""
    try:
        return patiently(lambda: read_part(folder, name), folder.storage)
    except Unreachable:
        raise
    except UserError:
        again = "delete it, and run the same command again"
        raise UserError(f"{folder.uri}/{name}: cannot be read whole; {again}.") from None


def identity(dataset: Dataset) -> str:
    """Stands for a data set's loops and for how they are split: the same loops can be dealt out otherwise."""
    return digest(dataset.model_dump(include={"digest", "seed", "shares", "counts", "dealt"}))


def runs(
    settings: Paper, data: str, test: str, versions: Mapping[str, str], begun: Mapping[str, str] | None = None
) -> list[Run]:
    """All runs that are asked for. `data` and `test` are identities of what is learned from and of what is judged.

    `versions` are those of the libraries that the classic systems are made of, `begun` the ids of the models that
    networks begin with, by protocol.
    """
    found, begun = [], begun or {}
    for system in settings.systems:
        for protocol in settings.protocols:
            train = settings.train(system, protocol, 0)
            about: dict[str, Any] = train.recipe() | ({"begun_with": begun[protocol]} if protocol in begun else {})
            if system not in NETWORKS:
                about = {**settings.classic.model_dump(), **versions, "split": train.split, "version": CLASSIC_VERSION}
            trained = digest(data, about)
            scored = digest(trained, test, *([HEARD_VERSION] if protocol == "ours" else []))
            found += [Run(system, protocol, seed, trained, scored) for seed in settings.seeds]
    return found


def digest(*of: Any) -> str:
    """Eight characters that stand for some settings."""
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:8]


def table(ids: Sequence[str], part: str, truth: Truth, scores: Floats, **same: str) -> pa.Table:
    """Scores as a run keeps them, with further columns that are the same in all rows."""
    columns: dict[str, Any] = {"id": ids} | {name: [value] * len(ids) for name, value in {**same, "part": part}.items()}
    columns |= {f"is_{role}": truth[:, i] for i, role in enumerate(ROLES)}
    return pa.table(columns | {role: scores[:, i].astype(np.float32) for i, role in enumerate(ROLES)})


def arrays(scores: pa.Table, part: str) -> tuple[Truth, Floats]:
    """Truth and scores (n, 6) of a part."""
    some = scores.filter(pc.equal(scores.column("part"), part))
    truth = np.column_stack([some.column(f"is_{role}").to_numpy(zero_copy_only=False) for role in ROLES])
    return truth.astype(bool), np.column_stack([some.column(role).to_numpy() for role in ROLES])


def thresholds(scores: pa.Table) -> Floats:
    """The thresholds (6,) at which F1 is highest on the validation part."""
    return np.array(list(metrics.best_thresholds(*arrays(scores, VALIDATION)).values()), np.float32)


Makers = Mapping[str, Hashable]
"""Who made each loop, by its id; one that is not there stands for itself."""


def report(scores: pa.Table, system: System, protocol: Protocol, makers: Makers) -> Report:
    """A run's figures on the test part, as `looptagger evaluate` gives them; of classic ones by the published code, six
    roles are averaged.
    """
    truth, found = arrays(scores, TEST)
    groups = _groups(scores, makers)
    if protocol == "published":
        return evaluation.published(truth, found, groups, PUBLISHED_ROLES if system in NETWORKS else ROLES)
    return evaluation.ours(truth, found, thresholds(scores), groups)


def _groups(scores: pa.Table, makers: Makers) -> list[Hashable]:
    ids = scores.filter(pc.equal(scores.column("part"), TEST)).column("id").to_pylist()
    return [makers.get(loop, loop) for loop in ids]


def over_seeds(reports: Iterable[Report]) -> Report:
    """Each figure's mean over the seeds, its standard deviation, and the mean of the intervals' ends."""
    several = list(reports)
    names = [name for name in FIGURES if name in several[0]]
    found: Report = {"seeds": len(several), "positives": several[0]["positives"]}
    for name in names:
        keys = several[0][name]
        found[name] = {key: _summary([each[name][key] for each in several]) for key in keys}
        for key in keys:
            ends = [each[f"{name}_interval"][key] for each in several if each[f"{name}_interval"][key]]
            if ends:
                found[name][key]["interval"] = np.mean(ends, axis=0).tolist()
    if "f1_samples" in several[0]:
        found["f1"] = {"macro": _summary([each["f1_samples"] for each in several])}
    return found


def _summary(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    if not known:
        return {"mean": None, "spread": None}
    return {"mean": float(np.mean(known)), "spread": float(np.std(known, ddof=1)) if len(known) > 1 else None}


def difference(scores: pa.Table, other: pa.Table, makers: Makers) -> tuple[float, float, float] | None:
    """How much better the first is: the difference of mean ROC-AUC on the same test loops, and its 95 % interval.

    Paired: both are judged on each resample. None where no role can be judged, or the loops are others.
    """
    scores, other = scores.sort_by("id"), other.sort_by("id")
    if scores.column("id") != other.column("id"):
        return None
    truth, ours = arrays(scores, TEST)
    _, theirs = arrays(other, TEST)

    def gap(truth: Truth, both: Floats, counts: intervals.Counts) -> Floats:
        one, two = both[:, : len(ROLES)], both[:, len(ROLES) :]
        return intervals.roc_auc(truth, one, counts) - intervals.roc_auc(truth, two, counts)

    both = np.concatenate([ours, theirs], axis=1)
    ends = intervals.interval(gap, truth, both, _groups(scores, makers))["macro"]
    middle = np.nanmean(gap(truth, both, np.ones((1, len(truth))))) if ends else None
    return None if middle is None or ends is None else (float(middle), *ends)
