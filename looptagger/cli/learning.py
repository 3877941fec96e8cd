"""The commands around training: prepare, train, evaluate, and paper, which does it all."""

import json
import sys
from collections.abc import Callable
from typing import Any, Final

import click
import pyarrow as pa

from looptagger import config, terminal
from looptagger.archive.storage import Folder, file_at
from looptagger.cli import tables
from looptagger.cli.options import ADDRESS, refuse_idle, settings, storage_options
from looptagger.errors import UserError
from looptagger.learn.splits import PARTS
from looptagger.model import checkpoint
from looptagger.paper.settings import SYSTEMS, Paper


@click.command(short_help="Make a training table.")
@click.argument("source")
@click.option("-o", "--out", required=True, metavar="DIR", help="Folder or s3:// prefix for the training table.")
@click.option("--labels", metavar="FILE", help="A labels file: CSV or TSV with path, roles; by default SOURCE's own.")
@click.option("--merge", type=click.Choice(["union", "intersection"]), help="Roles that any, or all, annotators set.")
@click.option("--licence", metavar="NAMES", help="Keep only these licence families, e.g. cc0,by.")
@click.option("--seed", type=click.IntRange(0), help="Of the splits; 0 by default.")
@click.option("--overwrite", is_flag=True, help="Replace the data set in DIR.")
@ADDRESS
@storage_options
def prepare(source: str, out: str, merge: str | None, licence: str | None, seed: int | None, **options: Any) -> None:
    """Make a training table of FSLD, or of any folder of loops with a labels file.

    Example: looptagger prepare FSL10K -o fsld
    """
    from looptagger.cluster.preparing import PrepareJob
    from looptagger.cluster.preparing import prepare as run

    flags = {"merge": merge, "licences": licence and f"[{licence}]", "seed": seed}
    given = settings(config.Prepare, options, [f"{key}={value}" for key, value in flags.items() if value is not None])
    with terminal.progress_view() as view:
        job = PrepareJob(source, out, prepare=given, **options)
        collection, dataset = run(job, terminal.note, view.of("loops decoded"))
    tables.prepared(collection, dataset, out)


@click.command(short_help="Train a model.")
@click.argument("data", metavar="DIR")
@click.option("-o", "--out", required=True, metavar="RUN", help="Folder or s3:// prefix of the run.")
@click.option("--resume", is_flag=True, help="Only go on with the run in RUN, do not start one.")
@click.option("--overwrite", is_flag=True, help="Start anew: replace the run in RUN.")
@ADDRESS
@storage_options
def train(data: str, out: str, **options: Any) -> None:
    """Train a model on a prepared data set, on every GPU that Ray sees, else on one machine's cores.

    The same command goes on where it was stopped.

    Example: looptagger train fsld -o run --set epochs=50
    """
    from looptagger.cluster.training_job import Events, TrainJob
    from looptagger.cluster.training_job import train as run

    given = settings(config.Train, options)
    with terminal.progress_view() as view:
        log = run(TrainJob(data, out, given, **options), Events(terminal.note, *training_lines(view, given.epochs)))
    tables.trained(log, out, data)


