"""The training job from request to result: what `looptagger train` and jobs/train.py both call."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import joblib
import numpy as np

from looptagger.archive import lock, output
from looptagger.archive.storage import Folder
from looptagger.cluster import cores, training_cores
from looptagger.cluster.plan import Workforce, parts_evenly, workforce
from looptagger.config import Storage, Train, map_size, misfit
from looptagger.errors import UserError
from looptagger.learn import record, start, table
from looptagger.learn.fairness import has_heard
from looptagger.learn.table import Dataset
from looptagger.learn.task import Census, Task
from looptagger.learn.worker import Job
from looptagger.model import checkpoint
from looptagger.model.checkpoint import Card, plain_name
from looptagger.roles import ROLES

LICENCES = 20
"""The commonest are named in a checkpoint, whose header is bounded: every loop may have a text of its own."""
PACKAGES = ("looptagger", "ray", "torch", "torchaudio", "numpy", "pyarrow", "soxr")


@dataclass(frozen=True)
class TrainJob:
    """What the user asked for."""

    data: str
    out: str
    train: Train = Train()
    resume: bool = False
    overwrite: bool = False
    address: str | None = None


@dataclass(frozen=True)
class Events:
    """How the job tells of itself; the terminal listens. All are optional."""

    note: Callable[[str], None] = lambda text: None
    step: Callable[[int, int, int, float], None] = lambda epoch, step, steps, loss: None
    epoch: Callable[[record.Row], None] = lambda row: None


def train(job: TrainJob, events: Events | None = None) -> list[record.Row]:
    """Train, or go on with it, and return the log. Raises UserError for what the user can mend."""
    events = events or Events()
    if job.resume and job.overwrite:
        raise UserError("--resume goes on with a run, --overwrite starts anew: use one of the two.")
    output.check_place(job.out)
    data, place = Folder.to_read(job.data, job.train.storage), Folder(job.out, job.train.storage)
    found = table.find(data)
    kept = None if job.overwrite or not record.is_started(place) else place.read(record.START)
    settings, begun_with = start.begun_with(job.train, kept)
    job = replace(job, train=settings)
    _check(job, found, data, place)
    with lock.held(place, ("_run", "tensorboard")) as out:
        record.sweep(out)
        if job.overwrite and record.is_being_replaced(out, _identity(job, found, begun_with), job.train.epochs):
            job = replace(job, overwrite=False)
        if not job.overwrite:
            _begin(job, found, out, begun_with, _now())
        log = [] if job.overwrite else record.rows(out)
        if len(log) < job.train.epochs:
            labels = [table.truth(rows) for rows in table.rows(data, found, job.train.split, "train", ROLES)]
            task = Task(job.train, Census.of(np.concatenate(labels)), _card(job, found, begun_with), begun_with)
            log = _run(job, task, found, log, data, out, events)
        _license(out, job.train)
        return log


def _license(out: Folder, settings: Train) -> None:
    """Have the weights' card name the licence that was asked for last: their epoch may be of before."""
    data = out.read(record.MODEL)
    if data and settings.licence not in (Train().licence, checkpoint.card(data, out.uri).licence):
        out.write(record.MODEL, checkpoint.told_anew(data, licence=settings.licence))


def _identity(job: TrainJob, found: Dataset, begun_with: bytes | None) -> dict[str, Any]:
    return record.identity(job.train, found) | start.noted(begun_with)


def _begin(job: TrainJob, found: Dataset, out: Folder, begun_with: bytes | None, started: str) -> None:
    about = {"started": started, "versions": _versions(), "anew": job.overwrite}
    record.begin(out, _identity(job, found, begun_with), about)
    if begun_with and not record.is_started(out):
        out.write(record.START, begun_with)


def _run(
    job: TrainJob, task: Task, found: Dataset, log: list[record.Row], data: Folder, out: Folder, events: Events
) -> list[record.Row]:
    """Train, and keep the pictures up to date, also when cut off."""
    if log:
        events.note(f"Going on after epoch {len(log)} of {job.train.epochs}.")
    with _engine(job, events) as (offers, run):
        force = workforce(offers, job.train.compute, job.train.batch)
        _check_force(job.train, force, task.census)
        if job.overwrite:  # only now that the new one can start
            record.clear(out)
            _begin(job, found, out, task.start, task.card.provenance["started"])
        events.note(_announced(task, found, force))
        if task.start and (why := has_heard(checkpoint.card(task.start, "begin_with"), found, task.settings.split)):
            events.note(f"Validation is flattering. {why}")
        pictures = record.Pictures(out)

        def told(kind: str, what: Any) -> None:
            out.check()
            if kind == "step":
                events.step(*what)
            else:
                pictures.epoch_ended()
                events.epoch(what)

        try:
            run(Job(task, data, found, out), force, told)
        finally:
            pictures.close()
    return record.rows(out)


