"""The job on this machine's cores, without Ray."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.drills.processes import alive, descendants, kill
from looptagger.archive import output, status
from looptagger.archive.manifest import Shard
from looptagger.archive.output import Work
from looptagger.archive.storage import Folder
from looptagger.cluster import cores, processes, team
from looptagger.cluster.tagging_job import Events, Summary, TagJob, tag
from looptagger.config import Audio, Compute, Tag
from looptagger.errors import UserError
from looptagger.steps.worker import Brief
from tests.conftest import ONE_CORE, audio_bytes, tone, workers, write_tones

pytestmark = pytest.mark.usefixtures("without_ray")


def run(source: Path, out: Path, model: str, events: Events | None = None, rows: int = 8, **how: Any) -> Summary:
    settings = Tag(compute=Compute(device="cpu", shard_rows=rows))
    return tag(TagJob((str(source),), str(out), model, settings, **how), events)


def test_every_clip_has_its_row_and_a_run_goes_on(tmp_path: Path, tiny_model: str) -> None:
    folder, out = tmp_path / "audio", tmp_path / "out"
    write_tones(folder, 30)
    (folder / "corrupt.mp3").write_bytes(b"\x12" * 4000)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "silent.wav").write_bytes(audio_bytes(tone(1) * 0))
    notes: list[str] = []
    first = run(folder, out, tiny_model, Events(notes.append), limit=11, chunks=True, embeddings=True)
    assert (first.clips, str(first.plan)) == (11, "2 CPU workers that decode and predict")
    assert not any("Ray" in note for note in notes)
    assert run(folder, out, tiny_model, chunks=True, embeddings=True).clips == 22
    found = duckdb.sql(f"select status, count(*), count(embedding) from '{out}/*.parquet' group by 1 order by 1")
    assert found.fetchall() == [("empty", 1, 0), ("ok", 30, 30), ("silent", 1, 0), ("undecodable", 1, 0)]
    assert run(folder, out, tiny_model, chunks=True, embeddings=True, retry_errors=True).failed == 3
    assert status.verify(Folder(str(out))) == []


def test_a_worker_that_dies_is_replaced(tmp_path: Path, tiny_model: str) -> None:
    write_tones(tmp_path / "audio", 70)
    killed: list[int] = []
    seen: list[int] = []

    def strike(rows: pa.Table) -> None:
        if not killed:
            killed.extend(workers())
            kill(killed)

    events = Events(rows=strike, progress=lambda progress: seen.append(progress.done))
    run(tmp_path / "audio", tmp_path / "out", tiny_model, events, rows=70)
    assert seen[-1] == 70, "what came before is not counted again"
    assert len(killed) == 2
    found = duckdb.sql(f"select count(*), count(distinct id), min(status) from '{tmp_path}/out/*.parquet'").fetchall()
    assert found == [(70, 70, "ok")]
    assert status.verify(Folder(str(tmp_path / "out"))) == []


@pytest.mark.parametrize(
    ("dies", "how"),
    [
        ("import sys; sys.exit(3)", r"\(exit code 3\), run the same"),
        ("import os; os.kill(os.getpid(), 9)", r"\(SIGKILL\), perhaps by the system for want of memory; free some and"),
    ],
)
def test_workers_that_die_again_and_again_end_the_job(
    dies: str, how: str, tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tones(tmp_path / "audio", 9)
    monkeypatch.setattr(processes, "START", dies)
    with pytest.raises(UserError, match=f"a worker was ended 3 times at the same place {how}"):
        run(tmp_path / "audio", tmp_path / "out", tiny_model)


def test_what_a_worker_meets_ends_the_job_with_its_sentence(tmp_path: Path, tiny_model: str) -> None:
    works = [Work("p", Shard("f", 0, 1, 0))]
    brief = Brief(Folder(str(tmp_path)), Tag(), Audio(), False, False)
    with cores.engine(works, brief, b"no checkpoint", Compute()) as engine:
        with pytest.raises(UserError, match="not a safetensors checkpoint"):
            next(engine.blocks())
        assert "long clips" in engine.waits()
    model = Path(tiny_model).read_bytes()
    with cores.engine(works, brief, model, Compute()) as engine, pytest.raises(UserError, match="is gone; put it back"):
        next(engine.blocks())
    brief.folder.write(output.RECORD, b"")
    pq.write_table(pa.table({"id": ["a"], "uri": ["a"]}), tmp_path / "f")
    wrong = replace(brief, audio=None)  # type: ignore[arg-type]
    fault = pytest.raises(processes.Fault, match="^AttributeError: .*NoneType")
    with cores.engine(works, wrong, model, Compute()) as engine, fault as ended:
        next(engine.blocks())
    assert "Traceback" in ended.value.__notes__[0]


def test_a_worker_that_nothing_waits_for_may_die(tmp_path: Path, tiny_model: str) -> None:
    write_tones(tmp_path / "audio", 3)
    struck: list[int] = []

    def strike(rows: pa.Table) -> None:
        struck.extend(workers()[:1])
        kill(struck)

    assert run(tmp_path / "audio", tmp_path / "out", tiny_model, Events(rows=strike), rows=1).clips == 3
    assert struck


def test_what_a_user_breaks_ends_the_workers(tmp_path: Path, tiny_model: str) -> None:
    write_tones(tmp_path / "audio", 40)

    def broken(rows: pa.Table) -> None:
        assert len(workers()) == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "audio", tmp_path / "out", tiny_model, Events(rows=broken))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_job(number: int, tmp_path: Path, tiny_model: str) -> None:
    write_tones(tmp_path / "audio", 400, seconds=9)
    command = [sys.executable, "-m", "looptagger", "tag", tmp_path / "audio", "-o", tmp_path / "out"]
    log = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    job = subprocess.Popen([*map(str, command), "--model", tiny_model], env=ONE_CORE, cwd=tmp_path, **log)
    deadline = time.monotonic() + 60
    while len(below := descendants(job.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(below) == 3, "the job, its worker, and the worker's decoder"
    job.send_signal(number)
    assert job.wait(timeout=20) == (-9 if number == signal.SIGKILL else 130)
    while alive(list(below)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(list(below))


def test_two_works_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "START", "import time; time.sleep(60)")
    for most, window, given in ((1, None, [[0, 1]]), (2, None, [[0, 2], [1]]), (2, 1, [[0], []])):
        some = team.Team("abc", most, print, window=window)
        assert [list(worker.numbers) for worker in some.workers.values()] == given
        idle = list(some.workers.values())[-1]
        if window:
            kill([idle.process.pid])
            some._replace(idle)
            assert len(some.workers) == most, "also one that had nothing to do yet"
        some.end()
        assert {worker.process.returncode for worker in some.workers.values()} == {-signal.SIGKILL}


def test_long_words_to_and_fro_do_not_wait_for_each_other() -> None:
    table = pa.table({"id": [f"{number:0200d}" for number in range(20_000)]})
    blocks = [table.slice(start, 1000) for start in range(0, 20_000, 1000)]
    found = pa.concat_tables(cores.computed(blocks, large, in_order=True, times=20))
    assert found.column("id").to_pylist() == [each for each in table.column("id").to_pylist() for _ in range(20)]


def large(block: pa.Table, times: int) -> Iterator[pa.Table]:
    yield block.take(pa.array([row for row in range(block.num_rows) for _ in range(times)]))


def test_no_room_for_a_process_is_a_sentence() -> None:
    def full(*_: Any, **__: Any) -> Any:
        if started:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        started.append(whole(*_, **__))
        return started[0]

    started: list[Any] = []
    whole = subprocess.Popen
    said = r"no more processes start here \(Resource temporarily unavailable\); end others"
    with patch.object(processes.subprocess, "Popen", full), pytest.raises(UserError, match=said):
        team.Team("abc", 2, print)
    assert started[0].returncode == -signal.SIGKILL, "the one that had started is ended"


class Unheard:
    """What cannot be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


