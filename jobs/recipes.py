"""Which parts of a training recipe help: each switched on alone, over several seeds, judged on held-out loops.

Every seed splits the loops anew (stratified), so that the spread is of data and start together; variants of one seed
see the same split. Results are appended to FILE, one JSON line a training; what is there already, of the same data and
settings, is not run again.

    python jobs/recipes.py DIR -o recipes.jsonl --seeds 3 --set model.channels=16 --set epochs=40
"""

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from looptagger import config
from looptagger.archive.storage import Folder
from looptagger.learn import metrics, table
from looptagger.learn.augment import tensors
from looptagger.learn.batches import batches, loops
from looptagger.learn.learner import Learner
from looptagger.learn.loops import Loop
from looptagger.learn.peers import Peers
from looptagger.learn.scoring import joined, scored
from looptagger.learn.splits import splits
from looptagger.learn.task import Census
from looptagger.model import checkpoint
from looptagger.model.predictor import Predictor
from looptagger.roles import ROLES
from looptagger.settings import load

VARIANTS = {
    "plain": [],
    "wrap": ["augment.wrap=true"],
    "gain and polarity": ["augment.gain_db=12", "augment.polarity=true"],
    "speed": ["augment.speed_semitones=2"],
    "mix": ["augment.mix=0.5"],
    "SpecAugment": ["augment.time_mask=24", "augment.band_mask=16"],
    "weight averaging": ["average_epochs=5"],
    "balanced loss": ["balance=loss"],
    "balanced sampling": ["balance=sampling"],
}
PLAIN = ["balance=none", "augment.mix=0", "average_epochs=0"]
"""Switches off what the recommended recipe has on."""
SHARES = (0.65, 0.0, 0.35)


def parted(rows: pa.Table, seed: int) -> tuple[pa.Table, pa.Table]:
    """Loops to train on and loops held out."""
    labels = table.truth(rows)
    names = rows.column("id").to_pylist()
    loops = [
        Loop(name, "", frozenset(role for role, is_on in zip(ROLES, on, strict=True) if is_on))
        for name, on in zip(names, labels, strict=True)
    ]
    parts = pa.array(splits(loops, SHARES, seed)["stratified"])
    return tuple(rows.filter(pc.equal(parts, part)) for part in ("train", "test"))  # type: ignore[return-value]


def trained(settings: config.Train, train: pa.Table, test: pa.Table) -> dict[str, Any]:
    """The held-out figures of one training, at its last epoch."""
    census = Census.of(table.truth(train))
    learner = Learner(settings, census, Peers())
    for epoch in range(settings.epochs):
        learner.enter(epoch, None)
        feed = (tensors(batch, pinned=False) for batch in batches(loops(train), settings, census, epoch))
        for _ in learner.train(epoch, feed):
            pass
    card = checkpoint.Card(name="trial", model=settings.model, audio=settings.audio)
    truth, scores = joined(scored([test], Predictor(checkpoint.dump(learner.scored, card))))
    found = {"roc_auc": metrics.roc_auc(truth, scores), "pr_auc": metrics.pr_auc(truth, scores)}
    return {name: {**by_role, "macro": metrics.macro(by_role)} for name, by_role in found.items()}


def summary(lines: list[dict[str, Any]]) -> None:
    """Mean and standard deviation of each variant, and of its difference from `plain` at the same seed."""
    by_variant: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for line in lines:
        by_variant[line["variant"]][line["seed"]] = line
    plain = by_variant["plain"]
    for variant, by_seed in by_variant.items():
        text = f"{variant:40} {len(by_seed)} seeds"
        for name in ("roc_auc", "pr_auc"):
            values = [line[name]["macro"] for line in by_seed.values()]
            gains = [
                line[name]["macro"] - plain[seed][name]["macro"] for seed, line in by_seed.items() if seed in plain
            ]
            spread = statistics.stdev(gains) if len(gains) > 1 else float("nan")
            text += f"   {name} {np.mean(values):.3f}, gain {np.mean(gains):+.3f} ± {spread:.3f}"
        click.echo(text)


@click.command()
@click.argument("data")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path))
@click.option("--seeds", default=3)
@click.option("--set", "overrides", multiple=True)
@click.option("--variant", "more", multiple=True, help="A further variant: settings apart by blanks.")
def main(data: str, out: Path, seeds: int, overrides: tuple[str, ...], more: tuple[str, ...]) -> None:
    """Run what is missing and print the table."""
    folder = Folder(data)
    found = table.find(folder)
    rows = pa.concat_tables(table.rows(folder, found, "paper", "all"))
    about = {"data": found.digest, "set": sorted(overrides)}
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    lines = [line for line in lines if {key: line.get(key) for key in about} == about]
    done = {(line["variant"], line["seed"]) for line in lines}
    for seed in range(seeds):
        parts = parted(rows, seed)
        for name, switched in {**VARIANTS, **{each: each.split() for each in more}}.items():
            if (name, seed) in done:
                continue
            settings = load(config.Train, None, [*PLAIN, *overrides, *switched, f"seed={seed}"])
            lines.append({"variant": name, "seed": seed, **about, **trained(settings, *parts)})
            with out.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            click.echo(f"seed {seed}, {name}: ROC-AUC {lines[-1]['roc_auc']['macro']:.3f}")
    summary(lines)


if __name__ == "__main__":
    main()
