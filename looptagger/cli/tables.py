"""What people see of data sets, training and evaluation, as tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from looptagger import terminal
from looptagger.learn.loops import Collection
from looptagger.roles import FIGURES, ROLES

if TYPE_CHECKING:
    from looptagger.learn.table import Dataset


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """Print a table: the first column on the left, figures on the right."""
    drawn = Table(*columns, box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for column in drawn.columns[1:]:
        column.justify = "right"
    for row in rows:
        drawn.add_row(*map(terminal.plain, row))
    terminal.out.print(drawn)


def prepared(collection: Collection, dataset: "Dataset", where: str) -> None:
    """What each step left of a data set, its roles beside the paper's, and its splits."""
    from looptagger.paper.tables import table_1

    left = dataset.annotated
    steps = [("annotated", "", f"{left:,}", "")]
    for reason, count in dataset.dropped.items():
        left -= 0 if reason.endswith(("annotation", "of an id")) else count  # those are no loops
        steps.append((reason, f"{count:,}", f"{left:,}", collection.drops.examples.get(reason, "")))
    table(("step", "dropped", "loops left", "such as"), steps)
    terminal.out.print(f"\nRule: {dataset.rule}.\n", soft_wrap=True)
    one = table_1(dataset)
    table(one.columns, one.rows, one.title)
    terminal.out.print()
    parts = [(split, part, count) for split, of in dataset.counts.items() for part, count in of.items()]
    names = ("loops", *ROLES)
    table(("split", "part", *names), [(split, part, *(f"{n[name]:,}" for name in names)) for split, part, n in parts])
    terminal.out.print()
    if any(dataset.twins.values()):
        shared = ", ".join(f"{split} {count:,}" for split, count in dataset.twins.items())
        terminal.note(
            f"Loops whose very audio is in another part, too: {shared}. Drop one of each two for honest figures."
        )
    alone = sum(not (loop.uploader or loop.pack or loop.part) for loop in collection.loops)
    if alone:
        terminal.note(
            f"{alone:,} of {len(collection.loops):,} loops name no uploader and no pack: the grouped split takes each "
            "for a maker's only one. Name them, for honest figures."
        )
    _dealt(collection, dataset)
    terminal.note(f"{terminal.plural(dataset.size(), 'loop')} in {where}. Next: looptagger train {where} -o RUN")


def _dealt(collection: Collection, dataset: "Dataset") -> None:
    """What is unfortunate about how the loops were dealt out."""
    from looptagger.learn.intervals import LEAST_PLAYING
    from looptagger.learn.splits import PARTS, carried

    followed, torn = carried(collection.loops)
    if followed or torn:
        terminal.note(
            f"As loops came with parts, {terminal.plural(followed, 'other loop')} followed their uploaders' out of "
            f"training in the grouped split, and {terminal.plural(torn, 'uploader')} are on two sides of it."
        )
    held_out = {part: dataset.counts["grouped"][part] for part in PARTS[1:]}
    few = [role for role in ROLES if any(n["loops"] and 0 < n[role] < LEAST_PLAYING for n in held_out.values())]
    if few:
        terminal.note(
            f"Under {LEAST_PLAYING} loops of a held-out part play {', '.join(few)}: figures and thresholds of so few "
            "say little. More loops help, or larger shares for those parts (--set shares)."
        )


def epoch_line(row: Mapping[str, Any], epochs: int) -> str:
    """What an epoch brought, in one line."""
    auc, pr = (f"{row[key]:.3f}" if row[key] is not None else "-" for key in ("roc_auc", "pr_auc"))
    losses = f"loss {row['train_loss']:.3f}, validation {row['loss']:.3f}"
    head = f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  {losses}  ROC-AUC {auc}  PR-AUC {pr}"
    speed = f"{row['crops_per_s']:,.0f} crops/s, {row['seconds']:,.1f} s"
    return f"{head}  {speed}{'  best so far' if row['best'] else ''}"


