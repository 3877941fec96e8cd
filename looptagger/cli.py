"""The command line: parse, call, print. Exit codes: 0 done, 1 failures, 2 wrong use, 130 interrupted."""

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from looptagger import config, terminal
from looptagger.errors import UserError, one_line
from looptagger.model.checkpoint import UNTRAINED

F = TypeVar("F", bound=Callable[..., Any])

EXAMPLE = {"help_option_names": ["-h", "--help"]}


def storage_options(command: F) -> F:
    """Settings that every command takes which touches an archive."""
    for option in (
        click.option("--endpoint-url", metavar="URL", help="An S3-compatible server; AWS_ENDPOINT_URL works too."),
        click.option("--anonymous", is_flag=True, help="Read s3:// sources without credentials."),
        click.option(
            "--set",
            "overrides",
            metavar="KEY=VALUE",
            multiple=True,
            help="Override a setting, e.g. chunking.max_chunks=10.",
        ),
        click.option(
            "--config",
            "config_file",
            type=click.Path(path_type=Path),
            help="Settings as YAML; configs/tag.yaml lists them.",
        ),
    ):
        command = option(command)
    return command


def tag_settings(
    config_file: Path | None, overrides: tuple[str, ...], endpoint_url: str | None, anonymous: bool
) -> config.Tag:
    """The tagging settings: defaults, then the file, then --set, then the storage flags."""
    extra = [f"storage.endpoint_url={endpoint_url}"] if endpoint_url else []
    extra += ["storage.anonymous=true"] if anonymous else []
    return config.load(config.Tag, config_file, [*overrides, *extra])


@click.group(context_settings=EXAMPLE)
@click.version_option(package_name="looptagger")
def cli() -> None:
    """Tags archives of music loops with their roles: percussion, bass, chord, melody, fx, voice.

    Example: looptagger tag ~/loops -o tags && looptagger show tags
    """


@cli.command(context_settings=EXAMPLE)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("-o", "--out", required=True, metavar="OUT", help="Folder or s3:// prefix for the tags.")
@click.option("--model", default=UNTRAINED, show_default=True, metavar="NAME|PATH", help="The checkpoint to use.")
@click.option("--limit", type=click.IntRange(1), help="Take only the first N clips; without it the rest follows.")
@click.option("--update", is_flag=True, help="List the sources again and tag what is new.")
@click.option("--overwrite", is_flag=True, help="Start anew: delete the tags in OUT first.")
@click.option("--retry-errors", is_flag=True, help="Also take up the clips that failed before.")
@click.option("--chunks", is_flag=True, help="Also write the scores of every chunk to OUT/chunks.")
@click.option("--embeddings", is_flag=True, help="Also write each clip's embedding, for similarity search.")
@click.option("--address", metavar="ADDRESS", help="A Ray cluster to join; RAY_ADDRESS works too.")
@click.option("--fail-on-error", is_flag=True, help="Exit with 1 when clips failed.")
@storage_options
def tag(out: str, fail_on_error: bool, sources: tuple[str, ...], **options: Any) -> None:
    """Tag audio files, folders, globs, s3:// prefixes or manifests (.parquet, .csv, .jsonl with a column uri).

    The same command goes on where it was stopped.

    Example: looptagger tag s3://bucket/loops manifest.csv -o s3://bucket/tags
    """
    from looptagger.cluster.job import Events, TagJob
    from looptagger.cluster.job import tag as run

    names = ("config_file", "overrides", "endpoint_url", "anonymous")
    settings = tag_settings(*(options.pop(name) for name in names))
    with terminal.progress_view() as view:
        done = run(TagJob(sources, out, tag=settings, **options), Events(terminal.note, view.listed, view.progress))
    terminal.summary(done, out)
    if fail_on_error and done.failed:
        sys.exit(1)


