"""From bucket to bucket against a real S3 server process on loopback."""

import json
import os
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
import s3fs

from looptagger.archive import lease, lock, output, status
from looptagger.archive.opening import open_files
from looptagger.archive.sources import open_sources
from looptagger.archive.storage import Folder
from looptagger.cli import main
from looptagger.cluster.tagging_job import Summary, TagJob, tag
from looptagger.config import Compute, Limits, Storage, Tag
from looptagger.errors import ClipFailed, UserError
from looptagger.model import checkpoint
from tests.conftest import S3, audio_bytes, refused_in_time, tone

NAMES = ("plain.wav", "with space.wav", "ünïcode ♪.wav", "a#b%20c+d.wav", "deep/er/x.wav", "what?.wav", "a[1].wav")


def settings(s3: S3, **storage: Any) -> Tag:
    where = Storage(endpoint_url=s3.endpoint, timeout_s=5, attempts=2, **storage)
    return Tag(storage=where, compute=Compute(device="cpu", shard_rows=4))


@pytest.fixture
def prefix(s3: S3, request: pytest.FixtureRequest) -> str:
    """A folder of a dozen clips with awkward keys, one of them empty and one corrupt, private to a test."""
    where = f"{request.node.name}/loops"
    for i, name in enumerate(NAMES):
        s3.fs.pipe_file(f"private/{where}/{name}", audio_bytes(tone(0.5, 300 + 40 * i)))
    s3.fs.pipe_file(f"private/{where}/zero.wav", b"")
    s3.fs.pipe_file(f"private/{where}/junk.flac", b"junk" * 500)
    s3.fs.pipe_file(f"private/{where}/readme.txt", b"no audio")
    return f"s3://private/{where}"


def run(s3: S3, source: str, out: str, model: str, **how: Any) -> Summary:
    return tag(TagJob((source,), out, model, **({"tag": settings(s3)} | how)))


def rows(s3: S3, out: str) -> list[tuple[Any, ...]]:
    """All rows, each part read whole: what a reader of OUT/*.parquet sees."""
    files = s3.fs.glob(f"{out.removeprefix('s3://')}/*.parquet")
    tables = [pq.read_table(s3.fs.open(name)) for name in files]
    return [row for table in tables for row in duckdb.from_arrow(table).fetchall()]


@pytest.mark.usefixtures("one_worker")
def test_bucket_to_bucket(s3: S3, prefix: str, tiny_model: str) -> None:
    out = prefix.replace("/loops", "/tags")
    summary = run(s3, prefix, out, tiny_model)
    assert summary.by_status == {"ok": len(NAMES), "empty": 1, "undecodable": 1}
    found = rows(s3, out)
    assert sorted(row[1] for row in found if row[2] == "ok") == sorted(f"{prefix}/{name}" for name in NAMES)
    folder = Folder(out, settings(s3).storage)
    assert status.verify(folder) == []
    assert status.status(folder).holder is None


@pytest.mark.usefixtures("no_workers")
def test_going_on_in_a_bucket(s3: S3, prefix: str, tiny_model: str) -> None:
    out = prefix.replace("/loops", "/tags")
    run(s3, prefix, out, tiny_model)
    found, folder = rows(s3, out), Folder(out, settings(s3).storage)
    folder.delete(["part-0000001.parquet"])
    again = run(s3, prefix, out, tiny_model)
    assert (again.before, again.clips) == (5, 4)
    assert len(rows(s3, out)) == len(found)
    assert status.verify(folder) == []
    s3.fs.pipe_file(f"{prefix.removeprefix('s3://')}/zero.wav", audio_bytes(tone(0.5)))
    assert run(s3, prefix, out, tiny_model, retry_errors=True).by_status == {"ok": 1, "undecodable": 1}


