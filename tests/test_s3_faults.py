"""Tagging from and to an S3 that refuses, breaks off, stalls, truncates, forgets who we are, and lies in wait."""

import io
import json
import time
import wave
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from aiohttp import ClientPayloadError
from botocore.exceptions import ClientError, UnauthorizedSSOTokenError

from jobs.drills.proxy import Faults, Proxy
from looptagger.archive import lease, lock, manifest, opening, patience
from looptagger.archive.opening import BLOCK_BYTES, WHOLE_BYTES, open_files
from looptagger.archive.patience import is_stores_fault
from looptagger.archive.sources import BATCH_ROWS, open_sources
from looptagger.archive.storage import Folder
from looptagger.cluster.tagging_job import Events, Summary, TagJob, tag
from looptagger.config import Compute, Limits, Storage, Tag
from looptagger.errors import Unreachable, UserError
from tests.conftest import S3, audio_bytes, refused_in_time, tone

CLIPS = 40


@pytest.fixture
def proxy(s3: S3) -> Iterator[Callable[[Faults], Proxy]]:
    """Makes proxies before the S3 server, closed after the test."""
    made: list[Proxy] = []

    def make(faults: Faults) -> Proxy:
        made.append(Proxy(s3.endpoint.removeprefix("http://"), faults))
        return made[-1]

    yield make
    for each in made:
        each.close()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def source(s3_server: S3) -> str:
    """A folder of short loops, made once."""
    for number in range(CLIPS):
        name = f"loop {number} ü#%+.wav" if number % 5 == 0 else f"loop{number}.wav"
        s3_server.fs.pipe_file(f"private/faulty/{name}", audio_bytes(tone(0.3, 200 + 20 * number)))
    return "s3://private/faulty"


def settings(endpoint: str, **storage: Any) -> Tag:
    where = Storage(endpoint_url=endpoint, **({"timeout_s": 1.0, "attempts": 3, "patience_s": 60.0} | storage))
    return Tag(storage=where, compute=Compute(device="cpu", shard_rows=4))


def run(source: str, out: str, model: str, how: Tag, events: Events | None = None, **more: Any) -> Summary:
    return tag(TagJob((source,), out, model, how, **more), events)


def table(fs: Any, out: str) -> pa.Table:
    names = sorted(name for name in fs.ls(out.removeprefix("s3://")) if name.endswith(".parquet"))
    return pa.concat_tables(pq.read_table(fs.open(name)) for name in names)


@pytest.mark.usefixtures("ray_here")
def test_refusals_resets_truncations_and_stalls_change_no_row(
    s3: S3, source: str, proxy: Callable[[Faults], Proxy], tiny_model: str
) -> None:
    run(source, "s3://private/calm", tiny_model, settings(s3.endpoint))
    faulty = proxy(Faults(slow_down=0.08, reset=0.06, truncate=0.06, stall=0.06, stall_s=3.0))
    run(source, "s3://private/stormy", tiny_model, settings(faulty.endpoint))
    assert table(s3.fs, "s3://private/stormy") == table(s3.fs, "s3://private/calm")
    assert all(faulty.counts[kind] > 1 for kind in ("slow_down", "reset", "truncate")), faulty.counts
    assert faulty.counts["stall"], faulty.counts


@pytest.mark.usefixtures("no_workers")
def test_a_clip_that_always_fails_is_a_row_and_taken_up_later(
    s3: S3, source: str, proxy: Callable[[Faults], Proxy], tiny_model: str, tmp_path: Path
) -> None:
    faulty = proxy(Faults(truncate=1.0, keys="loop7"))
    out = str(tmp_path / "out")
    assert run(source, out, tiny_model, settings(faulty.endpoint)).by_status == {"ok": CLIPS - 1, "unreadable": 1}
    found = pq.read_table(out, columns=["id", "status", "error"]).filter(pa.compute.field("status") == "unreadable")
    assert found.column("id").to_pylist() == [f"{source}/loop7.wav"]
    assert found.column("error").to_pylist()[0]
    faulty.faults.keys = "none"
    assert run(source, out, tiny_model, settings(faulty.endpoint), retry_errors=True).by_status == {"ok": 1}


