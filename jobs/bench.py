"""`make bench`: what a clip costs, as ratios within one run. Figures seen: README.md, "Speed".

(a) the whole job in steady state against decode + forward in plain processes, one a core, by turns;
(b) the inference forward against the plain eager module, one thread;
(c) decode + resample against other libraries, format by format.
"""

import argparse
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile
from rich.console import Console
from rich.table import Table

from jobs.bench_decode import bench_decode
from jobs.ratios import paired, seconds, spread
from looptagger.archive.paths import is_audio
from looptagger.config import Audio, Compute, Tag
from looptagger.settings import load

LOOPS = Path(__file__).resolve().parents[1] / "tests/data/loops"


def make_clips(folder: Path, count: int) -> list[Path]:
    """Clips of 1 to 12 s, cut at seeded places out of the demo loops, as wav, flac, ogg and mp3."""
    rng = np.random.default_rng(0)
    loops = [soundfile.read(path, dtype="float32") for path in sorted(LOOPS.glob("*.flac"))]
    kinds = (("wav", "WAV"), ("flac", "FLAC"), ("ogg", "OGG"), ("mp3", "MP3"))
    paths = []
    for number in range(count):
        samples, rate = loops[number % len(loops)]
        repeated = np.tile(samples, (9, 1) if samples.ndim == 2 else 9)
        first = int(rng.integers(0, len(samples)))
        length = int(rng.uniform(1, 12) * rate)
        ending, kind = kinds[number % 4]
        paths.append(folder / f"{number:05d}.{ending}")
        with soundfile.SoundFile(paths[-1], "w", rate, repeated.ndim, format=kind) as file:
            for start in range(first, first + length, rate):
                file.write(repeated[start : min(start + rate, first + length)])
    return paths


def bench_forward(table: Table) -> None:
    """(b) One thread; eager at the batch size that suits it best."""
    import torch

    from looptagger.model import checkpoint
    from looptagger.model.predictor import Predictor

    torch.set_num_threads(1)
    data = checkpoint.untrained()
    network, _ = checkpoint.load(data, "bench")
    predictor = Predictor(data, compute=Compute(device="cpu"))
    pcm = np.random.default_rng(0).integers(-9000, 9000, (8, 48_000)).astype(np.int16)
    wave = torch.from_numpy(pcm).float() / 32768

    def eager(batch: int) -> Callable[[], torch.Tensor]:
        def work() -> torch.Tensor:
            with torch.inference_mode():
                return torch.cat([torch.sigmoid(network(part)) for part in wave.split(batch)])

        return work

    with torch.inference_mode():
        error = float((eager(8)() - torch.from_numpy(predictor.chunk_scores(pcm)[0])).abs().max())
    for batch in (1, 8):
        ratios = paired(lambda: predictor.chunk_scores(pcm), eager(batch))
        table.add_row(f"(b) forward / eager float32, batches of {batch}", spread(ratios), "2.5")
    for precision in ("bfloat16", "int8")[: 1 + torch.cpu._is_vnni_supported()]:
        other = Predictor(data, compute=Compute(device="cpu", precision=precision))
        apart = np.abs(other.chunk_scores(pcm)[0] - predictor.chunk_scores(pcm)[0]).max()
        ratios = paired(lambda: other.chunk_scores(pcm), lambda: predictor.chunk_scores(pcm))  # noqa: B023 (run here)
        table.add_row(f"    {precision} / our default; scores differ by {apart:.0e}", spread(ratios), "")
    rate = 8 / seconds(lambda: predictor.chunk_scores(pcm))
    table.add_row("    chunks/s on one thread; largest difference in a score", f"{rate:.1f}; {error:.0e}", "1e-4")


def plain_rate(clips: Sequence[Path], tag: Tag) -> float:
    """Clips/s of decode + forward in this one process, on one thread, after a warm-up; no Ray."""
    import torch

    from looptagger.model import checkpoint
    from looptagger.model.predictor import Predictor
    from looptagger.steps.decoding import decoded
    from looptagger.steps.tagging import tagged

    torch.set_num_threads(1)
    predictor = Predictor(checkpoint.untrained(), compute=tag.compute)
    uris = [str(path) for path in clips]
    rows = pa.table({"id": uris, "uri": uris})

    def work(table: pa.Table) -> None:
        for part in decoded(table, Audio(), tag):
            tagged(part, predictor, chunks=False, embedding=False)

    work(rows.slice(0, 16))
    return len(clips) / seconds(lambda: work(rows))


def bench_job(table: Table, clips: Sequence[Path], cores: int, tag: Tag) -> None:
    """(a) In turn: plain processes, one a core, the job, the plain processes again."""
    from looptagger.cluster.tagging_job import Events, TagJob
    from looptagger.cluster.tagging_job import tag as run

    rates = []
    events = Events(progress=lambda progress: rates.append(progress.rates))
    with tempfile.TemporaryDirectory() as out:
        before = _side_by_side(clips, cores, tag)
        summary = run(TagJob(tuple(map(str, clips)), f"{out}/tags", model="untrained", tag=tag), events)
        after = _side_by_side(clips, cores, tag)
    steady, plain = rates[-1][0] if rates[-1] else 0.0, (before + after) / 2
    table.add_row(f"(a) job {steady:.1f} / plain processes {plain:.1f} clips/s", f"{steady / plain:.2f}", "0.95")
    table.add_row(
        f"    {summary.clips} clips from the workers' start: clips/s", f"{summary.clips / summary.seconds:.1f}", ""
    )


def _side_by_side(clips: Sequence[Path], cores: int, tag: Tag) -> float:
    """Clips/s of so many processes at once, each with its share."""
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        return sum(pool.starmap(plain_rate, [(clips[i::cores], tag) for i in range(cores)], chunksize=1))


def _clips_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and is_audio(path.name))


def main() -> None:
    """Run the parts asked for and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="abc", help="which parts, e.g. bc")
    parser.add_argument("--clips", type=int, default=400, help="so many are made")
    parser.add_argument("--folder", type=Path, help="take all of its clips instead")
    parser.add_argument("--set", action="append", default=[], help="a setting of the job")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        clips = _clips_of(args.folder) if args.folder else make_clips(Path(folder), args.clips)
        if not clips:
            parser.error(f"{args.folder} holds no clips")
        table = Table("what", "ratio: median (range)", "bar", title=f"{cores} cores, {len(clips):,} clips")
        if "b" in args.only:
            bench_forward(table)
        if "a" in args.only:
            bench_job(table, clips, cores, load(Tag, None, args.set))
        console = Console(width=120)
        console.print(table)
        if "c" in args.only:
            console.print(bench_decode(clips))


if __name__ == "__main__":
    main()
