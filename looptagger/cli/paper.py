"""The command that reproduces the paper."""

import sys
from typing import Any

import click

from looptagger import terminal
from looptagger.cli import tables
from looptagger.cli.learning import training_lines
from looptagger.cli.options import ADDRESS, EXAMPLE, settings, storage_options
from looptagger.config import PROTOCOLS
from looptagger.paper.settings import SYSTEMS, Paper


@click.command(context_settings=EXAMPLE, short_help="Reproduce the paper's tables and figures.")
@click.option("--data", required=True, metavar="DIR", help="A prepared data set.")
@click.option("-o", "--out", required=True, metavar="OUT", help="Folder or s3:// prefix for runs, tables and figures.")
@click.option("--test", metavar="DIR", help="Judge on all loops of this prepared data set, not on DATA's test part.")
@click.option(
    "--system", "systems", multiple=True, type=click.Choice(SYSTEMS, False), help="Only this one; repeatable."
)
@click.option("--protocol", "protocols", multiple=True, type=click.Choice(PROTOCOLS), help="Only this one.")
@click.option("--seed", "seeds", multiple=True, type=click.IntRange(0), help="0, 1 and 2 by default; repeatable.")
@ADDRESS
@storage_options
def paper(data: str, out: str, **options: Any) -> None:
    """Train and judge the paper's eight systems; write its tables 1 and 2 and its figures 1, 3 and 4.

    The same command goes on where it was stopped. Needs: pip install 'looptagger[paper]'.

    Example: looptagger paper --data fsld -o paper
    """
    from looptagger.cluster.paper_job import Events, PaperJob
    from looptagger.cluster.paper_job import paper as run
    from looptagger.cluster.training_job import Events as TrainEvents

    flags = {name: options.pop(name) for name in ("systems", "protocols", "seeds")}
    given = settings(Paper, options, [f"{name}=[{', '.join(map(str, of))}]" for name, of in flags.items() if of])
    with terminal.progress_view() as view:
        events = Events(
            terminal.note,
            view.of("files of loops have features"),
            lambda train: TrainEvents(terminal.note, *training_lines(view, train.epochs)),
        )
        found = run(PaperJob(data, out, given, **options), events)
    for each in found.tables:
        tables.table(each.columns, each.rows, each.title)
        terminal.out.print(f"{each.note}\n" if each.note else "", soft_wrap=True, markup=False)
    if found.not_judged:
        terminal.note(f"Not judged, as no test loop (or every one) plays it: {', '.join(found.not_judged)}.")
    terminal.note(f"Tables, figures and scores are in {out}: {', '.join(found.files)}.")
    if found.failed:
        terminal.note(f"Without {len(found.failed)} that could not be done. {' '.join(found.failed)}")
        sys.exit(1)