@pytest.mark.usefixtures("one_worker")
def test_ray_s_logs_hold_no_credentials(s3: S3, prefix: str, tiny_model: str, tmp_path: Path) -> None:
    import ray._private.worker

    key = f"{prefix.removeprefix('s3://')}/m.csv"
    s3.fs.pipe_file(key, f"uri\nplain.wav\n{prefix}/gone.wav\ns3://nobucket/x.wav\n".encode())
    run(s3, f"s3://{key}", str(tmp_path / "out"), tiny_model)
    node = ray._private.worker._global_node
    assert node
    logs = [path for path in Path(node.get_session_dir_path(), "logs").rglob("*") if path.is_file()]
    assert logs
    written = [*logs, *(path for path in (tmp_path / "out").rglob("*") if path.is_file())]
    assert [path for path in written if s3.env["AWS_SECRET_ACCESS_KEY"].encode() in path.read_bytes()] == []


@pytest.mark.usefixtures("no_workers")
def test_a_manifest_on_s3_to_a_local_folder(s3: S3, prefix: str, tiny_model: str, tmp_path: Path) -> None:
    key = f"{prefix.removeprefix('s3://')}/m.csv"
    lines = [{"id": "1", "uri": "plain.wav", "bpm": 90}, {"id": "2", "uri": f"{prefix}/gone.wav", "bpm": 91}]
    s3.fs.pipe_file(f"{key}.jsonl", "\n".join(map(json.dumps, lines)).encode())
    (listing,) = open_sources([f"s3://{key}.jsonl"], settings(s3).storage)
    assert [row["uri"] for each in listing.batches() for row in each.to_pylist()] == [
        f"{prefix}/plain.wav",
        f"{prefix}/gone.wav",
    ]
    s3.fs.pipe_file(key, f"id,uri,bpm\n1,plain.wav,90\n2,{prefix}/gone.wav,91\n".encode())
    run(s3, f"s3://{key}", str(tmp_path / "out"), tiny_model)
    found = duckdb.sql(f"select id, uri, status, bpm from '{tmp_path}/out/*.parquet' order by id").fetchall()
    assert found == [("1", f"{prefix}/plain.wav", "ok", 90), ("2", f"{prefix}/gone.wav", "missing", 91)]


