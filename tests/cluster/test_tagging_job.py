"""The job on a real Ray session: two logical CPUs, and a GPU that is only logical (the model then runs on a CPU)."""

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from jobs.drills.processes import PREDICTOR, kill, named
from looptagger.archive import status, tags
from looptagger.archive.manifest import Shard
from looptagger.archive.output import Work
from looptagger.archive.storage import Folder
from looptagger.cluster import session, stalls, tagging
from looptagger.cluster.progress import Progress
from looptagger.cluster.tagging_job import Events, Summary, TagJob, tag
from looptagger.config import Audio, Compute, Tag
from looptagger.errors import UserError
from looptagger.model import integers
from looptagger.model.checkpoint import STARTER
from looptagger.model.predictor import Predictor
from looptagger.steps.worker import Brief, check_roots
from tests.conftest import LOOPS, audio_bytes, tone, write_tones

pytestmark = pytest.mark.usefixtures("ray_here")

ON_CPU = Tag(compute=Compute(device="cpu", shard_rows=8))
ON_GPU = Tag(compute=Compute(device="auto", gpus_per_predictor=0.5, shard_rows=8))


def run(source: Path | str, out: Path, model: str, events: Events | None = None, **how: Any) -> Summary:
    return tag(TagJob((str(source),), str(out), model, **({"tag": ON_CPU} | how)), events)


