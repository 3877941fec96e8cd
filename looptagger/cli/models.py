"""The commands around checkpoints: model info, model import."""

import re
from pathlib import Path

import click

from looptagger import terminal
from looptagger.cli.options import EXAMPLE
from looptagger.errors import UserError


@click.group(context_settings=EXAMPLE)
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
    about = {"id": checkpoint.model_id(data, card), **card.model_dump(mode="json")}
    terminal.out.print_json(data=about, ensure_ascii=True)  # a stranger's text may be none


@model.command("import", context_settings=EXAMPLE)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, metavar="FILE", help="The checkpoint to write.")
@click.option("--name", default=None, help="The model's name in the output; by default the file's.")
@click.option("--licence", default="unknown", show_default=True, help="The weights' licence.")
def import_(path: Path, out: str, name: str | None, licence: str) -> None:
    """Turn a .pth file of the paper's published code into a checkpoint.

    Example: looptagger model import best_model.pth -o hcnn.safetensors
    """
    from looptagger.archive.storage import file_at
    from looptagger.model import checkpoint, published

    to, file = file_at(out, endings=(".safetensors",))
    name = checkpoint.plain_name(Path(file).stem) if name is None else name
    if not re.fullmatch(checkpoint.NAME, name):
        raise UserError(f"--name {name}: letters, digits and . _ - only, 64 at most, and at least one.")
    network, card = published.convert(path, name, licence)
    to.write(file, checkpoint.dump(network, card))
    terminal.note(f"{out}: {card.model.kind}, {sum(p.numel() for p in network.parameters()):,} parameters.")
    terminal.note(
        "Its roles are those scored 0.5 and more: nobody has chosen thresholds for it; scores are as they are."
    )
