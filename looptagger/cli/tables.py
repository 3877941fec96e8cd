"""What people see of data sets, training and evaluation, as tables."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from looptagger import terminal
from looptagger.learn.loops import Collection
from looptagger.roles import ROLES

if TYPE_CHECKING:
    from looptagger.learn.table import Dataset


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """Print a table: the first column on the left, figures on the right."""
    drawn = Table(*columns, box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for column in drawn.columns[1:]:
        column.justify = "right"
    for row in rows:
        drawn.add_row(*row)
    terminal.out.print(drawn)


def prepared(collection: Collection, dataset: "Dataset", where: str) -> None:
    """What each step left of a data set, its roles beside the paper's, and its splits."""
    from looptagger.learn.fsld import TABLE_1, TABLE_1_LOOPS

    left = dataset.annotated
    steps = [("annotated", "", f"{left:,}", "")]
    for reason, count in dataset.dropped.items():
        left -= 0 if reason.endswith(("annotation", "of an id")) else count  # those are no loops
        steps.append((reason, f"{count:,}", f"{left:,}", ", ".join(collection.drops.examples.get(reason, ())[:1])))
    table(("step", "dropped", "loops left", "such as"), steps)
    terminal.out.print(f"\nRule: {dataset.rule}.\n", soft_wrap=True)
    counts = {role: sum(part[role] for part in dataset.counts["paper"].values()) for role in ROLES}
    rows = [(role, f"{counts[role]:,}", f"{TABLE_1[role]:,}") for role in ROLES]
    table(("role", "loops", "the paper's Table 1"), [*rows, ("all", f"{dataset.loops:,}", f"{TABLE_1_LOOPS:,}")])
    terminal.out.print()
    parts = [(split, part, count) for split, of in dataset.counts.items() for part, count in of.items()]
    names = ("loops", *ROLES)
    table(("split", "part", *names), [(split, part, *(f"{n[name]:,}" for name in names)) for split, part, n in parts])
    terminal.out.print()
    terminal.note(f"{terminal.plural(dataset.loops, 'loop')} in {where}. Next: looptagger train {where} -o RUN")
