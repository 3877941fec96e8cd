import errno
import io
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from botocore.exceptions import ReadTimeoutError
from s3fs.utils import FileExpired

from looptagger.archive import lock, storage
from looptagger.archive.opening import WHOLE_BYTES, Lazy, Remote, delay_s, open_files, unread, whole
from looptagger.archive.sources import open_sources
from looptagger.archive.storage import Folder, filesystem
from looptagger.config import Limits, Storage
from looptagger.errors import ClipFailed, Unreachable, UserError


def reason(uri: str, limits: Limits = Limits()) -> str:
    (found,) = open_files([uri], Storage(), limits)
    assert isinstance(found, ClipFailed)
    return found.status


def test_local_files_open_and_failures_keep_their_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    found = open_files([str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path)], Storage(), Limits())
    assert found[0].read() == b"1"  # type: ignore[union-attr]
    assert [each.status for each in found[1:]] == ["missing", "unreadable"]  # type: ignore[union-attr]


def test_reasons(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "big").write_bytes(b"x" * 100)
    assert reason(str(tmp_path / "pipe")) == "unreadable"
    assert reason(str(tmp_path / "big"), Limits(max_bytes=99)) == "too_large"
    assert reason("/no\0pe") == "missing"
    assert reason(str(tmp_path / "big" / "below")) == "unreadable"


def test_large_files_are_opened_rather_than_read(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 30)
    (found,) = open_files([str(tmp_path / "sparse")], Storage(), Limits())
    with found:  # type: ignore[union-attr]
        assert found.file.fileno() > 0  # type: ignore[union-attr]