def trained(log: Sequence[Mapping[str, Any]], run: str, data: str) -> None:
    """Where a training ended, and what to do with it."""
    best = max((row for row in log if row["best"]), key=lambda row: row["epoch"], default=None)
    if best:
        _best(best, len(log))
    else:
        terminal.note(
            f"{len(log)} epochs, none better than the model that training began with: its weights are kept, with "
            "thresholds chosen on this validation part."
        )
    terminal.note(f"Model, log and curves are in {run}. Look at {run}/curves.png, or: tensorboard --logdir {run}")
    terminal.note(f"Test: looptagger evaluate {run} --data {data}    Tag: looptagger tag SOURCE -o OUT --model {run}")


def _best(best: Mapping[str, Any], epochs: int) -> None:
    areas = {role: best[f"roc_auc_{role}"] for role in ROLES}
    known = ", ".join(f"{role} {value:.3f}" for role, value in areas.items() if value is not None)
    untold = [role for role, value in areas.items() if value is None]
    terminal.note(f"{epochs} epochs; the best is {best['epoch']}: validation ROC-AUC {best['roc_auc']:.3f} ({known}).")
    not_judged(untold, "no loop of the validation part")


def not_judged(roles: Sequence[str], who: str) -> None:
    """Roles without figures, where there are any, as `who` plays them."""
    if roles:
        terminal.note(f"Not judged, as {who} (or every one) plays it: {', '.join(roles)}.")


def evaluated(report: Mapping[str, Any], unfair: Sequence[str]) -> None:
    """A model's figures, role by role and as the mean over the roles that can be judged."""
    from looptagger.learn.intervals import LEAST_GROUPS

    where = f"the {report['part']} part of the {report['split']} split of {report['data']}"
    what = f"{report['model']} on {terminal.plural(report['loops'], 'loop')}, {where}"
    terminal.out.print()
    terminal.out.print(terminal.plain(what), soft_wrap=True)
    names = [name for name in FIGURES if name in report]
    rows = [
        (role, f"{count:,}", *(_with_interval(report, name, role) for name in names))
        for role, count in report["positives"].items()
    ]
    judged = len(rows) - len(report["not_judged"])
    last = (f"mean of {judged} roles", "", *(_with_interval(report, name, "macro") for name in names))
    table(("role", "loops", *(f"{FIGURES[name]} [95 %]" for name in names)), [*rows, last])
    if "f1_samples" in report:
        terminal.out.print(f"F1, loop by loop, at a threshold of 0.1: {report['f1_samples']:.3f}")
    if "said" in report:
        said = ", ".join(f"{name} ({share:.0%})" for name, share in report["said"].items())
        terminal.out.print(
            f"The highest score is right for {report['first_right']:.1%} of the loops. Roles per loop: {said}.",
            soft_wrap=True,
        )
    not_judged(report["not_judged"], "none of the loops")
    if report["makers"] < LEAST_GROUPS:
        few = f"the loops are of {terminal.plural(report['makers'], 'uploader')}, packs or single ones"
        terminal.note(f"No intervals: {few}; fewer than {LEAST_GROUPS} tell nothing of others.")
    for each in unfair:
        terminal.note(each)


def _with_interval(report: Mapping[str, Any], name: str, role: str) -> str:
    value, around = report[name][role], report[f"{name}_interval"][role]
    if value is None:
        return "-"
    return f"{value:.3f}" if around is None else f"{value:.3f} [{around[0]:.3f}, {around[1]:.3f}]"


def compared(reports: Sequence[Mapping[str, Any]]) -> None:
    """The means of several models, one a line."""
    names = [name for name in FIGURES if name in reports[0]]
    rows = [
        (report["model"], report["split"], *(_with_interval(report, name, "macro") for name in names))
        for report in reports
    ]
    terminal.out.print()
    table(("model", "split", *(f"{FIGURES[name]} [95 %]" for name in names)), rows)