@contextmanager
def _engine(job: TrainJob, events: Events) -> Iterator[tuple[list[tuple[float, float]], Callable[..., None]]]:
    """CPUs and GPUs of each node, and what trains on them: Ray where it is wanted, else this machine's cores."""
    if not cores.wants_ray(job.address, job.train.compute.device):
        yield [(joblib.cpu_count(), 0)], training_cores.run
        return
    from looptagger.cluster import session, training

    with session.session(job.address, events.note, float(job.train.compute.device == "cuda")):
        yield session.offers(), training.run


def _check(job: TrainJob, found: Dataset, data: Folder, out: Folder) -> None:
    """Refuse what cannot be trained. Raises UserError."""
    settings, counts = job.train, found.counts[job.train.split]
    if data.path == out.path:
        raise UserError(f"{job.out}: is the data set itself; choose another folder for the run.")
    if job.resume and not record.is_started(out):
        raise UserError(f"{job.out}: holds no run to resume; leave --resume out to start one.")
    if job.overwrite and _is_of(out, settings.begin_with, settings.storage):
        raise UserError(f"{job.out}: --overwrite would delete the model to learn from; choose another folder.")
    if job.out in checkpoint.NAMES:
        raise UserError(f"{job.out}: is the name of a model that looptagger brings along; call the run otherwise.")
    if settings.audio.sample_rate != found.sample_rate:
        raise UserError(
            f"{job.data}: holds audio at {found.sample_rate:,} Hz, not at audio.sample_rate = "
            f"{settings.audio.sample_rate:,} Hz; prepare it again with --set sample_rate, or change the setting."
        )
    if why := misfit(settings.model, settings.audio):
        raise UserError(f"{why}; change model or audio.chunk_samples.")
    bands, frames = map_size(settings.model, settings.audio)
    if settings.augment.band_mask > bands or settings.augment.time_mask > frames:
        raise UserError(f"augment: a mask is wider than a chunk's map of {bands} bands and {frames} frames; narrow it.")
    for part in ("train", "validation"):
        some = counts[part]
        if not any(0 < some[role] < some["loops"] for role in ROLES):
            raise UserError(
                f"{job.data}: the {part} part of the {settings.split} split has {some['loops']:,} loops and no role "
                "to tell apart; use --set split=stratified, or prepare with larger shares or more loops."
            )


def _is_of(run: Folder, model: str | None, storage: Storage) -> bool:
    """Whether a model is the run's own."""
    if not model or model in checkpoint.NAMES:
        return False
    place = Folder(model, storage)
    real = os.path.realpath if place.is_local else str
    return real(place.path) in [real(each) for each in (run.path, run.at(record.MODEL), run.at(record.START))]


def _check_force(settings: Train, force: Workforce, census: Census) -> None:
    if census.loops < force.workers:
        raise UserError(f"{census.loops:,} loops to learn from are too few for {force}; set compute.workers lower.")
    if not parts_evenly(settings.batch, force.workers):
        raise UserError(
            f"batch: {settings.batch} crops cannot be divided evenly, two each at least, among {force.workers} "
            "workers; set batch to a multiple, or compute.workers to another number."
        )


def _announced(task: Task, found: Dataset, force: Workforce) -> str:
    settings = task.settings
    held_out = found.counts[settings.split]["validation"]["loops"]
    never = [phase.from_epoch for phase in settings.phases if phase.from_epoch >= settings.epochs]
    lost = f" The phases from epoch {never[0]} on are not reached." if never else ""
    return (
        f"Training {settings.model.kind} on {task.census.loops:,} loops, {held_out:,} held out for validation "
        f"({settings.split} split): {settings.epochs} epochs of {task.census.steps(settings)} steps "
        f"of {settings.batch} crops, on {force}.{lost}"
    )


def _card(job: TrainJob, found: Dataset, begun_with: bytes | None) -> Card:
    """The checkpoint's card but for what validation decides."""
    name = plain_name(job.out.rstrip("/").rpartition("/")[2]) or job.train.model.kind
    data = found.model_dump(exclude={"parts", "counts", "format", "licences"})
    licences = dict(Counter(found.licences).most_common(LICENCES))
    provenance = {
        "made": "looptagger train",
        "started": (None if job.overwrite else record.started(Folder(job.out, job.train.storage))) or _now(),
        "data": {**data, "licences": licences, "split": job.train.split},
        "counts": found.counts[job.train.split],
        "settings": job.train.model_dump(mode="json", exclude={"storage"}),
        "versions": _versions(),
        **start.noted(begun_with),
        **start.learned_from(begun_with),
    }
    card = Card(name=name, model=job.train.model, audio=job.train.audio, licence=job.train.licence)
    return card.model_copy(update={"provenance": provenance, **start.thresholds(begun_with)})


def _versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