def training_lines(view: terminal.ProgressView, epochs: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """What is shown of a training's steps, and of its epochs."""
    took_s: list[float] = []

    def step(epoch: int, step: int, steps: int, loss: float) -> None:
        left_s = (epochs - epoch + 1 - step / steps) * took_s[-1] if took_s else None
        left = f", {terminal.clock(left_s)} left" if left_s is not None else ""
        view.show(f"epoch {epoch}/{epochs}, step {step}/{steps}, loss {loss:.3f}{left}", False)

    def epoch(row: dict[str, Any]) -> None:
        took_s.append(row["seconds"])
        terminal.note(tables.epoch_line(row, epochs))

    return step, epoch


class Part(click.Choice[str]):
    """A part of a split; a split's name is sent where it belongs."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The part. Raises UserError."""
        if value in config.SPLITS:
            raise UserError(f"{value} is a split, not a part of one: use --splits {value}.")
        return super().convert(value, param, ctx)


@click.command(short_help="Judge models.")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option("--data", required=True, metavar="DIR", help="A prepared data set.")
@click.option(
    "--part",
    "--split",
    "part",
    type=Part([*PARTS, "all"]),
    default="test",
    show_default=True,
    help="The part to judge on.",
)
@click.option(
    "--splits", type=click.Choice(config.SPLITS), help="Which split; by default the one that the model was trained on."
)
@click.option(
    "--protocol",
    type=click.Choice(config.PROTOCOLS),
    default="ours",
    show_default=True,
    help="What is heard of a loop and how it is judged: as in tagging, or as the paper's code does.",
)
@click.option("-o", "--out", metavar="FILE", help="Also write all figures as JSON.")
@click.option("--scores", metavar="FILE", help="Also write each loop's roles and scores, as Parquet.")
@storage_options
def evaluate(models: tuple[str, ...], data: str, out: str | None, scores: str | None, **options: Any) -> None:
    """Judge checkpoints, or the models of training runs, on the held-out loops of a data set.

    Example: looptagger evaluate run --data fsld
    """
    from looptagger.archive.tags import write_part
    from looptagger.learn import evaluation, fairness, table
    from looptagger.model.predictor import Predictor
    from looptagger.paper import runs

    if out and out == scores:
        raise UserError(f"{out}: figures and scores are two files; give them two names.")
    given = settings(config.Tag, options)
    refuse_idle(given)
    folder = Folder.to_read(data, given.storage)
    dataset, part = table.find(folder), options["part"]
    weights = [checkpoint.resolve(name, given.storage) for name in models]  # before any is judged, this and the next
    figures = file_at(out, given.storage, (".json",)) if out else None
    table_of = file_at(scores, given.storage, (".parquet",)) if scores else None
    reports, kept = [], []
    for name, each in zip(models, weights, strict=True):
        predictor = Predictor(each, name, given.compute)
        split = options["splits"] or fairness.split_of(predictor.card)
        with terminal.progress_view() as view:
            how = (split, part, options["protocol"], view.of("loops scored"))
            report, ids, truth, found = evaluation.judged(predictor, folder, dataset, *how)
        reports.append(report)
        kept.append(runs.table(ids, part, truth, found, model=predictor.model_id))
        tables.evaluated(report, fairness.warnings(predictor.card, dataset, split, part))
    if len(reports) > 1:
        tables.compared(reports)
    if figures:
        figures[0].write(figures[1], json.dumps(reports, indent=1).encode())
    if table_of:
        write_part(*table_of, pa.concat_tables(kept))


@click.command(short_help="Reproduce the paper's tables and figures.")
@click.option("--data", required=True, metavar="DIR", help="A prepared data set.")
@click.option("-o", "--out", required=True, metavar="OUT", help="Folder or s3:// prefix for runs, tables and figures.")
@click.option("--test", metavar="DIR", help="Judge on all loops of this prepared data set, not on DATA's test part.")
@click.option(
    "--system", "systems", multiple=True, type=click.Choice(SYSTEMS, False), help="Only this one; repeatable."
)
@click.option(
    "--protocol", "protocols", multiple=True, type=click.Choice(config.PROTOCOLS), help="Only this one; repeatable."
)
@click.option("--seed", "seeds", multiple=True, type=click.IntRange(0), help="0, 1 and 2 by default; repeatable.")
@ADDRESS
@storage_options
def paper(data: str, out: str, **options: Any) -> None:
    """Train and judge the paper's eight systems; write its tables 1 and 2 and its figures 1, 3 and 4.

    The same command goes on where it was stopped. The classic systems need an extra: in a copy of looptagger's
    repository, pip install -c configs/constraints.txt '.[paper]'.

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
    tables.not_judged(found.not_judged, "no test loop")
    terminal.note(f"Tables, figures and scores are in {out}: {', '.join(found.files)}.")
    if found.failed:
        terminal.note(f"Without {len(found.failed)} that could not be done. {' '.join(found.failed)}")
        sys.exit(1)


COMMANDS: Final = (prepare, train, evaluate, paper)
