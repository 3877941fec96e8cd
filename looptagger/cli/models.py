"""The commands around checkpoints: model info, import, thresholds."""

from pathlib import Path
from typing import Any

import click

from looptagger import config, terminal
from looptagger.archive.storage import Folder, file_at
from looptagger.cli.options import refuse_idle, settings, storage_options
from looptagger.errors import UserError
from looptagger.learn.splits import PARTS
from looptagger.model import checkpoint
from looptagger.roles import ROLES


@click.group(short_help="Look at checkpoints, import and adjust them.")
def model() -> None:
    """Look at checkpoints, import published ones, and choose thresholds."""


@model.command()
@click.argument("path")
def info(path: str) -> None:
    """Print what a checkpoint says of itself.

    Example: looptagger model info model.safetensors
    """
    data = checkpoint.resolve(path)
    card = checkpoint.card(data, path)
    about = {"id": checkpoint.model_id(data, card), **card.model_dump(mode="json")}
    terminal.out.print_json(data=about, ensure_ascii=True)  # a stranger's text may be none


@model.command("import")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, metavar="FILE", help="The checkpoint to write.")
@click.option("--name", default=None, help="The model's name in the output; by default the file's.")
@click.option("--licence", default="unknown", show_default=True, help="The weights' licence.")
def import_(path: Path, out: str, name: str | None, licence: str) -> None:
    """Turn a .pth file of the paper's published code into a checkpoint.

    Example: looptagger model import best_model.pth -o hcnn.safetensors
    """
    from looptagger.model import published

    to, file = file_at(out, endings=(".safetensors",))
    name = checkpoint.plain_name(Path(file).stem) if name is None else name
    if not name or checkpoint.plain_name(name) != name:
        raise UserError(f"--name {name}: letters, digits and . _ - only, 64 at most, and at least one.")
    network, card = published.convert(path, name, licence)
    to.write(file, checkpoint.dump(network, card))
    terminal.note(f"{out}: {card.model.kind}, {sum(p.numel() for p in network.parameters()):,} parameters.")
    terminal.note(
        "Its roles are those scored 0.5 and more: nobody has chosen thresholds for it; scores are as they are. "
        f"With loops whose roles you know: looptagger model thresholds {out} --data DIR"
    )


@model.command()
@click.argument("path", metavar="MODEL")
@click.option("--data", required=True, metavar="DIR", help="A prepared data set.")
@click.option(
    "--splits", type=click.Choice(config.SPLITS), help="Which split; by default the one that the model was trained on."
)
@click.option(
    "--part",
    type=click.Choice([*PARTS, "all"]),
    default="validation",
    show_default=True,
    help="The part to choose on; judge on another.",
)
@click.option("-o", "--out", metavar="FILE", help="The checkpoint to write; by default MODEL itself.")
@storage_options
def thresholds(path: str, data: str, splits: str | None, part: str, out: str | None, **options: Any) -> None:
    """Choose the thresholds of a checkpoint anew: those at which F1 is highest on loops whose roles are known.

    Example: looptagger model thresholds hcnn.safetensors --data fsld
    """
    from looptagger.learn import evaluation, fairness, metrics, table
    from looptagger.model.predictor import Predictor

    if out is None and not path.endswith(".safetensors"):
        raise UserError(f"{path}: name the checkpoint to write with -o FILE.")
    given = settings(config.Tag, options)
    refuse_idle(given)
    to, file = file_at(out or path, given.storage, (".safetensors",))
    weights, folder = checkpoint.resolve(path, given.storage), Folder.to_read(data, given.storage)
    predictor, dataset = Predictor(weights, path, given.compute), table.find(folder)
    splits = splits or fairness.split_of(predictor.card)
    with terminal.progress_view() as view:
        progress = view.of("loops scored")
        truth, scores = evaluation.scores_of(predictor, folder, dataset, splits, part, progress=progress)
    limits = metrics.best_thresholds(truth, scores, predictor.card.thresholds)
    kept = [role for i, role in enumerate(ROLES) if not metrics.is_told(truth[:, i])]
    on = dataset.model_dump(include={"source", "digest", "sample"}) | {"split": splits, "part": part}
    on["dealt"] = dataset.dealt[splits]
    about = {**predictor.card.provenance, "thresholds_of": on}
    to.write(file, checkpoint.told_anew(weights, thresholds=limits, provenance=about))
    said = ", ".join(f"{role} {limit:.2f}" for role, limit in limits.items())
    untold = f" Of {', '.join(kept)} the loops tell nothing: as before." if kept else ""
    terminal.note(f"{out or path}: roles from these scores on: {said}.{untold}")
    if why := fairness.has_heard(predictor.card, dataset, splits, part):
        terminal.note(f"They suit other loops less. {why}")