@pytest.mark.usefixtures("one_worker")
def test_credentials_that_expire_end_the_job_with_a_sentence(
    s3: S3, source: str, proxy: Callable[[Faults], Proxy], tiny_model: str, tmp_path: Path
) -> None:
    faulty = proxy(Faults(expire_after=20))
    out = str(tmp_path / "out")
    with pytest.raises(UserError, match=r"refuses the credentials .*expired.*; renew them and run the same command"):
        run(source, out, tiny_model, settings(faulty.endpoint))
    faulty.faults.expire_after = None
    s3fs.S3FileSystem.clear_instance_cache()
    again = run(source, out, tiny_model, settings(faulty.endpoint))
    assert again.before + again.clips == CLIPS
    assert again.by_status == {"ok": again.clips}


@pytest.mark.usefixtures("no_workers")
def test_a_store_that_stays_away_ends_the_job_and_not_the_clips(
    source: str, proxy: Callable[[Faults], Proxy], tiny_model: str, tmp_path: Path
) -> None:
    faulty = proxy(Faults())
    out = str(tmp_path / "out")

    def away(text: str) -> None:
        if "to tag with" in text:
            faulty.faults.slow_down = 1.0

    with pytest.raises(UserError, match=r"has not answered for 1 s .*; run the same command when it does"):
        run(source, out, tiny_model, settings(faulty.endpoint, patience_s=1.0, attempts=1), Events(note=away))
    faulty.faults.slow_down = 0.0
    assert run(source, out, tiny_model, settings(faulty.endpoint)).by_status == {"ok": CLIPS}


@pytest.mark.usefixtures("no_workers")
def test_an_object_that_vanishes_after_listing_is_missing(s3: S3, tiny_model: str, tmp_path: Path) -> None:
    for name in ("stays", "goes"):
        s3.fs.pipe_file(f"private/fleeting/{name}.wav", audio_bytes(tone(0.3)))

    def vanish(text: str) -> None:
        if "to tag with" in text:
            s3.fs.rm_file("private/fleeting/goes.wav")

    done = run("s3://private/fleeting", str(tmp_path), tiny_model, settings(s3.endpoint), Events(note=vanish))
    assert done.by_status == {"ok": 1, "missing": 1}