def listening(link: Connection) -> None:
    processes.heard(link).get()


def test_who_cannot_hear_ends() -> None:
    one = processes.Process(listening)
    one.begin()
    one.tell(Unheard())
    assert one.hear() is None
    assert one.end() == 1


def test_a_word_that_breaks_off_is_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    says = "import os, struct, sys; os.write(int(sys.argv[2]), struct.pack('!i', 1000) + b'x')"
    monkeypatch.setattr(processes, "START", says)
    one = processes.Process(print)
    assert one.hear() is None
    one.end()


def test_a_process_has_one_thread_for_numbers_and_is_the_first_to_go() -> None:
    (found,) = cores.computed([pa.table({"a": [1]})], told, in_order=False)
    score = Path("/proc/self/oom_score_adj")
    first = "1000" if os.access(score, os.W_OK) else score.read_text().strip()
    assert found.to_pylist() == [{"threads": os.environ.get("OMP_NUM_THREADS", "1"), "score": first}]


def told(block: pa.Table) -> Iterator[pa.Table]:
    score = Path("/proc/self/oom_score_adj").read_text().strip()
    yield pa.table({"threads": [os.environ["OMP_NUM_THREADS"]], "score": [score]})


def test_tables_come_in_order_where_they_are_to() -> None:
    one, two = pa.table({"a": [1]}), pa.table({"a": [2]})
    said = [(1, two), (0, one), (2, two), (2, None), (0, one), (0, None), (1, None), (3, one), (3, None)]
    taken = []

    def tell() -> Iterator[tuple[int, pa.Table | None]]:
        for each in said:
            taken.append(each)
            yield each

    assert [(table["a"][0].as_py(), len(taken)) for table in team.by_number(tell())] == [
        (1, 2), (1, 5), (2, 6), (2, 7), (1, 8),
    ]  # fmt: skip


def test_ray_is_for_clusters_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    session = SimpleNamespace(is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "ray", session)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cores, "CARDS", ("/dev/none",))
    wants = cores.wants_ray
    assert not wants(None, "auto")
    assert not wants(None, "cpu")
    assert wants(None, "cuda")
    assert wants("local", "cpu")
    monkeypatch.setattr(cores, "CARDS", ("/dev/none", "/dev/null"))
    assert wants(None, "auto")
    assert not wants(None, "cpu")
    session.is_initialized = lambda: True
    assert wants(None, "cpu")
    session.is_initialized = lambda: False
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert wants(None, "cpu")
