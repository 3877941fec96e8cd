"""What the commands share: options, and settings made of them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from looptagger import config
from looptagger.archive.storage import Folder
from looptagger.errors import UserError
from looptagger.settings import load

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=config.Settings)

NAMES = ("config_file", "overrides", "endpoint_url", "anonymous")

ADDRESS = click.option(
    "--address",
    metavar="ADDRESS",
    help="A Ray cluster to join: auto on one of its nodes, or HOST:6379; RAY_ADDRESS works too. local: Ray here.",
)


def storage_options(command: F) -> F:
    """Settings that every command takes which touches an archive."""
    for option in (
        click.option("--endpoint-url", metavar="URL", help="An S3-compatible server; AWS_ENDPOINT_URL works too."),
        click.option("--anonymous", is_flag=True, help="Read s3:// without credentials; what is written needs them."),
        click.option(
            "--set",
            "overrides",
            metavar="KEY=VALUE",
            multiple=True,
            help="Override a setting, e.g. storage.attempts=10.",
        ),
        click.option(
            "--config",
            "config_file",
            type=click.Path(path_type=Path),
            help="Settings as YAML; the files in the repository's configs/ list them all.",
        ),
    ):
        command = option(command)
    return command


def settings(kind: type[S], given: dict[str, Any], more: Sequence[str] = ()) -> S:
    """Settings: defaults, then the file, then --set, then flags. Takes the storage options out of `given`."""
    config_file, overrides, endpoint_url, anonymous = (given.pop(name) for name in NAMES)
    extra = [f"storage.endpoint_url={endpoint_url}"] if endpoint_url else []
    extra += ["storage.anonymous=true"] if anonymous else []
    return load(kind, config_file, [*overrides, *more, *extra])


def refuse_idle(given: config.Tag) -> None:
    """Refuse settings of tagging that mean nothing where loops are scored. Raises UserError."""
    if given.chunking != config.Chunking():
        raise UserError("chunking cannot be set here: what is heard of a loop, the protocol says.")
    if given.limits != config.Limits():
        raise UserError("limits cannot be set here: the loops have been decoded, by looptagger prepare.")
    for name in ("gpus_per_predictor", "price_per_hour", "shard_rows"):
        if getattr(given.compute, name) != getattr(config.Compute(), name):
            raise UserError(f"compute.{name} cannot be set here: it is of looptagger tag.")


def folder(uri: str, given: dict[str, Any]) -> Folder:
    """The folder at a URI, reached as the storage options say; only to be read."""
    return Folder.to_read(uri, settings(config.Tag, given).storage)