def rows(out: Path) -> list[tuple[Any, ...]]:
    return duckdb.sql(f"from '{out}/*.parquet' order by id").fetchall()


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Thirty tones, a long clip, and one each of corrupt, empty, silent."""
    folder = tmp_path / "audio"
    write_tones(folder, 30)
    (folder / "long.flac").write_bytes(audio_bytes(tone(10), format="FLAC"))
    (folder / "corrupt.mp3").write_bytes(b"\x12" * 4000)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "silent.wav").write_bytes(audio_bytes(tone(1) * 0))
    return folder


def test_one_row_a_clip_in_the_exact_schema(mixed: Path, tmp_path: Path, tiny_model: str) -> None:
    seen: list[tuple[int, int]] = []
    notes: list[str] = []
    events = Events(notes.append, progress=lambda progress: seen.append((progress.done, progress.failed)))
    summary = run(mixed, tmp_path / "out", tiny_model, events)
    assert (summary.clips, summary.failed, summary.total) == (34, 3, 34)
    assert seen[0] == (0, 0)
    assert seen[-1] == (34, 3)
    assert "random weights" in notes[0]
    assert status.verify(Folder(str(tmp_path / "out"))) == []
    for part in (tmp_path / "out").glob("*.parquet"):
        assert pq.read_schema(part).equals(tags.CLIP_SCHEMA)
    reasons = dict(duckdb.sql(f"select status, count(*) from '{tmp_path}/out/*.parquet' group by 1").fetchall())
    assert reasons == {"ok": 31, "undecodable": 1, "empty": 1, "silent": 1}


def test_a_shard_tagged_in_pieces_is_one_part_in_order_though_a_worker_dies(tmp_path: Path, tiny_model: str) -> None:
    write_tones(tmp_path / "audio", 70)
    seen: list[int] = []
    killed: list[int] = []

    def strike(rows: pa.Table) -> None:
        if not killed:
            killed.extend(named(os.getpid(), PREDICTOR)[:1])
            kill(killed)

    events = Events(progress=lambda progress: seen.append(progress.done), rows=strike)
    run(tmp_path / "audio", tmp_path / "out", tiny_model, events, tag=Tag(compute=Compute(device="cpu", shard_rows=70)))
    assert len(set(seen)) > 2, "progress before the part is whole"
    (part,) = (tmp_path / "out").glob("*.parquet")
    rows = pq.read_table(part)
    ids = rows.column("id").to_pylist()
    assert len(ids) == 70
    assert ids == sorted(ids)
    assert set(rows.column("status").to_pylist()) == {"ok"}
    assert len(killed) == 1
    assert status.verify(Folder(str(tmp_path / "out"))) == []


def test_gpu_and_cpu_pipelines_agree(mixed: Path, tmp_path: Path, tiny_model: str) -> None:
    run(mixed, tmp_path / "cpu", tiny_model)
    notes: list[str] = []
    run(mixed, tmp_path / "gpu", tiny_model, Events(notes.append), tag=ON_GPU)
    assert "feeding 2 GPU predictors" in notes[-1]
    for one, other in zip(rows(tmp_path / "cpu"), rows(tmp_path / "gpu"), strict=True):
        assert one[4:10] == pytest.approx(other[4:10], abs=5e-3 if torch.cuda.is_available() else 1e-4)  # half floats
        assert one[:4] + one[10:] == other[:4] + other[10:]


@pytest.mark.usefixtures("no_workers")
def test_resume_update_retry_and_refusal(mixed: Path, tmp_path: Path, tiny_model: str) -> None:
    out = tmp_path / "out"
    first = run(mixed, out, tiny_model, limit=20)
    assert (first.clips, first.total) == (20, 20)
    rest = run(mixed, out, tiny_model)
    assert (rest.before, rest.clips, rest.total) == (20, 14, 34)
    assert run(mixed, out, tiny_model).clips == 0
    (mixed / "new.wav").write_bytes(audio_bytes(tone(1)))
    (mixed / "empty.wav").write_bytes(audio_bytes(tone(1)))
    assert run(mixed, out, tiny_model, update=True).clips == 1
    assert run(mixed, out, tiny_model, retry_errors=True).by_status == {"ok": 1, "undecodable": 1, "silent": 1}
    assert status.verify(Folder(str(out))) == []
    with pytest.raises(UserError, match="made without --chunks; leave it out, choose another output"):
        run(mixed, out, tiny_model, chunks=True)
    with pytest.raises(UserError, match="made without --embeddings; leave it out, choose another output"):
        run(mixed, out, tiny_model, embeddings=True)
    first, second, *_ = sorted(out.glob("part-*"))
    for path in (first, second):
        path.unlink()
    assert run(mixed, out, tiny_model, limit=8).clips == 8
    assert (first.exists(), second.exists()) == (True, False)
    assert run(mixed, out, tiny_model).clips == 8
    assert run(mixed, out, tiny_model, chunks=True, overwrite=True).clips == 35


@pytest.mark.usefixtures("one_worker")
def test_int8_has_outputs_of_its_own(tmp_path: Path) -> None:
    quick = Tag(compute=Compute(device="cpu", precision="int8"))
    plain = Tag(compute=Compute(device="cpu"))
    try:
        integers.check()
    except UserError as why:
        with pytest.raises(UserError, match="AVX-512 VNNI"):  # said by a worker, which cannot begin
            run(LOOPS, tmp_path / "refused", STARTER, tag=quick)
        pytest.skip(str(why))
    assert run(LOOPS, tmp_path / "quick", STARTER, tag=quick, limit=4).failed == 0
    with pytest.raises(UserError, match="made with compute.precision=int8; set it, choose"):
        run(LOOPS, tmp_path / "quick", STARTER, tag=plain)
    run(LOOPS, tmp_path / "plain", STARTER, tag=plain, limit=4)
    with pytest.raises(UserError, match="made without compute.precision=int8; leave it out, choose"):
        run(LOOPS, tmp_path / "plain", STARTER, tag=quick)
    for one, two in zip(rows(tmp_path / "quick"), rows(tmp_path / "plain"), strict=True):
        assert one[4:10] == pytest.approx(two[4:10], abs=0.05)


def test_a_model_that_a_worker_refuses_ends_the_job_with_its_sentence(tmp_path: Path) -> None:
    works, brief = [Work("p", Shard("f", 0, 1, 0))], Brief(Folder(str(tmp_path)), Tag(), Audio(), False, False)
    with tagging.engine(works, brief, b"no checkpoint", None, print) as engine:
        (block,) = engine.blocks()
    assert block.column("status").to_pylist() == [tags.STOPPED]
    assert "checkpoint" in block.column("error")[0].as_py()


@pytest.mark.usefixtures("no_workers")
def test_chunks_embeddings_and_the_caller_s_columns(mixed: Path, tmp_path: Path, tiny_model: str) -> None:
    manifest = tmp_path / "m.parquet"
    names = ["long.flac", "corrupt.mp3", "tone0001.wav"]
    table = {
        "id": list("abc"),
        "uri": [f"audio/{name}" for name in names],
        "bpm": [90.5, None, 120.0],
        "pack": [{"n": 1}] * 3,
    }
    pq.write_table(pa.table(table), manifest)
    by_two = Tag(compute=Compute(device="cpu", shard_rows=2))
    run(manifest, tmp_path / "out", tiny_model, chunks=True, embeddings=True, tag=by_two)
    columns = "id, n_chunks, len(embedding), embedding_row, bpm, pack.n"
    found = duckdb.sql(f"select {columns} from '{tmp_path}/out/*.parquet' order by 1")
    assert found.fetchall() == [("a", 4, 8, 0, 90.5, 1), ("b", 0, None, 1, None, 1), ("c", 1, 8, 2, 120.0, 1)]
    chunks = duckdb.sql(f"select id, chunk, start_s from '{tmp_path}/out/chunks/*.parquet' order by 1, 2").fetchall()
    assert chunks == [("a", 0, 0.0), ("a", 1, 3.0), ("a", 2, 6.0), ("a", 3, 7.0), ("c", 0, 0.0)]


@pytest.mark.usefixtures("no_workers")
def test_the_same_audio_gives_the_same_scores_each_run(tmp_path: Path, tiny_model: str) -> None:
    run(LOOPS, tmp_path / "one", tiny_model)
    run(LOOPS, tmp_path / "two", tiny_model, tag=Tag(compute=Compute(device="cpu", shard_rows=3)))
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == 12
    predictor = Predictor.load(tiny_model, Compute(device="cpu"))
    for row, path in zip(one, sorted(LOOPS.glob("*.flac")), strict=True):
        waveform, rate = soundfile.read(path, dtype="float32")
        assert row[0].endswith(path.name)
        assert row[4:10] == pytest.approx(list(predictor(waveform, rate).scores.values()), abs=1e-3)
        assert row[12:15] == (rate, 1 if waveform.ndim == 1 else waveform.shape[1], "flac")
    for first, second in zip(one, two, strict=True):
        assert first[4:10] == pytest.approx(second[4:10], abs=1e-6)
        assert first[:4] + first[10:] == second[:4] + second[10:]


@pytest.mark.usefixtures("no_workers")
def test_a_manifest_from_a_stranger_reaches_no_other_place(tmp_path: Path, tiny_model: str) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("hunter2 " * 200)
    (tmp_path / "in").mkdir()
    uris = ["../secret.txt", "../../../../../../etc/passwd", f"file://{secret}", "/dev/zero", "/proc/self/environ"]
    lines = [f"../../{number}/../x,{uri}" for number, uri in enumerate(uris)]
    (tmp_path / "in" / "m.csv").write_text("id,uri\n" + "\n".join(lines) + "\n")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    run(tmp_path / "in" / "m.csv", tmp_path / "out", tiny_model)
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(tmp_path / "out") for path in written)
    found = pq.read_table(tmp_path / "out").to_pylist()
    assert [row["id"] for row in found] == [line.split(",")[0] for line in lines]
    assert {row["status"] for row in found} <= {"undecodable", "unreadable", "empty"}
    assert not any("hunter2" in str(row) or "root:" in str(row) for row in found)


@pytest.mark.usefixtures("no_workers")
def test_an_output_that_goes_away_is_not_made_anew(mixed: Path, tmp_path: Path, tiny_model: str) -> None:
    out, away = tmp_path / "out", tmp_path / "away"

    def take(table: pa.Table) -> None:
        if out.exists():
            out.rename(away)

    with pytest.raises(UserError, match=r"out: is gone; put it back and run the same command"):
        run(mixed, out, tiny_model, Events(rows=take))
    assert not out.exists()
    away.rename(out)
    assert run(mixed, out, tiny_model).total == 34
    assert status.verify(Folder(str(out))) == []


@pytest.mark.usefixtures("no_workers")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_fills_stops_the_job_with_a_sentence(mixed: Path, tmp_path: Path, tiny_model: str) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "small", small], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        with pytest.raises(UserError, match="the disk is full; free some space"):
            run(mixed, small / "out", tiny_model)
        before = status.status(Folder(str(small / "out"))).done
        assert before < 34
        subprocess.run(["mount", "-o", "remount,size=4m", small], check=True)
        assert run(mixed, small / "out", tiny_model).before == before
        assert status.verify(Folder(str(small / "out"))) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_pool_grows_with_the_cluster_and_not_beyond_its_work() -> None:
    works = [Work(f"part-{n}", Shard("f", n, n + 1, n), 0) for n in range(5)]
    sizes = [(pool.min_size, pool.max_size) for pool in (tagging._pool(2, works), tagging._pool(9, works))]
    assert sizes == [(2, 5), (5, 5)]


def test_a_cluster_that_gets_no_node_is_waited_for_and_then_said(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(session, "COMING_S", 0.6)
    session._await_node(1, 0, notes.append)
    session._await_node(0, 1, notes.append)
    assert notes == []
    with pytest.raises(UserError, match="got no node that offers 64 CPU; look at `ray status` there"):
        session._await_node(64, 0, notes.append)
    assert "waiting for one, 0.01 minutes at most" in notes[0]


def test_a_gpu_is_waited_for_where_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(session.ray, "shutdown", lambda: None)
    monkeypatch.setattr(session, "_knock", lambda *_: None)
    monkeypatch.setattr(session, "_start", lambda address: None)
    monkeypatch.setattr(session, "_await_node", lambda cpus, gpus, note: asked.append((cpus, gpus)))
    with session.session("head:6379", print, gpus=0.5) as ours:
        assert not ours
    with session.session(None, print, gpus=0.5) as ours:
        assert ours
    assert asked == [(1, 0), (0, 0.5)], "of a cluster only: what is started here has what this machine has"


def test_a_clip_that_is_missing_elsewhere_stops_nothing(tmp_path: Path) -> None:
    rows = pa.table({"uri": [f"{tmp_path}/loops/a.wav", "s3://bucket/b.wav"], "status": ["missing", "ok"]})
    check_roots(rows, (f"{tmp_path}/emptied", f"{tmp_path}/loo"))
    with pytest.raises(UserError, match="loops: is gone or empty"):
        check_roots(rows, (f"{tmp_path}/emptied", f"file://{tmp_path}/loops"))


@pytest.mark.usefixtures("no_workers")
def test_a_disk_that_goes_stops_the_job(tmp_path: Path, tiny_model: str) -> None:
    write_tones(tmp_path / "audio", 3)
    gone = Events(rows=lambda rows: (tmp_path / "audio").rename(tmp_path / "elsewhere") and None)
    one_by_one = Tag(compute=Compute(device="cpu", shard_rows=1))
    with pytest.raises(UserError, match="audio: is gone or empty on .*; mount it"):
        run(tmp_path / "audio", tmp_path / "out", tiny_model, gone, tag=one_by_one)
    (ran,) = status.runs(Folder(str(tmp_path / "out")))
    assert ran["ended"] == "refused"
    (tmp_path / "elsewhere").rename(tmp_path / "audio")
    (tmp_path / "audio" / "tone0001.wav").unlink()
    assert run(tmp_path / "audio", tmp_path / "out", tiny_model).by_status == {"ok": 1, "missing": 1}


@pytest.mark.usefixtures("no_workers")
def test_a_run_that_breaks_says_so_in_its_record(tmp_path: Path, tiny_model: str) -> None:
    def broken(rows: pa.Table) -> None:
        raise RuntimeError("of our own making")

    write_tones(tmp_path / "audio", 1)
    with pytest.raises(RuntimeError, match="of our own making"):
        run(tmp_path / "audio", tmp_path / "out", tiny_model, Events(rows=broken))
    (ran,) = status.runs(Folder(str(tmp_path / "out")))
    assert ran["ended"] == "failed"


def test_rows_that_do_not_come_back_are_said(
    tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch, no_workers: None
) -> None:
    whole = tagging.pipeline

    class Fewer(whole):  # type: ignore[misc, valid-type]
        def iter_batches(self, **how: Any) -> Any:
            for block in super().iter_batches(**how):
                yield block.slice(0, block.num_rows - 1)

    write_tones(tmp_path / "audio", 3)
    monkeypatch.setattr(tagging, "pipeline", Fewer)
    with pytest.raises(UserError, match="3 clips came back from their workers without a row"):
        run(tmp_path / "audio", tmp_path / "out", tiny_model)
    monkeypatch.setattr(tagging, "pipeline", whole)
    assert run(tmp_path / "audio", tmp_path / "out", tiny_model).clips == 3


def test_a_job_that_stands_still_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(stalls, "LOOK_S", 0.01)
    monkeypatch.setattr(stalls, "STILL_S", 0.05)
    with stalls.watched(Progress(10), said.append, tagging._free):
        deadline = time.monotonic() + 30
        while len(said) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "Ray has " in said[0]
    assert "of 2 CPUs and " in said[0]


def test_a_gpu_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tagging.PRETENDED)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="has a GPU that Ray offers and PyTorch cannot use"):
        tagging._device("auto", decodes=False)
    assert tagging._device("auto", decodes=True) == "cpu"


def test_what_cannot_be_asked_for_together_is_refused(tmp_path: Path, tiny_model: str) -> None:
    with pytest.raises(UserError, match="use one of the two"):
        run(LOOPS, tmp_path / "out", tiny_model, update=True, overwrite=True)
    with pytest.raises(UserError, match="the output is a folder; give it a name"):
        run(LOOPS, tmp_path / "tags.csv", tiny_model)
    quick = Tag(compute=Compute(device="cpu", precision="bfloat16"))
    run(LOOPS, tmp_path / "one", tiny_model, limit=1)
    with pytest.raises(UserError, match="made without compute.precision=bfloat16; leave it out"):
        run(LOOPS, tmp_path / "one", tiny_model, tag=quick)
