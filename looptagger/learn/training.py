"""Training from the first epoch, or the last stored one, to the last: the same code on one worker and on many."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from looptagger.archive.storage import Folder
from looptagger.errors import UserError
from looptagger.learn import metrics, resuming
from looptagger.learn.augment import tensors
from looptagger.learn.batches import ahead, batches
from looptagger.learn.learner import Learner
from looptagger.learn.metrics import Floats, Truth
from looptagger.learn.peers import Peers
from looptagger.learn.record import Row
from looptagger.learn.resuming import State
from looptagger.learn.scoring import joined, scored
from looptagger.learn.share import Share
from looptagger.learn.task import Task
from looptagger.model import checkpoint
from looptagger.model.checkpoint import Card
from looptagger.model.predictor import Predictor

Told = Callable[[str, Any], None]
"""Told of `step`: (epoch, step, steps, mean loss); and of `epoch`: its row."""
TOLD_S = 0.5
"""Seconds between two words on steps."""


def fit(task: Task, share: Share, folder: Folder, peers: Peers, told: Told) -> State:
    """Train to the last epoch and return the state there. Goes on from the state that the folder holds.

    `share` has this worker's loops. Only rank 0 writes.
    """
    learner = Learner(task.settings, task.census, peers)
    stored = resuming.load(folder)
    if len(set(peers.gather(stored.epoch if stored else 0))) > 1:
        raise UserError(f"{folder.uri}: the workers see different files there; use s3:// or a folder that all share.")
    state = stored or _begun(task, learner, share)
    if stored:
        learner.restore(stored.learner)
    if stored and peers.rank == 0:
        resuming.follow(folder, stored)
    while state.epoch < task.settings.epochs:
        started = time.monotonic()
        learner.enter(state.epoch, state.best)
        loss, crops_per_s = _train(learner, state.epoch, share, told)
        row = {"epoch": state.epoch + 1, "train_loss": loss, "crops_per_s": crops_per_s}
        state = _validated(task, learner, state, row, share, started)
        if peers.rank == 0:
            is_new = state.log[-1]["best"] or state.epoch == 1  # what it began with is written then, too
            resuming.save(folder, state, is_new)
            told("epoch", state.log[-1])
    return state


def _begun(task: Task, learner: Learner, share: Share) -> State:
    """The state before the first epoch: a model that training begins with is the best so far."""
    if not task.start:
        return State()
    learner.network.load_state_dict(checkpoint.load(task.start, "begin_with")[0].state_dict())
    truth, scores = score(checkpoint.dump(learner.network, task.card), learner, share)
    row = {"epoch": 0, **figures(truth, scores)}
    best = checkpoint.dump(learner.network, _decided(task.card, truth, scores, row))
    return State(best=best, best_value=row[task.settings.select])


def _train(learner: Learner, epoch: int, share: Share, told: Told) -> tuple[float, float]:
    """One epoch: its mean loss, and crops a second over all workers."""
    settings, census, peers = learner.settings, learner.census, learner.peers
    started = last = time.monotonic()
    loops = share.train([settings.seed, epoch, peers.world])  # a seed that no rank has
    drawn = batches(loops, settings, census, epoch, peers.rank, peers.world)
    for step, loss in learner.train(epoch, ahead(tensors(each, peers.device.type == "cuda") for each in drawn)):
        if peers.rank == 0 and time.monotonic() - last > TOLD_S:
            last = time.monotonic()
            told("step", (epoch + 1, step, learner.steps, float(loss)))
    peers.mean_([loss])  # until here it was this worker's own
    return float(loss), settings.batch * learner.steps / (time.monotonic() - started)


def _validated(task: Task, learner: Learner, state: State, row: Row, share: Share, started: float) -> State:
    """The state after an epoch, whose row says whether it is the best so far. All workers find the same."""
    data = checkpoint.dump(learner.scored, task.card)
    truth, scores = score(data, learner, share)
    row |= figures(truth, scores)
    is_best = _is_better(row, state, task.settings.select)
    row |= {"best": is_best, "seconds": time.monotonic() - started, "time": time.time()}
    state = replace(state, epoch=state.epoch + 1, learner=learner.state(), log=[*state.log, row])
    if is_best:
        card = _decided(task.card, truth, scores, row)
        state = replace(state, best=checkpoint.dump(learner.scored, card), best_value=row[task.settings.select])
    return state


def _is_better(row: Row, state: State, select: str) -> bool:
    """Whether an epoch is better than the best so far; of few loops, areas are soon the same: then by its loss."""
    value, best = row[select], state.best_value
    if best is None or value != best:
        return best is None or (value < best if select == "loss" else value > best)
    losses = [each["loss"] for each in state.log if each["best"]]
    return bool(losses) and row["loss"] < losses[-1]


def score(data: bytes, learner: Learner, share: Share) -> tuple[Truth, Floats]:
    """Truth and scores of all workers' validation loops, as tagging would score them."""
    compute = learner.settings.compute.scoring("cuda" if learner.peers.device.type == "cuda" else "cpu")
    return joined(learner.peers.gather(joined(scored(share.validation(), Predictor(data, compute=compute)))))


def figures(truth: Truth, scores: Floats) -> Row:
    """An epoch's validation figures: loss, and the areas as means over the roles that have one, and by role."""
    by_role = {"roc_auc": metrics.roc_auc(truth, scores), "pr_auc": metrics.pr_auc(truth, scores)}
    means = {name: metrics.macro(values) for name, values in by_role.items()}
    each = {f"{name}_{role}": value for name, values in by_role.items() for role, value in values.items()}
    return {"loss": metrics.cross_entropy(truth, scores), **means, **each}


def _decided(card: Card, truth: Truth, scores: Floats, row: Row) -> Card:
    """The card with thresholds chosen on the validation part, and what the model reached there."""
    thresholds = metrics.best_thresholds(truth, scores, card.thresholds)
    reached = {key: value for key, value in row.items() if key not in ("best", "crops_per_s", "seconds", "time")}
    return card.model_copy(update={"thresholds": thresholds, "provenance": {**card.provenance, "reached": reached}})
