"""The commands around training: prepare, train, evaluate."""

from typing import Any, Final

import click

from looptagger import config, terminal
from looptagger.cli import tables
from looptagger.cli.options import ADDRESS, EXAMPLE, settings, storage_options


@click.command(context_settings=EXAMPLE)
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
        progress = lambda done, total: view.show(f"{done:,}/{total:,} loops decoded", done == total)  # noqa: E731
        collection, dataset = run(PrepareJob(source, out, prepare=given, **options), terminal.note, progress)
    tables.prepared(collection, dataset, out)


COMMANDS: Final = (prepare,)
