"""The paper's comparison from request to result: what `looptagger paper` calls."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa

from looptagger.archive import lock, output
from looptagger.archive.patience import patiently
from looptagger.archive.storage import Folder
from looptagger.cluster import cores, extraction
from looptagger.cluster.training_job import Events as TrainEvents
from looptagger.config import PROTOCOLS, Train
from looptagger.errors import UserError, one_line
from looptagger.learn import fairness, start, table
from looptagger.learn.table import Dataset
from looptagger.model import checkpoint
from looptagger.paper import chunks, features, results, runs
from looptagger.paper.runs import TEST, VALIDATION, Run
from looptagger.paper.settings import NETWORKS, SYSTEMS, Paper
from looptagger.roles import ROLES

FEATURES_VERSION = 3
"""Another number where another code would give other features."""


@dataclass(frozen=True)
class PaperJob:
    """What the user asked for. Without `test`, the data set's own test part is judged."""

    data: str
    out: str
    paper: Paper = Paper()
    test: str | None = None
    address: str | None = None


@dataclass(frozen=True)
class Events:
    """How the job tells of itself."""

    note: Callable[[str], None] = lambda text: None
    features: Callable[[int, int], None] = lambda done, total: None
    training: Callable[[Train], TrainEvents] = lambda settings: TrainEvents()


@dataclass(frozen=True)
class Site:
    """Where everything lies: the data set that is learned from, the one that is judged if another, the output."""

    job: PaperJob
    learned: tuple[Folder, Dataset]
    judged: tuple[Folder, Dataset] | None
    out: Folder
    versions: dict[str, str]
    begun: dict[str, str]

    def where(self, protocol: str, part: str) -> tuple[Folder, Dataset, str, str]:
        """The data set that holds a part, and what selects its loops there."""
        split = getattr(self.job.paper, protocol).split
        return (*self.judged, split, "all") if part == TEST and self.judged else (*self.learned, split, part)

    def runs(self, settings: Paper) -> list[Run]:
        """The runs that some settings mean here."""
        data, test = (runs.identity(dataset) for _, dataset in (self.learned, self.judged or self.learned))
        return runs.runs(settings, data, test, self.versions, self.begun)

    def sources(self) -> list[extraction.Source]:
        """The data sets whose features are wanted; the one that is learned from first."""
        found = [self._source(*self.learned, self.job.paper.published.split)]
        return [*found, self._source(*self.judged, extraction.ALL_TEST)] if self.judged else found

    def _source(self, data: Folder, dataset: Dataset, split: str) -> extraction.Source:
        about = (runs.identity(dataset), split, self.versions["essentia"], FEATURES_VERSION)
        return extraction.Source(data, dataset, split, f"features/{runs.digest(*about)}")


def paper(job: PaperJob, events: Events | None = None) -> results.Results:
    """Do what is left of the runs asked for, then write tables and figures of all that there are.

    A run that cannot be done is told of, and does not keep the others from it. Raises UserError for what concerns all.
    """
    events = events or Events()
    output.check_place(job.out)
    site = _site(job)
    if shared := _shared(site):
        events.note(f"{shared:,} loops of {job.test} are learned from, or chosen on, in {job.data}: they flatter.")
    with lock.held(site.out, ("_run", "features", "scores", "runs")) as held:
        site = replace(site, out=held)
        output.sweep(site.out, runs.SCORES)
        asked = site.runs(job.paper)
        wanted = [run for run in asked if run.stored(site.out) is None]
        if any(run.system not in NETWORKS for run in wanted):
            _extract(site, events)
        failed = []
        for number, run in enumerate(wanted, len(asked) - len(wanted) + 1):
            events.note(f"{number}/{len(asked)}: {run.title} ...")
            try:
                scores = _network(run, site, events) if run.system in NETWORKS else _classic(run, site, events)
            except Exception as error:  # of memory, of a library: this run's alone
                site.out.write(f"_run/failed-{run.name}.log", traceback.format_exc().encode())
                failed.append(f"{run.title}: {one_line(error)}.")
                events.note(failed[-1])
                continue
            run.store(site.out, scores)
        if len(failed) == len(asked):
            raise UserError(failed[0])
        everything = job.paper.model_copy(update={"systems": SYSTEMS, "protocols": PROTOCOLS})
        every = site.runs(everything)
        there = {name for name in site.out.names(runs.SCORES) if not name.startswith(".")}
        if others := there - {f"{run.name}.parquet" for run in every}:
            events.note(f"Not in the tables: {len(others)} stored runs of other seeds, settings, data or libraries.")
        found = results.write(every, site.out, *site.learned, site.judged)
        return replace(found, failed=failed)


def _site(job: PaperJob) -> Site:
    def opened(place: str) -> tuple[Folder, Dataset]:
        folder = Folder.to_read(place, job.paper.storage)
        return folder, table.find(folder)

    learned, judged = opened(job.data), None if job.test is None else opened(job.test)
    versions = features.require() if set(job.paper.systems) - set(NETWORKS) else features.known()
    site = Site(job, learned, judged, Folder(job.out, job.paper.storage), versions, _begun(job.paper))
    for protocol in job.paper.protocols:
        for part in ("train", VALIDATION, TEST):
            folder, dataset, split, name = site.where(protocol, part)
            if not dataset.size(split, name):
                raise UserError(
                    f"{folder.uri}: the {part} part of the {split} split holds no loops; prepare it with other "
                    "shares, or judge another data set with --test DIR."
                )
    if judged and judged[1].digest == learned[1].digest:
        raise UserError(f"{job.test}: holds the loops of {job.data}, which are learned from; leave --test out.")
    if judged and judged[1].sample_rate != learned[1].sample_rate:
        raise UserError(f"{job.test}: holds audio at another rate than {job.data}; prepare it again with the same.")
    return site