def test_names_that_are_not_utf8_and_names_with_escapes(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    Path(os.fsdecode(raw)).write_bytes(b"1")
    (tmp_path / "a%20b").write_bytes(b"2")
    (tmp_path / "a b").write_bytes(b"3")
    (tmp_path / "caf%E9.wav").write_bytes(b"4")
    uris = ["file://" + quote(raw), f"file://{tmp_path}/a%20b", f"{tmp_path}/caf%E9.wav"]
    assert [file.read() for file in open_files(uris, Storage(), Limits())] == [b"1", b"2", b"4"]  # type: ignore[union-attr]


def test_a_folder_by_its_uri_with_escapes(tmp_path: Path) -> None:
    Folder(f"file://{tmp_path}/my%20tags").write("a", b"1")
    assert (tmp_path / "my tags" / "a").read_bytes() == b"1"


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EHOSTDOWN, errno.ETIMEDOUT])
def test_a_disk_that_is_away_is_no_clip_s_fault(code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stale(*_: object) -> bytes:
        raise OSError(code, os.strerror(code))

    (tmp_path / "large.wav").write_bytes(bytes(WHOLE_BYTES + 1))
    (file,) = open_files([str(tmp_path / "large.wav")], Storage(), Limits())
    assert isinstance(file, Lazy)
    file.file = SimpleNamespace(read=stale, close=lambda: None)
    with pytest.raises(Unreachable, match=f"{tmp_path}: its disk is gone"):
        whole(file, lambda each: each.read(1), Storage(), lambda: None)
    monkeypatch.setattr(os, "stat", stale)
    with pytest.raises(Unreachable, match="/mnt/loops: its disk is gone"):
        open_files(["/mnt/loops/a.wav"], Storage(), Limits())


def test_why_a_store_refuses_an_object_is_said() -> None:
    """s3fs makes one error of all that is forbidden."""
    assert str(unread(PermissionError(errno.EACCES, "Permission denied"))) == "permission denied"
    assert (
        str(unread(PermissionError("not authorized to perform: kms:Decrypt")))
        == "not authorized to perform: kms:Decrypt"
    )
    archived = OSError("[Errno 5] An error occurred (InvalidObjectState) when calling the GetObject operation")
    assert "restore it first" in str(unread(archived))


def test_a_file_is_not_written_over_another_kind_s(tmp_path: Path) -> None:
    (tmp_path / "loop.wav").write_bytes(b"1")
    for place, says in (("loop.wav", "ends in .html"), ("new", "ends in .html"), ("", "is a folder")):
        with pytest.raises(UserError, match=says):
            storage.file_at(str(tmp_path / place), endings=(".html",))
    assert storage.file_at(str(tmp_path / "new.HTML"), endings=(".html",))[1] == "new.HTML"


def test_a_file_for_a_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(UserError, match="is a file, or in one; give a folder"):
        Folder(str(tmp_path / "file")).read("_run/dataset.json")


def test_unknown_schemes_are_named() -> None:
    with pytest.raises(UserError, match="ftp:// needs more than a URI says"):
        storage.filesystem("ftp://x/y", Storage())
    with pytest.raises(UserError, match="warez://"):
        storage.filesystem("warez://x", Storage())


def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(str(tmp_path))
    folder.write("sub/a", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="disk is full"):
        folder.write("sub/a", b"new")
    assert folder.read("sub/a") == b"old"
    assert os.listdir(tmp_path / "sub") == ["a"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "small", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        with pytest.raises(UserError, match="disk is full"):
            Folder(str(tmp_path)).write("part", b"x" * 200_000)
        assert os.listdir(tmp_path) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_any_fsspec_scheme_serves_as_a_folder() -> None:
    folder = Folder("memory://out")
    folder.write("_run/x", b"1")
    assert folder.read("_run/x") == b"1"
    assert folder.read("nothing") is None
    assert folder.names("_run") == ["x"]
    folder.delete(["_run/x", "nothing"])
    assert folder.names("_run") == []


class SlowStore:
    """A filesystem whose files hesitate."""

    size = 3

    def open(self, *_: object, **__: object) -> "SlowStore":
        return self

    def read(self, _: int = -1) -> bytes:
        time.sleep(0.05)
        return b"abc"

    def close(self) -> None:
        pass

    def pipe_file(self, *_: object, **__: object) -> None:
        raise FileNotFoundError("NoSuchBucket")

    def cat_file(self, *_: object) -> bytes:
        raise FileNotFoundError("NoSuchBucket")

    def _strip_protocol(self, uri: str) -> str:
        return uri


def test_a_file_says_how_long_it_waited_for_its_store() -> None:
    with Remote(SlowStore(), "x") as file:
        assert file.read() == b"abc"
        assert file.waited_s >= 0.05
    assert delay_s(file, Storage(attempts=2, timeout_s=3, patience_s=5)) == 41
    assert delay_s(io.BytesIO(), Storage()) == 0


def test_what_was_written_anew_while_it_was_read_is_looked_up_again() -> None:
    with pytest.raises(FileNotFoundError), Folder("s3://bucket/out").reached():
        raise FileExpired(filename="bucket/out/part-0000000.parquet", e_tag="x")


def test_a_scheme_whose_package_is_missing_is_no_clips_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(Unreachable, match="gs:// cannot be reached"):
        open_files(["gs://bucket/a.wav"], Storage(), Limits())
    (tmp_path / "m.csv").write_text("uri\na.wav\nfoo://x/b.wav\ngs://bucket/a.wav\n")
    (listing,) = open_sources([str(tmp_path / "m.csv")], Storage())
    with pytest.raises(UserError, match=r"m.csv: gs:// cannot be reached"):  # before any clip is tagged
        list(listing.batches())


def test_a_request_that_is_never_answered_is_made_so_many_times() -> None:
    """By botocore `attempts` times, by each of s3fs's two loops twice: `delay_s` counts on it."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hear() -> None:
            with suppress(OSError):  # closed
                while True:
                    asked.append(server.accept())

        threading.Thread(target=hear, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        fs = filesystem("s3://b/a", Storage(endpoint_url=endpoint, attempts=2, timeout_s=0.2), anonymous=True)
        (error,) = fs.cat_ranges(["b/a"], 0, 10, on_error="return")
    assert isinstance(error, ReadTimeoutError)
    assert len(asked) == 8


def test_an_output_s_bucket_that_is_not_there_is_a_sentence() -> None:
    folder = Folder("s3://nowhere/out")
    folder.__dict__["fs"] = SlowStore()
    with pytest.raises(UserError, match="no such bucket"), lock.held(folder):
        pass