@cli.command(context_settings=EXAMPLE)
@click.argument("out")
@click.option("--verify", is_flag=True, help="Read every part: whole, one row an id, the schema.")
@storage_options
def status(out: str, verify: bool, **storage: Any) -> None:
    """Say how far an output is: done, failed by reason, left, speed.

    Example: looptagger status tags --verify
    """
    from looptagger.archive import status as ledger

    folder = _folder(out, storage)
    terminal.status(ledger.status(folder), out)
    if verify:
        problems = ledger.verify(folder)
        for problem in problems:
            terminal.note(problem)
        if problems:
            sys.exit(1)
        terminal.note("Every part is whole, every id of the manifest has its one row.")


@cli.command(context_settings=EXAMPLE)
@click.argument("out")
@click.option("-n", "--rows", type=click.IntRange(1), default=50, show_default=True, help="Rows to show.")
@storage_options
def show(out: str, rows: int, **storage: Any) -> None:
    """Print an output's first rows as a table, and how to ask for more.

    Example: looptagger show tags -n 20
    """
    from looptagger.archive import status as ledger

    terminal.show(ledger.head(_folder(out, storage), rows), out)


@cli.command(context_settings=EXAMPLE)
@click.argument("out")
@storage_options
def compact(out: str, **storage: Any) -> None:
    """Join many small parts into few large ones, which queries read faster.

    Example: looptagger compact s3://bucket/tags
    """
    from looptagger.archive import dataset, lock
    from looptagger.archive.compact import compact as run

    folder = _folder(out, storage)
    dataset.require(folder)
    with lock.held(folder):
        before, after = run(folder)
    terminal.note(f"{terminal.plural(before, 'part')} before, {after:,} now.")


@cli.group(context_settings=EXAMPLE)
def model() -> None:
    """Look at checkpoints, and import published ones."""


@model.command(context_settings=EXAMPLE)
@click.argument("path")
def info(path: str) -> None:
    """Print what a checkpoint says of itself.

    Example: looptagger model info model.safetensors
    """
    from looptagger.model import checkpoint

    data = checkpoint.resolve(path)
    card = checkpoint.card(data, path)
    terminal.out.print_json(data={"id": checkpoint.model_id(data, card), **card.model_dump(mode="json")})


@model.command("import", context_settings=EXAMPLE)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The checkpoint to write.")
@click.option("--name", default=None, help="The model's name in the output; by default the file's.")
@click.option("--licence", default="unknown", show_default=True, help="The weights' licence.")
def import_(path: Path, out: Path, name: str | None, licence: str) -> None:
    """Turn a .pth file of the paper's published code into a checkpoint.

    Example: looptagger model import best_model.pth -o hcnn.safetensors
    """
    from looptagger.archive.storage import Folder
    from looptagger.model import checkpoint, published

    network, card = published.convert(path, name or out.stem, licence)
    Folder(str(out.absolute().parent)).write(out.name, checkpoint.dump(network, card))
    terminal.note(f"{out}: {card.model.kind}, {sum(p.numel() for p in network.parameters()):,} parameters.")


def _folder(out: str, storage: dict[str, Any]) -> Any:
    from looptagger.archive.storage import Folder

    return Folder(out, tag_settings(**storage).storage)


def _stop(*_: object) -> None:
    """Ctrl-C and SIGTERM: end in order. What Ray then prints of the actors that it ends would only alarm."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
    raise KeyboardInterrupt


def main(args: list[str] | None = None) -> None:
    """Run the command line; what users can mend is one sentence and exit code 2, an interrupt is 130."""
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    try:
        cli.main(args, standalone_mode=False)
    except click.exceptions.Abort:
        terminal.note("Stopped. The same command goes on from here.")
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except UserError as error:
        terminal.note(f"Error: {error}")
        sys.exit(2)
    except Exception as error:  # a fault of ours: keep the details for a report, spare the terminal
        with tempfile.NamedTemporaryFile("w", prefix="looptagger-", suffix=".log", delete=False) as log:
            traceback.print_exc(file=log)
        terminal.note(f"Internal error: {one_line(error)}. Please report it with {log.name}; no tags are lost.")
        sys.exit(1)