def wav_header(seconds: int, rate: int = 44_100) -> bytes:
    """The head of a mono 16 bit wav that goes on for so long."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, rate, seconds * rate, "NONE", ""))
        sound.writeframesraw(b"\1\0" * 1000)
        sound._datawritten = sound._datalength = 2 * seconds * rate  # type: ignore[attr-defined]
        head = bytearray(file.getvalue())
    head[4:8] = (36 + 2 * seconds * rate).to_bytes(4, "little")
    head[40:44] = (2 * seconds * rate).to_bytes(4, "little")
    return bytes(head)


@pytest.mark.usefixtures("no_workers")
def test_of_two_gigabytes_only_what_is_heard_is_read(
    proxy: Callable[[Faults], Proxy], tiny_model: str, tmp_path: Path
) -> None:
    seconds = 6 * 3600
    size = 2 * 44_100 * seconds + 44
    faulty = proxy(Faults(huge={"/private/huge.wav": (wav_header(seconds), size), "/private/over.wav": (b"", 3 << 30)}))
    (tmp_path / "m.csv").write_text("uri\ns3://private/huge.wav\ns3://private/over.wav\n")
    run(str(tmp_path / "m.csv"), str(tmp_path / "out"), tiny_model, settings(faulty.endpoint, timeout_s=20))
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert [(row["status"], row["duration_s"]) for row in rows] == [("silent", None), ("too_large", None)]
    assert faulty.sent < 2 * WHOLE_BYTES + 40 * 3 * BLOCK_BYTES < size / 10


@pytest.mark.usefixtures("no_workers")
def test_a_large_file_that_breaks_off_is_no_short_clip(
    s3: S3, proxy: Callable[[Faults], Proxy], tiny_model: str, tmp_path: Path
) -> None:
    whole = audio_bytes(tone(150, rate=44_100), 44_100)
    assert len(whole) > WHOLE_BYTES
    s3.fs.pipe_file("private/large/broken.wav", whole)
    s3.fs.pipe_file("private/large/sound.wav", whole)
    faulty = proxy(Faults(truncate=1.0, keys="broken", after=WHOLE_BYTES // 4))
    out, how = str(tmp_path / "out"), settings(faulty.endpoint, timeout_s=20)
    assert run("s3://private/large", out, tiny_model, how).by_status == {"ok": 1, "unreadable": 1}
    faulty.faults.keys = "none"
    assert run("s3://private/large", out, tiny_model, how, retry_errors=True).by_status == {"ok": 1}
    assert pq.read_table(out).column("duration_s").to_pylist() == [150.0, 150.0]


@pytest.mark.usefixtures("no_workers")
def test_an_object_that_only_gives_errors_is_a_row(
    source: str, proxy: Callable[[Faults], Proxy], tiny_model: str, tmp_path: Path
) -> None:
    faulty = proxy(Faults(broken=1.0, keys="loop7"))
    done = run(source, str(tmp_path / "out"), tiny_model, settings(faulty.endpoint, attempts=1))
    assert done.by_status == {"ok": CLIPS - 1, "unreadable": 1}


def test_a_prefix_that_is_throttled_is_waited_for_though_the_store_answers(
    source: str, proxy: Callable[[Faults], Proxy]
) -> None:
    """Throttling is by prefix: lists are answered meanwhile, and four such answers say nothing against a clip."""
    faulty = proxy(Faults(slow_down=1.0, keys="/faulty/"))
    how = settings(faulty.endpoint, attempts=1, patience_s=8.0).storage
    with pytest.raises(Unreachable, match="has not answered for 8 s"):
        open_files([f"{source}/loop1.wav", f"{source}/loop2.wav"], how, Limits())
    assert faulty.counts["slow_down"] > 2 * 4


def test_the_head_of_a_large_file_is_fetched_once(s3: S3, proxy: Callable[[Faults], Proxy]) -> None:
    whole = bytes(range(256)) * (40 << 10)
    s3.fs.pipe_file("private/once.bin", whole)
    faulty = proxy(Faults())
    (file,) = open_files(["s3://private/once.bin"], settings(faulty.endpoint, timeout_s=20).storage, Limits())
    assert file.read() == whole  # type: ignore[union-attr]
    assert faulty.sent < len(whole) + BLOCK_BYTES


def test_a_job_that_was_taken_for_dead_stops_writing(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.5)
    folder = Folder("s3://private/taken", settings(s3.endpoint).storage)
    with lock.held(folder) as ours:
        ours.check()
        other = {"host": "elsewhere", "pid": 1, "renewed": time.time()}
        folder.write(lock.NAME, json.dumps(other).encode())
        assert "another job took this one for dead" in refused_in_time(ours.check)
    assert json.loads(folder.read(lock.NAME) or b"{}") == other


def refused(status: int, code: str) -> OSError:
    error = OSError("busy")
    error.__cause__ = ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Any")
    return error


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [(503, "SlowDownRead", True), (502, "502", True), (500, "InternalError", True), (429, "429", True),
     (403, "InvalidToken", True), (403, "SignatureDoesNotMatch", True), (403, "InvalidSecurity", True),
     (403, "RequestTimeTooSkewed", True), (403, "AccessDenied", False), (403, "AllAccessDisabled", False),
     (404, "NoSuchKey", False), (403, "ExpiredToken", True)],
)  # fmt: skip
def test_whose_fault_an_answer_is(status: int, code: str, expected: bool) -> None:
    assert is_stores_fault(refused(status, code)) is expected
    assert is_stores_fault(UnauthorizedSSOTokenError())
    assert is_stores_fault(ClientPayloadError("not completed"))
    assert not is_stores_fault(OSError("no"))


def test_a_profile_that_is_not_there_is_no_clips_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a worker that lacks the files which the driver's variables name."""
    monkeypatch.setenv("AWS_PROFILE", "nobody-s")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match=r"refuses the credentials \(The config profile \(nobody-s\).*; renew them"):
        open_files(["s3://bucket/a.wav"], Storage(endpoint_url="http://127.0.0.1:1", attempts=1), Limits())
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_long_listing_streams(proxy: Callable[[Faults], Proxy], tmp_path: Path) -> None:
    """A batch is there when the pages that it is made of are, however many are to come."""
    many = proxy(Faults(many=1_000_000, slow_down=0.05))
    (listing,) = open_sources(["s3://many/loops/"], settings(many.endpoint).storage)
    assert next(listing.batches()).num_rows == BATCH_ROWS
    assert many.counts["requests"] < 1.2 * BATCH_ROWS / 1000
    told: list[int] = []
    few = open_sources(["s3://many/loops/"], settings(proxy(Faults(many=5_500)).endpoint).storage)
    files = manifest.freeze(Folder(str(tmp_path)), few, written=told.append)
    assert [file.rows for file in files] == told == [5_500]


