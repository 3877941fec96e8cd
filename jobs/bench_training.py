"""`make bench-training`: what training costs beyond its steps, as ratios within one run. Figures seen: README.md.

(a) steps on loops as they come against steps on one batch that is there already: in one process, and as a whole job;
(b) two workers of the job against one process on half as many cores.
"""

import argparse
import multiprocessing
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from rich.console import Console
from rich.table import Table

from jobs.bench import make_clips
from jobs.ratios import seconds, spread
from looptagger.archive.storage import Folder
from looptagger.cluster.preparing import PrepareJob, prepare
from looptagger.cluster.session import session
from looptagger.cluster.training_job import TrainJob, train
from looptagger.config import Prepare, Train
from looptagger.learn import table as tables
from looptagger.learn.augment import Tensors
from looptagger.learn.task import Census
from looptagger.learn.worker import KEEP_MEMORY
from looptagger.roles import ROLES
from looptagger.settings import load

FED = "(a) a step on loops as they come ÷ on one batch, time"
WHOLE = "    a step of `looptagger train`, with all else on the same cores ÷ on one batch"
TWO = "(b) two workers of it ÷ one process on half of the cores, or one worker on one GPU, crops/s"
BARS = {FED: "at most 1.05", TWO: "1.8"}


def make_data(folder: Path, count: int) -> str:
    """A prepared data set of cuts of the demo loops; their roles are drawn."""
    rng = np.random.default_rng(0)
    audio, data = folder / "clips", str(folder / "data")
    audio.mkdir()
    lines = [f"{path.name},{ROLES[rng.integers(len(ROLES))]}" for path in make_clips(audio, count)]
    (audio / "labels.csv").write_text("\n".join(["path,roles", *lines]))
    prepare(PrepareJob(str(audio), data, str(audio / "labels.csv"), Prepare(shares=(0.95, 0.05, 0.0))))
    return data


def step_rates(data: str, settings: Train, share: float) -> tuple[float, float]:
    """Crops/s of steps on one batch, and on loops as they come, without Ray, on that share of the cores or a GPU."""
    import torch

    from looptagger.learn.augment import tensors
    from looptagger.learn.batches import ahead, batches
    from looptagger.learn.learner import Learner
    from looptagger.learn.peers import Peers
    from looptagger.learn.share import KEEP, Share

    on_gpu = torch.cuda.is_available()
    torch.set_num_threads(max(1, round(torch.get_num_threads() * share)))
    torch.set_float32_matmul_precision("high" if on_gpu else "highest")
    torch.backends.cudnn.benchmark = on_gpu
    folder = Folder(data)
    found = tables.find(folder)
    mine = Share(folder, found.parts, settings.split, KEEP)
    census = Census.of(np.stack([loop.labels for loop in mine.train([0, 0])]))
    learner = Learner(settings, census, Peers(0, 1, torch.device("cuda" if on_gpu else "cpu")))
    learner.enter(0, None)

    def fed(epoch: int) -> Iterator[Tensors]:
        each = batches(mine.train([0, epoch]), settings, census, epoch)
        return (tensors(batch, pinned=on_gpu) for batch in each)

    def work(source: Iterable[Tensors]) -> None:
        last = [loss for _, loss in learner.train(0, source)][-1]
        float(last)  # waits for the GPU

    one = [next(fed(0))] * learner.steps
    work(one)
    crops = settings.batch * learner.steps
    return crops / seconds(lambda: work(one)), crops / seconds(lambda: work(ahead(fed(1))))


def real_rate(data: str, out: str, settings: Train) -> float:
    """Crops/s of a whole training by its log, but for the first epoch, in which everything wakes up."""
    log = train(TrainJob(data, out, settings, overwrite=True))
    return float(np.mean([row["crops_per_s"] for row in log[1:]]))


def cards() -> int:
    """GPUs of this machine."""
    import torch

    return torch.cuda.device_count()


def apart(count: int, *arguments: Any) -> tuple[float, float]:
    """Step rates in processes of their own, so many at once, whose memory is kept as a CPU worker's is: their sums."""
    with (
        patch.dict(os.environ, {} if cards() else KEEP_MEMORY),
        multiprocessing.get_context("spawn").Pool(count) as pool,
    ):
        rates = pool.starmap(step_rates, [arguments] * count, chunksize=1)
    constant, fed = map(sum, zip(*rates, strict=True))
    return constant, fed


def measured(data: str, out: str, one: Train, two: Train) -> dict[str, float]:
    """All ratios, once."""
    constant, fed = apart(1, data, one, 1.0)
    with session(None) if cards() else nullcontext():
        alone = real_rate(data, out, one)
        together = real_rate(data, out, two) if cards() != 1 else 0.0
    found = {FED: constant / fed, WHOLE: constant / alone, "crops/s": alone}
    if cards():
        return found | ({TWO: together / alone} if together else {})
    half, both = apart(1, data, one, 0.5)[0], apart(2, data, one, 0.5)[0]
    return found | {TWO: together / half, "    two processes that know nothing of each other ÷ one": both / half}


def main() -> None:
    """Measure in turn and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a prepared data set; without, one is made")
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--config", type=Path, default=Path("jobs/starter/train.yaml"))
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    one = load(Train, args.config, ["epochs=2", "compute.workers=1", *args.set])
    two = load(Train, args.config, ["epochs=2", *args.set, "compute.workers=2"])
    with tempfile.TemporaryDirectory() as place:
        data = args.data or make_data(Path(place), args.clips)
        found = [measured(data, f"{place}/run", one, two) for _ in range(args.rounds)]
    cores = len(os.sched_getaffinity(0))
    table = Table("what", "median (range)", "bar", title=f"{cores} cores, batches of {one.batch}")
    for name in found[0]:
        table.add_row(name, spread([each[name] for each in found]), BARS.get(name, ""))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
