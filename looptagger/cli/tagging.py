"""The commands around tags: tag, status, show, compact, report, doctor."""

import sys
from contextlib import suppress
from typing import Any, Final

import click
from click.core import ParameterSource

from looptagger import config, terminal
from looptagger.archive.storage import Folder, file_at
from looptagger.cli.options import ADDRESS, folder, settings, storage_options
from looptagger.errors import UserError
from looptagger.logs import JsonLines
from looptagger.model.checkpoint import STARTER
from looptagger.roles import ROLES


@click.command(short_help="Tag audio with roles.")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("-o", "--out", required=True, metavar="OUT", help="Folder or s3:// prefix for the tags.")
@click.option("--model", default=STARTER, show_default=True, metavar="NAME|PATH", help="The checkpoint to use.")
@click.option("--limit", type=click.IntRange(1), help="Take only the first N clips; without it the rest follows.")
@click.option("--update", is_flag=True, help="List the sources again and tag what is new.")
@click.option("--overwrite", is_flag=True, help="Start anew: replace the tags in OUT.")
@click.option("--retry-errors", is_flag=True, help="Also take up the clips that failed before.")
@click.option("--chunks", is_flag=True, help="Also write the scores of every chunk to OUT/chunks.")
@click.option("--embeddings", is_flag=True, help="Also write each clip's embedding, for similarity search.")
@ADDRESS
@click.option("--fail-on-error", is_flag=True, help="Exit with 1 when clips in OUT failed.")
@click.option("--log-json", is_flag=True, help="Progress, failed clips and the end as JSON lines, for machines.")
@storage_options
def tag(out: str, fail_on_error: bool, log_json: bool, sources: tuple[str, ...], **options: Any) -> None:
    """Tag audio files, folders, globs, s3:// prefixes or manifests (.parquet, .csv, .jsonl with a column uri).

    The same command goes on where it was stopped.

    Example: looptagger tag s3://bucket/loops manifest.csv -o s3://bucket/tags
    """
    from looptagger.archive import status as ledger
    from looptagger.cluster.tagging_job import Events, TagJob
    from looptagger.cluster.tagging_job import tag as run

    tag = settings(config.Tag, options)
    job = TagJob(sources, out, tag=tag, **options)
    if log_json:
        log = JsonLines()
        done = run(job, Events(log.note, log.listed, log.progress, log.rows))
        log.summary(done, out)
    else:
        with terminal.progress_view() as view:
            done = run(job, Events(terminal.note, view.listed, view.progress))
        terminal.summary(done, out)
    if fail_on_error and (done.failed or ledger.status(Folder(out, tag.storage)).failed):
        sys.exit(1)


@click.command(short_help="Say what is done, failed and left.")
@click.argument("out")
@click.option("--verify", is_flag=True, help="Read every part: whole, the right columns, a row for each id.")
@storage_options
def status(out: str, verify: bool, **storage: Any) -> None:
    """Say how far an output is: done, failed by reason, left, speed.

    Example: looptagger status tags --verify
    """
    from looptagger.archive import status as ledger

    place = folder(out, storage)
    problems = ledger.verify(place) if verify else []
    for problem in problems:
        terminal.note(problem)
    with suppress(*[UserError] if problems else ()):  # a part that cannot be counted has been named
        terminal.status(ledger.status(place), out)
    if problems:
        sys.exit(1)
    if verify:
        terminal.note("Every part is whole, every id of the manifest has its one row.")


@click.command(short_help="Print tags as a table or as CSV.")
@click.argument("out")
@click.option("-n", "--rows", type=click.IntRange(1), default=50, show_default=True, help="Rows to show.")
@click.option("--role", type=click.Choice(ROLES), help="Those with the highest scores of a role, the highest first.")
@click.option("--csv", "as_csv", is_flag=True, help="All rows as CSV instead, for a spreadsheet.")
@storage_options
def show(out: str, rows: int, role: str | None, as_csv: bool, **storage: Any) -> None:
    """Print an output's first rows as a table, and how to ask for more.

    Example: looptagger show tags --role bass
    """
    from looptagger.archive import preview

    if as_csv and (role or click.get_current_context().get_parameter_source("rows") is ParameterSource.COMMANDLINE):
        raise click.UsageError("--csv writes all rows: leave --role and --rows out.")
    place = folder(out, storage)
    if as_csv:
        preview.write_csv(place, sys.stdout.buffer)
    else:
        terminal.show(preview.head(place, rows, role), out)


@click.command(short_help="Join small parts into large ones.")
@click.argument("out")
@storage_options
def compact(out: str, **storage: Any) -> None:
    """Join many small parts into few large ones, which queries read faster.

    Example: looptagger compact s3://bucket/tags
    """
    from looptagger.archive import lock, output
    from looptagger.archive.compact import compact as run

    place = Folder(out, settings(config.Tag, storage).storage)
    output.require(place)
    with lock.held(place) as held:
        before, after = run(held)
    terminal.note(f"{terminal.plural(before, 'part')} before, {after:,} now.")


@click.command(short_help="Make an HTML page of tags.")
@click.argument("out")
@click.option("--to", "file", metavar="FILE", help="Where the page goes; OUT-report.html here by default.")
@storage_options
def report(out: str, file: str | None, **storage: Any) -> None:
    """Write one HTML page on what an output holds: roles, confidences, failures, clips to listen to.

    Example: looptagger report tags
    """
    from looptagger.archive import output
    from looptagger.report import page

    place = folder(out, storage)
    path = file or f"{place.path.rpartition('/')[2]}-report.html"
    to, name = file_at(path, place.storage, (".html", ".htm"))
    with terminal.progress_view() as view:
        found = page.digest(place, view.of("rows read"))
    record = output.require(place)
    to.write(name, page.html(found, out, record.identity["model"], record.rows).encode("utf-8", "replace"))
    terminal.note(f"Open {to.at(name) if to.is_local else path} in a browser.")


@click.command(short_help="Check that a job can run.")
@click.argument("source", required=False)
@click.option("-o", "--out", metavar="OUT", help="Folder or s3:// prefix that the tags would go to.")
@click.option("--model", default=STARTER, show_default=True, metavar="NAME|PATH", help="The checkpoint to use.")
@ADDRESS
@storage_options
def doctor(source: str | None, out: str | None, model: str, address: str | None, **options: Any) -> None:
    """Say whether this machine, or a cluster, can run the job, and what to do if not. Exit code 1 if not.

    Example: looptagger doctor s3://bucket/loops -o s3://bucket/tags
    """
    from looptagger.cluster.doctor import examine

    is_well = True
    for finding in examine(source, out, model, settings(config.Tag, options), address):
        is_well &= finding.ok
        terminal.note(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what}: {finding.said}")
    terminal.note("The job can run." if is_well else "The job cannot run yet: see what is marked FAIL.")
    sys.exit(0 if is_well else 1)


COMMANDS: Final = (tag, show, report, status, doctor, compact)
