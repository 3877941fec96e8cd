"""The paper's tables from reports, beside the paper's own figures: as rows of text, Markdown and CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from looptagger.config import PROTOCOLS, Protocol
from looptagger.learn.fsld import TABLE_1, TABLE_1_LOOPS
from looptagger.learn.intervals import LEAST_GROUPS, LEAST_PLAYING
from looptagger.learn.table import Dataset
from looptagger.paper.settings import SYSTEMS, System
from looptagger.roles import FIGURES, ROLES

TABLE_2: Final = {
    "BR-RF": (0.6201, 0.3759, 0.5538),
    "BR-SVM": (0.6248, 0.3561, 0.5836),
    "LP-RF": (0.6227, 0.3714, 0.6027),
    "LP-SVM": (0.6302, 0.3405, 0.5930),
    "RAkEL-RF": (0.6283, 0.3787, 0.5880),
    "RAkEL-SVM": (0.6325, 0.3573, 0.6026),
    "CNN": (0.8324, 0.5772, 0.7275),
    "HCNN": (0.8606, 0.5860, 0.7253),
}
"""The paper's: ROC-AUC, PR-AUC, F1."""
NONE = "–"

Reports = Mapping[tuple[System, Protocol], Mapping[str, Any]]
"""(system, protocol) -> its figures over the seeds, as `runs.over_seeds` gives them."""


@dataclass(frozen=True)
class Table:
    """A table: its title, the names of its columns, its rows, a note below."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""

    def markdown(self) -> str:
        """As Markdown, with its title as a heading."""
        lines = [f"## {self.title}", "", _line(self.columns), _line(["---"] * len(self.columns))]
        return "\n".join([*lines, *map(_line, self.rows), *(["", self.note] if self.note else []), ""])

    def csv(self) -> str:
        """As CSV, without the title."""
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows([self.columns, *self.rows])
        return file.getvalue()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table_1(dataset: Dataset) -> Table:
    """How many loops play each role, beside the paper's."""
    counts = {role: sum(part[role] for part in dataset.counts["paper"].values()) for role in ROLES}
    rows = [(role, f"{counts[role]:,}", f"{TABLE_1[role]:,}") for role in ROLES]
    rows.append(("all loops", f"{dataset.size():,}", f"{TABLE_1_LOOPS:,}"))
    return Table("Table 1: loops by role", ("role", "here", "the paper, FSLD"), rows)


def table_2(reports: Reports, is_full: bool) -> Table:
    """The eight systems: means over the roles under both protocols, beside the paper's figures."""
    columns = ["system", *(f"paper: {name}" for name in FIGURES.values())]
    columns += [f"{protocol}: {name}" for protocol in reversed(PROTOCOLS) for name in FIGURES.values()]
    rows = []
    for system in SYSTEMS:
        ours, published = (reports.get((system, protocol), {}) for protocol in PROTOCOLS)
        rows.append(
            (
                system,
                *(f"{value:.3f}" for value in TABLE_2[system]),
                *(cell(published, name) for name in FIGURES),
                *(cell(ours, name, is_around=is_full) for name in FIGURES),
            )
        )
    many = " or ".join(str(n) for n in sorted({report["seeds"] for report in reports.values()}) if n > 1)
    note = (
        "published: as the paper's code does it, 16 windows a loop, F1 loop by loop over six roles; areas of networks' "
        "scores over five roles (no voice), of classic systems' decisions over six (those of most windows; "
        "that code hears each loop once, whole), F1 of networks at 0.1; "
        "ours: six roles, every chunk of a loop, F1 at thresholds from validation"
        f"{_intervals(reports) if is_full else ''}. "
        f"{f'± is the standard deviation over {many} seeds.' if many else 'One seed a system.'}"
    )
    return Table("Table 2: the eight systems", columns, rows, note)


def _intervals(reports: Reports) -> str:
    """What the note says of intervals: there are none where too few uploaders made the test loops."""
    ours = [report["roc_auc"]["macro"] for (_, protocol), report in reports.items() if protocol == "ours"]
    if not ours:
        return ""
    if not any("interval" in mean for mean in ours):
        return f"; no intervals, as fewer than {LEAST_GROUPS} uploaders (or packs) made the test loops"
    return (
        ", 95 % intervals in brackets, the test loops of one uploader (else pack) drawn together, of several seeds the "
        f"mean of their ends (a role that fewer than {LEAST_PLAYING} of them play is in the mean, whose interval then "
        "tells little of it)"
    )


def by_role(reports: Reports, is_full: bool) -> Table:
    """ROC-AUC of each system on each role, under our protocol."""
    ours = {system: reports.get((system, "ours"), {}) for system in SYSTEMS}
    rows = [
        (system, *(cell(report, "roc_auc", role, is_full) for role in (*ROLES, "macro")))
        for system, report in ours.items()
    ]
    return Table("ROC-AUC by role, ours", ("system", *ROLES, "mean"), rows)


def differences(found: Mapping[str, tuple[float, float, float] | None]) -> Table:
    """How far ahead of each other system HCNN is, on the same test loops."""
    rows = [
        (system, NONE if gap is None else f"{gap[0]:+.3f} [{gap[1]:+.3f}, {gap[2]:+.3f}]")
        for system, gap in found.items()
    ]
    title, columns = "HCNN's mean ROC-AUC less the other system's, ours", ("HCNN and", "difference [95 %]")
    note = "Paired, the test loops of one uploader (else pack) drawn together; one seed each."
    return Table(title, columns, rows, note)


def cell(report: Mapping[str, Any], name: str, key: str = "macro", is_around: bool = False) -> str:
    """A figure with its spread over the seeds and, if wanted, its interval; or a dash."""
    found = report.get(name, {}).get(key)
    if not found or found["mean"] is None:
        return NONE
    text = f"{found['mean']:.3f}"
    text += f" ± {found['spread']:.3f}" if found["spread"] is not None else ""
    around = found.get("interval") if is_around else None
    return f"{text} [{around[0]:.3f}, {around[1]:.3f}]" if around else text


def tidy(reports: Reports) -> str:
    """Every figure as CSV, one a row, for programs."""
    rows = []
    for (system, protocol), report in reports.items():
        for i, name in enumerate(FIGURES):
            for role, found in report[name].items():
                low, high = found.get("interval", ("", ""))
                known = TABLE_2[system][i] if role == "macro" else ""
                rows.append((system, protocol, name, role, found["mean"], found["spread"], low, high, known))
    columns = ("system", "protocol", "figure", "role", "mean", "spread", "low", "high", "paper")
    return Table("", columns, rows).csv()