def _begun(paper: Paper) -> dict[str, str]:
    """The id of the model that networks begin with, by protocol. Raises UserError where one is asked for and gone."""
    found: dict[str, str] = {}
    for protocol in PROTOCOLS:
        if name := getattr(paper, protocol).begin_with:
            try:
                data = checkpoint.resolve(name, paper.storage)
                found[protocol] = checkpoint.model_id(data, checkpoint.card(data, name))
            except UserError:
                if set(paper.systems) & set(NETWORKS):
                    raise
    return found


def _shared(site: Site) -> int:
    """How many loops of another test set sound, sample by sample, as one that is learned from or chosen on."""
    if not site.judged:
        return 0
    protocols = site.job.paper.protocols
    parts = [site.where(protocol, part) for protocol in protocols for part in ("train", VALIDATION)]
    learned = {each for part in parts for each in table.audio_digests(*part)}
    return sum(each in learned for each in table.audio_digests(*site.where(protocols[0], TEST)))


def _extract(site: Site, events: Events) -> None:
    """The features that are not there yet."""
    sources = [source for source in site.sources() if extraction.left(source, site.out)]
    if not sources:
        return
    events.note("Extracting features with Essentia, on every core ...")
    with cores.workers(site.job.address, events.note) as computed:
        for source in sources:
            extraction.extract(source, site.out, computed, events.features)


def _classic(run: Run, site: Site, events: Events) -> pa.Table:
    from looptagger.paper.classic import ClassicSystem

    ours = run.protocol == "ours"
    loops = _loops(run, site, "train", features.CHUNK if ours else features.CROP)
    given = (loops.features, loops.labels, site.job.paper.classic, run.seed)
    system = ClassicSystem(run.system, *given, decides=not ours, loop=loops.loop)
    found, unheard = [], loops.unheard
    for part in _judged(run):
        judged = _loops(run, site, part, features.CHUNK if ours else features.WINDOW)
        scores = judged.scores(system.scores, system.constant)
        if not ours:  # what most of a loop's windows are said to play
            scores = (scores > 0.5).astype(scores.dtype)
        found.append(runs.table(judged.ids, part, judged.truth, scores))
        unheard += judged.unheard
    if unheard:
        events.note(f"Essentia failed on all of {unheard:,} loops: left out of training, scored by chance.")
    return pa.concat_tables(found)


def _judged(run: Run) -> Sequence[str]:
    """The parts whose scores are needed: the published threshold is fixed, ours come from validation."""
    return (VALIDATION, TEST) if run.protocol == "ours" else (TEST,)


def _loops(run: Run, site: Site, part: str, kind: str) -> chunks.Loops:
    data, dataset, split, name = site.where(run.protocol, part)
    source = next(source for source in site.sources() if source.dataset is dataset)
    columns = list(dict.fromkeys(["id", *ROLES, split]))

    def pairs() -> Iterator[tuple[Any, Any]]:
        for file in dataset.parts:
            rows = table.in_part(table.read(data, file, columns), split, name)
            yield rows, runs.kept(site.out, f"{source.sub}/{extraction.name_of(file)}")

    return chunks.gather(pairs(), kind)


def _check_same(site: Site) -> None:
    """Refuse to go on with a data set that was prepared anew. Raises UserError."""
    for data, known in filter(None, (site.learned, site.judged)):
        if runs.identity(patiently(partial(table.find, data), data.storage)) != runs.identity(known):
            raise UserError(f"{data.uri}: was prepared anew meanwhile; run the same command again.")


def _network(run: Run, site: Site, events: Events) -> pa.Table:
    """Train, or go on, in a folder of its own, and score with the best epoch. Raises UserError."""
    from looptagger.cluster.training_job import TrainJob, train
    from looptagger.learn.evaluation import scores_of
    from looptagger.model.predictor import Predictor

    job, settings = site.job, site.job.paper.train(run.system, run.protocol, run.seed)
    if (kind := start.begun_with(settings)[0].model.kind) != NETWORKS[run.system]:
        raise UserError(f"begin_with={settings.begin_with} is of kind {kind}; name a {run.system}, or leave it out")
    place = f"{job.out.rstrip('/')}/runs/{run.system.lower()}-{run.seed}-{run.trained}"
    _check_same(site)
    train(TrainJob(job.data, place, settings, address=job.address), events.training(settings))
    _check_same(site)
    trained = checkpoint.resolve(place, job.paper.storage)
    predictor = Predictor(trained, place, settings.compute.scoring(settings.compute.device))
    found = []
    for part in _judged(run):
        where = site.where(run.protocol, part)
        for why in fairness.warnings(predictor.card, *where[1:]) if part == TEST else ():
            events.note(f"Not fair: {why}")
        ids = list(table.makers(*where))
        found.append(runs.table(ids, part, *scores_of(predictor, *where, run.protocol)))
    return pa.concat_tables(found)