@pytest.mark.parametrize("faults", [Faults(slow_down=0.6), Faults(truncate=0.3)])
def test_an_outage_in_the_middle_of_a_group_is_waited_out(
    s3: S3, source: str, proxy: Callable[[Faults], Proxy], faults: Faults
) -> None:
    faulty = proxy(faults)
    uris = [f"{source}/loop{number}.wav" for number in (1, 2, 3, 4)] + [f"{source}/gone.wav"]
    files = open_files(uris, settings(faulty.endpoint, attempts=1).storage, Limits())
    assert [getattr(file, "status", "open") for file in files] == [*["open"] * 4, "missing"]
    assert faulty.counts["slow_down"] + faulty.counts["truncate"] > 0


@pytest.mark.parametrize("code", ["SlowDown", "SlowDownRead", "503"])  # a HEAD's answer is a number
def test_a_broken_object_says_nothing_of_throttled_ones_beside_it(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: None)
    asked: list[int] = []

    class Throttled:
        def cat_ranges(self, paths: list[str], *_: Any, **__: Any) -> list[bytes | BaseException]:
            asked.append(len(paths))
            slow: bytes | BaseException = refused(503, code) if len(asked) <= 2 * patience.OWN_FAULT else b"audio"
            return [refused(500, "InternalError") if path == "b/bad" else slow for path in paths]

    bad, *others = opening._heads(Throttled(), ["b/bad", "b/1", "b/2"], Storage())
    assert isinstance(bad, OSError)
    assert others == [b"audio", b"audio"]


@pytest.mark.parametrize("order", [("up/a", "down/b", "down/c"), ("down/b", "up/a", "down/c")])
def test_a_bucket_that_answers_says_nothing_of_another(order: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: None)
    rounds = count()

    class TwoBuckets:
        def call_s3(self, *_: Any, **asked: Any) -> None:
            if asked["Bucket"] == "down":
                raise refused(500, "InternalError")

        def cat_ranges(self, paths: list[str], *_: Any, **__: Any) -> list[bytes | BaseException]:
            away = next(rounds) <= 2 * patience.OWN_FAULT
            return [refused(500, "InternalError") if away and path[0] == "d" else b"audio" for path in paths]

    assert opening._heads(TwoBuckets(), order, Storage()) == [b"audio"] * 3
