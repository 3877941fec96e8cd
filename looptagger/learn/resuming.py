"""The state of a training run, from which it resumes, and what follows from it: the checkpoint and the log.

`RUN/_run/state.pt` is the one truth. The others are written after it, and again when a run goes on, so a kill between
two writes leaves nothing that disagrees for long.
"""

import io
import json
from dataclasses import dataclass, field
from typing import Any

import torch

from looptagger.archive.patience import patiently
from looptagger.archive.storage import Folder
from looptagger.errors import UserError
from looptagger.learn.record import LOG, MODEL, STATE
from looptagger.model import pickled


@dataclass
class State:
    """A training between two epochs. `best` is the checkpoint of the best epoch so far, as bytes."""

    epoch: int = 0
    learner: dict[str, Any] = field(default_factory=dict)
    best: bytes | None = None
    best_value: float | None = None
    log: list[dict[str, Any]] = field(default_factory=list)
    """A row an epoch."""


def load(folder: Folder) -> State | None:
    """The state of a run, on the CPU, or None before its first epoch ends. Raises UserError for a broken one."""
    data = folder.read(STATE)
    if data is None:
        return None
    try:
        found = pickled.load(data, STATE)
        best = found["best"].numpy().tobytes()
        return State(found["epoch"], found["learner"], best, found["best_value"], json.loads(found["log"]))
    except Exception as error:  # torch raises many kinds for what is not its own
        raise UserError(f"{folder.uri}/{STATE}: not understood; start the run anew with --overwrite.") from error


def save(folder: Folder, state: State, is_best: bool) -> None:
    """Store a state, then what follows from it."""
    file = io.BytesIO()
    best = torch.frombuffer(bytearray(state.best or b""), dtype=torch.uint8)
    packed = {"epoch": state.epoch, "learner": state.learner, "best": best, "best_value": state.best_value}
    torch.save({**packed, "log": json.dumps(state.log)}, file)
    patiently(lambda: folder.write(STATE, file.getvalue()), folder.storage)
    patiently(lambda: follow(folder, state, is_best), folder.storage)


def follow(folder: Folder, state: State, is_best: bool = True) -> None:
    """Write the log, and the checkpoint when it is another."""
    if is_best and state.best:
        folder.write(MODEL, state.best)
    folder.write(LOG, "".join(f"{json.dumps(row)}\n" for row in state.log).encode())
