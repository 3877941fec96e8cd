"""A run's folder as the one who started it sees it: what was asked, the log, and the pictures made of the log.

`run.json` holds what was asked, `_run/start.safetensors` the model that training began with, `log.jsonl` a row an
epoch, `model.safetensors` the best epoch's checkpoint, `curves.png` and `tensorboard/` the log as pictures. The workers
write the log and the checkpoint, the one who started the run writes the rest.
"""

import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from looptagger.archive import output
from looptagger.archive.storage import Folder, parsed
from looptagger.config import Train
from looptagger.errors import UserError
from looptagger.learn.table import Dataset
from looptagger.model.checkpoint import IN_RUN

ASKED, STATE, START, LOG = "run.json", "_run/state.pt", "_run/start.safetensors", "log.jsonl"
MODEL, CURVES, BOARD = IN_RUN, "curves.png", "tensorboard"
PICTURES_S = 10.0
"""Seconds between two drawings of the curves."""

Row = dict[str, Any]


def identity(settings: Train, dataset: Dataset) -> dict[str, Any]:
    """What a run must keep when it goes on: everything but where it runs.

    That includes how the loops are dealt out: uploaders, or parts that are given, can change beside the audio.
    """
    split = settings.split
    data = {"digest": dataset.digest, "seed": dataset.seed, "shares": list(dataset.shares)}
    dealt = {"counts": dataset.counts[split], "dealt": dataset.dealt[split]}
    return {"data": data, "settings": settings.recipe(), **dealt}


def is_started(folder: Folder) -> bool:
    """Whether a run has a state to go on from."""
    sub, _, name = STATE.partition("/")
    return name in folder.names(sub)


def begin(folder: Folder, wanted: Mapping[str, Any], more: Mapping[str, Any]) -> None:
    """Note what a new run is, or check that it is the one in the folder. Raises UserError that says what differs.

    The state is written before what follows from it: where it is missing, the rest is another's, or half deleted.
    """
    is_new, data = not is_started(folder), folder.read(ASKED)
    there = {MODEL, LOG, CURVES} & {*folder.names()}
    if data and not {"settings", "data"} <= parsed(data).keys():
        there.add(ASKED)
    if is_new and there:
        raise UserError(
            f"{folder.uri}: holds {max(there)}, but no {STATE} to go on from; choose another folder, or replace what "
            "is there with --overwrite."
        )
    if data is None and not is_new:
        lacks = f"holds {STATE}, but no {ASKED} that says of what; put it back"
        raise UserError(f"{folder.uri}: {lacks}, or start anew with --overwrite.")
    if is_new or data is None:
        folder.write(ASKED, json.dumps({**wanted, **more}, indent=1).encode())
        return
    have = parsed(data)
    if not have:
        raise UserError(f"{folder.uri}/{ASKED}: not understood; start the run anew with --overwrite.")
    for key, old, new in _differences(wanted, {name: have.get(name) for name in wanted}):
        raise UserError(
            f"{folder.uri}: holds a run with {key} = {json.dumps(old)}, not {json.dumps(new)}; "
            "choose another folder (begin_with this one goes on from its model), or start anew with --overwrite."
        )


def started(folder: Folder) -> str | None:
    """When the run in a folder was begun, however often it has gone on since."""
    found = parsed(folder.read(ASKED)).get("started")
    return None if found is None else str(found)


def sweep(folder: Folder) -> None:
    """Delete what killed workers had half written; the state of a wide network is 70 MB."""
    output.sweep(folder, "_run")
    output.sweep(folder, "", {ASKED, LOG, MODEL, CURVES}.__contains__)


def is_being_replaced(folder: Folder, wanted: Mapping[str, Any], epochs: int) -> bool:
    """Whether --overwrite began the run in a folder, with the same settings, and was stopped: it goes on then."""
    have = parsed(folder.read(ASKED))
    is_same = bool(have.get("anew")) and not any(_differences(wanted, {name: have.get(name) for name in wanted}))
    return is_same and is_started(folder) and len(rows(folder)) < epochs