@pytest.mark.usefixtures("no_workers")
def test_anonymous_reads_of_a_public_bucket(
    s3_server: S3, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in s3_server.env:
        monkeypatch.delenv(key, raising=False)
    s3fs.S3FileSystem.clear_instance_cache()  # which holds what earlier tests signed with
    s3_server.fs.pipe_file("public/anon/a.wav", audio_bytes(tone(1.0)))
    open_to_all = settings(s3_server, anonymous=True)
    assert run(s3_server, "s3://public/anon", str(tmp_path / "out"), tiny_model, tag=open_to_all).by_status == {"ok": 1}
    with pytest.raises(UserError, match="s3://private: cannot be listed.*credentials"):
        run(s3_server, "s3://private", str(tmp_path / "no"), tiny_model, tag=open_to_all)
    with pytest.raises(UserError, match="Unable to locate credentials"):
        run(s3_server, "s3://public/anon", str(tmp_path / "no"), tiny_model)
    assert not (tmp_path / "no").exists()
    s3_server.fs.put(f"{tmp_path}/out/", "public/anon-tags/", recursive=True)
    s3_server.fs.put(tiny_model, "public/tiny.safetensors")
    main(["status", "s3://public/anon-tags", "--anonymous", "--endpoint-url", s3_server.endpoint])
    assert checkpoint.resolve("s3://public/tiny.safetensors", open_to_all.storage) == Path(tiny_model).read_bytes()


@pytest.mark.usefixtures("no_workers")
def test_the_command_line_names_an_endpoint(s3: S3, prefix: str, tiny_model: str) -> None:
    out = prefix.replace("/loops", "/tags")
    there = ["--endpoint-url", s3.endpoint]
    main(["tag", f"{prefix}/", "-o", out, "--model", tiny_model, "--set", "compute.device=cpu", "--limit", "3", *there])
    main(["status", out, "--verify", *there])
    main(["compact", out, *there])
    main(["tag", prefix, "-o", out, "--model", tiny_model, "--set", "compute.device=cpu", "--limit", "3", *there])
    assert len(rows(s3, out)) == 3


def test_listing_goes_on_past_a_page(s3: S3) -> None:
    files = {f"private/many/{i:04d}.wav": b"x" for i in range(1005)}
    s3.fs.pipe(files)
    (listing,) = open_sources(["s3://private/many"], settings(s3).storage)
    assert sum(batch.num_rows for batch in listing.batches()) == 1005


def test_prefixes_globs_files_and_what_is_not_there(s3: S3, prefix: str) -> None:
    storage = settings(s3).storage

    def uris(source: str) -> list[str]:
        (listing,) = open_sources([source], storage)
        return [row["uri"].removeprefix(f"{prefix}/") for batch in listing.batches() for row in batch.to_pylist()]

    assert set(uris(prefix)) == {*NAMES, "zero.wav", "junk.flac"}
    assert uris(f"{prefix}/deep/") == ["deep/er/x.wav"]
    assert uris(f"{prefix}/p*.wav") == ["plain.wav"]
    assert uris(f"{prefix}/a[1].wav") == ["a[1].wav"]
    assert uris(f"{prefix}/readme.txt") == ["readme.txt"]
    assert uris(f"{prefix}/nothing") == []
    for name in ("deep/.old/x.wav", "deep/er/.old/y.wav", "other/er/x.wav", "other/er/deeper/z.wav"):
        s3.fs.pipe_file(f"{prefix}/{name}", b"x")
    deeper = ["other/er/deeper/z.wav", "other/er/x.wav"]
    assert uris(f"{prefix}/*/er/x.wav") == uris(f"{prefix}/*/e?/*.wav") == ["deep/er/x.wav", "other/er/x.wav"]
    assert uris(f"{prefix}/o*/er") == uris(f"{prefix}/o*/**/*.wav") == deeper  # a folder that matches, with all in it
    assert uris(f"{prefix}/**/x.wav") == ["deep/er/x.wav", "other/er/x.wav"]
    assert uris(f"{prefix}/*/.old/*") == ["deep/.old/x.wav"]
    for name in ("lists/a.jsonl", "lists/b.jsonl/part-0.jsonl", "lists/b.jsonl/_SUCCESS", "lists/c.txt"):
        s3.fs.pipe_file(f"{prefix}/{name}", b'{"uri": "x.wav"}\n')
    assert uris(f"{prefix}/lists/a.jsonl") == ["lists/x.wav"]
    assert [len(open_sources([f"{prefix}/lists/{name}.jsonl"], storage)) for name in ("*", "b")] == [2, 1]
    (_, hidden) = open_sources([prefix, f"{prefix}/deep/.old"], storage)  # passed over, but where it is named
    assert [batch.num_rows for batch in hidden.batches()] == [1]
    with pytest.raises(UserError, match="no such bucket"):
        uris("s3://nobucket/x")


def test_a_folder_that_is_not_there_costs_one_answer(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """s3fs would list the one above it, which may hold ten million clips."""
    s3.fs.pipe({f"private/above/{i:04d}.wav": b"x" for i in range(5)})
    folder = Folder("s3://private/above/tags", settings(s3).storage)
    ask, asked = folder.fs.call_s3, list[str]()
    monkeypatch.setattr(folder.fs, "call_s3", lambda *of, **how: (asked.append(how["Prefix"]), ask(*of, **how))[1])
    assert folder.names() == folder.names("chunks") == []
    assert asked == ["above/tags/", "above/tags/chunks/"]


def test_reasons_of_single_objects(s3: S3, prefix: str) -> None:
    storage = settings(s3).storage
    (gone,) = open_files([f"{prefix}/gone.wav"], storage, Limits())
    assert isinstance(gone, ClipFailed)
    assert gone.status == "missing"
    s3.fs.pipe_file("private/large.wav", b"\0" * (9 << 20))
    (large, over) = (
        open_files(["s3://private/large.wav"], storage, Limits(max_bytes=n))[0] for n in (1 << 30, 1 << 20)
    )
    assert len(large.read()) == 9 << 20  # type: ignore[union-attr]
    assert isinstance(over, ClipFailed)
    assert over.status == "too_large"


def test_a_server_that_is_not_there_is_a_sentence(s3: S3, tiny_model: str, tmp_path: Path) -> None:
    nowhere = Tag(storage=Storage(endpoint_url="http://127.0.0.1:9", timeout_s=1, attempts=1))
    with pytest.raises(UserError, match="s3://private/x"):
        run(s3, "s3://private/x", str(tmp_path / "out"), tiny_model, tag=nowhere)
    with pytest.raises(UserError, match="s3://private/out.*endpoint"):
        run(s3, "s3://private/x", "s3://private/out", tiny_model, tag=nowhere)


def test_one_writer_an_object_store_prefix(s3: S3) -> None:
    folder = Folder("s3://private/locked", settings(s3).storage)
    other = {"host": "elsewhere", "pid": 1, "renewed": time.time()}
    folder.write(lock.NAME, json.dumps(other).encode())
    with pytest.raises(UserError, match="process 1 on elsewhere"), lock.held(folder):
        pass
    folder.write(lock.NAME, json.dumps({**other, "renewed": time.time() - 100}).encode())
    with lock.held(folder):
        assert json.loads(folder.read(lock.NAME) or b"{}")["pid"] == os.getpid()
    assert folder.read(lock.NAME) is None
    assert output.load(folder) is None


def test_of_two_that_take_over_a_stale_lease_one_has_it(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder("s3://private/stale", settings(s3).storage)
    quicker = json.dumps(lease.owner("other") | {"host": "elsewhere", "pid": 1}).encode()
    for at in (lease.RENEW_S + lease.SETTLED_S, lease.SETTLED_S):  # before ours is written, or after
        folder.write(lock.NAME, json.dumps(lease.owner("gone") | {"renewed": 0}).encode())
        monkeypatch.setattr(lease.time, "sleep", lambda s, at=at: folder.write(lock.NAME, quicker) if s == at else None)
        with pytest.raises(UserError, match="process 1 on elsewhere"), lock.held(folder):
            pass
        assert folder.read(lock.NAME) == quicker


def test_of_two_that_begin_at_once_one_has_the_lease(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all stores know how to create only what is not there."""
    folder = Folder("s3://private/at-once", settings(s3).storage)
    later = json.dumps(lease.owner("other") | {"host": "elsewhere", "pid": 1}).encode()
    monkeypatch.setattr(lease.time, "sleep", lambda _: folder.write(lock.NAME, later))
    with pytest.raises(UserError, match="process 1 on elsewhere"), lock.held(folder):
        pass
    assert folder.read(lock.NAME) == later


def test_a_lease_whose_making_is_not_answered_is_ours(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder("s3://private/unanswered", settings(s3).storage)
    make = folder.fs.pipe_file

    def unanswered(path: str, data: bytes, **how: Any) -> None:
        make(path, data, **how)
        raise FileExistsError(path)

    monkeypatch.setattr(folder.fs, "pipe_file", unanswered)
    with lock.held(folder) as ours:
        ours.check()
    assert folder.read(lock.NAME) is None


def test_a_renewal_that_comes_too_late_ends_the_job(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another may have taken the lease over after it was looked at, and before it was renewed."""
    folder, write = Folder("s3://private/late", settings(s3).storage), Folder.write
    for name, seconds in (("RENEW_S", 0.1), ("STALE_S", 1.0), ("SETTLED_S", 0.1)):
        monkeypatch.setattr(lease, name, seconds)
    monkeypatch.setattr(Folder, "write", lambda *of: time.sleep(1.5) or write(*of))  # type: ignore[func-returns-value]
    with lock.held(folder) as ours:
        assert "renewed too late, and another job may have it; run the same command again" in refused_in_time(
            ours.check
        )
    folder.delete([lock.NAME])


def test_a_store_that_is_away_for_longer_than_a_lease_lasts_ends_no_job(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, read, asked = Folder("s3://private/outage", settings(s3).storage), Folder.read, list[float]()
    for name, seconds in (("RENEW_S", 0.1), ("STALE_S", 0.6), ("SETTLED_S", 0.2)):
        monkeypatch.setattr(lease, name, seconds)

    def slow(self: Folder, name: str) -> bytes | None:
        asked.append(time.time())
        time.sleep(1.0 if len(asked) == 2 else 0)
        return read(self, name)

    with lock.held(folder) as ours:
        monkeypatch.setattr(Folder, "read", slow)
        assert refused_in_time(ours.check) == ""
        assert len(asked) > 10
    assert folder.read(lock.NAME) is None


def test_a_lease_whose_clock_is_behind_is_not_taken_over(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores let clocks differ by a quarter of an hour."""
    folder = Folder("s3://private/behind", settings(s3).storage)
    there = lease.owner("theirs") | {"host": "elsewhere", "pid": 7, "machine": "other"}

    def renewed(behind_s: float) -> None:
        folder.write(lock.NAME, json.dumps(there | {"renewed": time.time() - behind_s}).encode())

    renewed(200)
    monkeypatch.setattr(lease.time, "sleep", lambda _: renewed(190))
    with pytest.raises(UserError, match="process 7 on elsewhere"), lock.held(folder):
        pass
    renewed(-3600)  # dead, and its clock was ahead
    assert lock.holder(folder) == "process 7 on elsewhere"
    monkeypatch.setattr(lease.time, "sleep", lambda _: None)
    with lock.held(folder):
        pass


def test_a_job_that_slept_writes_nothing_and_leaves_anothers_lease(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """No renewal comes between: it has only just woken."""
    folder = Folder("s3://private/slept", settings(s3).storage)
    monkeypatch.setattr(lease, "RENEW_S", 600)
    other = json.dumps(lease.owner("other") | {"host": "elsewhere", "pid": 1}).encode()
    with lock.held(folder) as ours:
        ours.check()
        folder.write(lock.NAME, other)
        monkeypatch.setattr(lease, "STALE_S", -1)
        with pytest.raises(UserError, match="another job took this one for dead"):
            ours.check()
    assert folder.read(lock.NAME) == other
    folder.delete([lock.NAME])
    with lock.held(folder) as ours:
        folder.delete([lock.NAME])  # the other has ended meanwhile
        with pytest.raises(UserError, match="another job took this one for dead"):
            ours.check()
    assert folder.read(lock.NAME) is None


def test_a_lease_of_the_same_name_and_number_elsewhere_is_not_ours(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers of one image may all be process 1 on `localhost`."""
    folder = Folder("s3://private/cloned", settings(s3).storage)
    there = lease.owner("x") | {"machine": "another boot pid:[1]"}
    folder.write(lock.NAME, json.dumps(there).encode())
    with pytest.raises(UserError, match=f"process {os.getpid()} on"), lock.held(folder):
        pass
    folder.write(lock.NAME, json.dumps(lease.owner("x") | {"pid": 2**22 + 1}).encode())
    with lock.held(folder):  # a process that this machine would see
        pass
    monkeypatch.setattr(lease, "RENEW_S", 0.5)
    with lock.held(folder) as ours:
        folder.write(lock.NAME, json.dumps(lease.owner("x")).encode())
        assert "another job took this one for dead" in refused_in_time(ours.check)
