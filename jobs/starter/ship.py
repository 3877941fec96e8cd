"""Put the starter into the package: the mean of two trainings' models, half precision, thresholds of validation.

The second training began with the first one's weights. Their mean keeps what the first knew and the second learned
(Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
"""

from pathlib import Path

import click
import numpy as np
from torch import nn

from looptagger.archive.storage import Folder
from looptagger.learn import metrics, table
from looptagger.learn.scoring import joined, scored
from looptagger.learn.training import figures
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
@click.argument("more")
@click.argument("data")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=checkpoint.SHIPPED)
def main(run: str, more: str, data: str, out: Path) -> None:
    """Ship the mean of RUN's best model and MORE's, with thresholds for DATA's validation part."""
    (before, _), (network, card) = (checkpoint.load(checkpoint.resolve(name), name) for name in (run, more))
    average_(network, before)
    network.half()
    card = card.model_copy(update={"name": checkpoint.STARTER, "about": ABOUT, "licence": LICENCE})
    half = checkpoint.dump(network, card)
    folder = Folder(data)
    dataset = table.find(folder)
    truth, scores = joined(scored(table.rows(folder, dataset, "grouped", "validation"), Predictor(half)))
    limits = metrics.best_thresholds(truth, scores)
    reached = {**figures(truth, scores), "loops": len(truth), "digest": dataset.digest}
    about = {**card.provenance, "mean_with": _named(run), "reached": reached}
    card = card.model_copy(update={"thresholds": limits, "provenance": about})
    shipped = checkpoint.dump(network, card)
    out.write_bytes(shipped)
    said = metrics.said(scores >= np.array([limits[role] for role in ROLES]))
    click.echo(f"{out}: {len(shipped):,} bytes; thresholds {limits}; roles said a validation loop {said}")


def _named(run: str) -> str:
    """The model of a run as others call it: its name and digest."""
    data = checkpoint.resolve(run)
    return checkpoint.model_id(data, checkpoint.card(data, run))


def average_(network: nn.Module, other: nn.Module) -> None:
    """Replace a network's weights by their mean with another's of the same shape."""
    for weight, others in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        if weight.is_floating_point():
            weight.copy_((weight + others) / 2)


if __name__ == "__main__":
    main()