def _differences(wanted: Any, have: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(wanted, dict) and isinstance(have, dict):
        for name in {**wanted, **have}:
            yield from _differences(wanted.get(name), have.get(name), f"{key}.{name}" if key else name)
    elif wanted != have:
        yield key.removeprefix("settings."), have, wanted


def clear(folder: Folder) -> None:
    """Delete a run, the state first."""
    folder.delete([STATE, ASKED, START, LOG, MODEL, CURVES, *_board(folder)])


def _board(folder: Folder) -> list[str]:
    """TensorBoard's files of a run; what else lies there is the user's."""
    return [f"{BOARD}/{name}" for name in folder.names(BOARD) if name.startswith("events.out.tfevents.")]


def rows(folder: Folder) -> list[Row]:
    """The log of a run so far."""
    try:
        return [dict(json.loads(line)) for line in (folder.read(LOG) or b"").decode().splitlines()]
    except (TypeError, ValueError):
        raise UserError(f"{folder.uri}/{LOG}: not understood; delete it and run the same command again.") from None


class Pictures:
    """The curves, and TensorBoard's file, of a run, kept up to date with its log."""

    def __init__(self, folder: Folder) -> None:
        from tensorboardX import SummaryWriter

        self.folder, self.drawn, self.stored = folder, 0, time.monotonic()
        folder.delete(_board(folder))
        self.place = folder.at(BOARD) if folder.is_local else tempfile.mkdtemp(prefix="looptagger-")
        self.writer = SummaryWriter(self.place)
        self.store()

    def epoch_ended(self) -> None:
        """Draw the log anew, where that was not done just now."""
        if time.monotonic() - self.stored > PICTURES_S:
            self.store()

    def store(self) -> None:
        """Draw what the log has come to. What keeps it from that is passed over: no picture is worth a training.

        It may be anything: an interrupt while Matplotlib is imported leaves half of it behind.
        """
        with suppress(Exception):
            self._store()

    def _store(self) -> None:
        """On an object store, TensorBoard's file is uploaded whole."""
        log = rows(self.folder)
        if not log:
            return
        for row in log[self.drawn :]:
            for key, value in row.items():
                if isinstance(value, float) and key != "time":
                    self.writer.add_scalar(_tag(key), value, row["epoch"], walltime=row["time"])
        self.drawn = len(log)
        self.folder.write(CURVES, curves(log))
        self.writer.flush()
        if not self.folder.is_local:
            for name in os.listdir(self.place):
                with open(os.path.join(self.place, name), "rb") as file:
                    self.folder.write(f"{BOARD}/{name}", file.read())
        self.stored = time.monotonic()

    def close(self) -> None:
        """End with everything stored."""
        self.store()
        self.writer.close()
        if not self.folder.is_local:
            shutil.rmtree(self.place, ignore_errors=True)


def _tag(key: str) -> str:
    """A row's key as TensorBoard groups it: roc_auc_bass -> roc_auc/bass."""
    for head in ("roc_auc", "pr_auc"):
        if key.startswith(head):
            return f"{head}/{key.removeprefix(head).strip('_') or 'macro'}"
    return {"loss": "loss/validation", "train_loss": "loss/train"}.get(key, f"run/{key}")


def curves(log: Sequence[Row]) -> bytes:
    """Losses, ROC-AUC and PR-AUC over the epochs, the best epoch marked, as a PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in log]
    losses = {"train_loss": "training (crops, augmented)", "loss": "validation (loops, as scored)"}
    lines = {left: losses, right: {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC"}}
    best = max((row["epoch"] for row in log if row["best"]), default=None)
    for axes, keys in lines.items():
        for key, label in keys.items():
            axes.plot(epochs, [row[key] for row in log], label=label, marker="." if len(log) < 30 else None)
        if best:
            axes.axvline(best, color="grey", linewidth=0.8, linestyle="--", label=f"best epoch: {best}")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    left.set_ylabel("binary cross-entropy")
    right.set_ylabel("validation, mean over roles")
    right.set_ylim(top=1.01)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()
