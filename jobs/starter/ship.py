"""Put the model of a training run into the package: half precision, thresholds set on the validation part."""

from pathlib import Path

import click
import numpy as np

from looptagger.archive.storage import Folder
from looptagger.learn import metrics, table
from looptagger.learn.scoring import joined, scored
from looptagger.model import checkpoint
from looptagger.model.predictor import Predictor
from looptagger.roles import ROLES

ABOUT = (
    "trained on openly licensed samples and rendered loops (MODEL_CARD.md); "
    "for the model of the paper, train on FSLD: looptagger train."
)

LICENCE = "Apache-2.0; of the audio: see MODEL_CARD.md"


@click.command()
@click.argument("run")
@click.argument("data")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=checkpoint.SHIPPED)
def main(run: str, data: str, out: Path) -> None:
    """Ship the best model of RUN, with thresholds for DATA's validation part."""
    network, card = checkpoint.load(checkpoint.resolve(run), run)
    card = card.model_copy(update={"name": checkpoint.STARTER, "about": ABOUT, "licence": LICENCE})
    half = checkpoint.dump(network, card, half=True)
    folder = Folder(data)
    rows = table.rows(folder, table.find(folder), "grouped", "validation")
    truth, scores = joined(scored(rows, Predictor(half)))
    limits = metrics.best_thresholds(truth, scores)
    shipped = checkpoint.dump(network, card.model_copy(update={"thresholds": limits}), half=True)
    out.write_bytes(shipped)
    said = metrics.said(scores >= np.array([limits[role] for role in ROLES]))
    click.echo(f"{out}: {len(shipped):,} bytes; thresholds {limits}; roles said a validation loop {said}")


if __name__ == "__main__":
    main()
