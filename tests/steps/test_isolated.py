import errno
import faulthandler
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from looptagger.archive import opening
from looptagger.config import Audio, Limits, Prepare, Tag
from looptagger.errors import UserError
from looptagger.steps import decoding, isolated
from tests.conftest import write_tones

LIMITS, QUICK = Limits(), Limits(max_decode_s=3.0, max_memory=1 << 30)


@pytest.fixture
def sick() -> Iterator[isolated.Helper]:
    helper = isolated.Helper(sys.executable, "-m", "tests.steps.sick_decoder")
    yield helper
    helper.close()


def rows(paths: list[Path]) -> pa.Table:
    uris = [str(path) for path in paths]
    return pa.table({"id": uris, "uri": uris, "bpm": list(range(len(uris)))})


def test_a_helper_gives_what_decoding_here_gives(tmp_path: Path) -> None:
    table = rows([*write_tones(tmp_path, 20), tmp_path / "gone.wav"])
    helper = isolated.Helper()
    for _ in range(2):  # one helper serves many shards
        there = pa.concat_tables(helper.run_step("decoded", table, LIMITS, audio=Audio(), tag=Tag()))
        here = pa.concat_tables(decoding.decoded(table, Audio(), Tag()))
        assert there.drop_columns(decoding.DECODE_S) == here.drop_columns(decoding.DECODE_S)
        assert min(there.column(decoding.DECODE_S).to_pylist()) >= 0
    helper.close()


def test_what_kills_a_decoder_costs_its_own_row_alone(sick: isolated.Helper, tmp_path: Path) -> None:
    paths = write_tones(tmp_path, 40)
    reasons = {
        0: ("crash", "the decoder crashed (SIGSEGV)"),
        7: ("hang.", "the decoder hung: no end after 4.5 s"),
        8: ("abort", "the decoder crashed (SIGABRT)"),
        21: ("swell", "decoding needs more than limits.max_memory = 1,073,741,824 bytes"),
        30: ("slow.", "the decoder hung: no end after 4.5 s"),
        35: ("kill!", "the decoder was killed 3 times, perhaps by the system for want of memory"),
        39: ("leave", "the decoder crashed (exit code 0)"),
    }
    for number, (kind, _) in reasons.items():
        paths[number].write_bytes(kind.encode() * 99)
    table = pa.concat_tables(sick.run_step("decoded", rows(paths), QUICK, audio=Audio(), tag=Tag(limits=QUICK)))
    assert table.column("uri").to_pylist() == [str(path) for path in paths]
    assert table.column("bpm").to_pylist() == list(range(40))
    said = table.column("error").to_pylist()
    assert {number: text for number, text in enumerate(said) if text} == {n: text for n, (_, text) in reasons.items()}
    status = table.column("status").to_pylist()
    assert [status[number] for number in reasons] == [*["undecodable"] * 3, "too_large", *["undecodable"] * 3]
    assert status.count("ok") == 33


def test_late_rows_are_not_mistaken_for_others(sick: isolated.Helper, tmp_path: Path) -> None:
    paths = write_tones(tmp_path, 60)
    for number in (20, 41):
        paths[number].write_bytes(b"abort" * 99)
    table = pa.concat_tables(sick.run_step("decoded", rows(paths), LIMITS, audio=Audio(), tag=Tag()))
    assert [number for number, text in enumerate(table.column("error").to_pylist()) if text] == [20, 41]


def test_a_decoder_killed_from_outside_tries_again(sick: isolated.Helper, tmp_path: Path) -> None:
    paths = write_tones(tmp_path, 20)
    for number in (3, 4, 18):
        paths[number].write_bytes(f"once:{tmp_path}/{number}\n".encode() + paths[number].read_bytes())
    table = pa.concat_tables(sick.run_step("decoded", rows(paths), LIMITS, audio=Audio(), tag=Tag()))
    assert table.column("uri").to_pylist() == [str(path) for path in paths]
    assert set(table.column("status").to_pylist()) == {"ok"}


def test_memory_that_is_too_small_for_several_clips_is_a_sentence(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.wav" for number in range(48)]
    for path in paths:
        soundfile.write(path, np.resize(np.float32([0.5, -0.5]), 16_000 * 60), 16_000)
    helper, small = isolated.Helper(), Limits(max_memory=256 << 20)
    with pytest.raises(UserError, match="limits.max_memory: 268,435,456 bytes do not hold"):
        list(helper.run_step("decoded", rows(paths), small, audio=Audio(), tag=Tag(limits=small)))
    helper.close()
    without = OSError(errno.ENOMEM, "Cannot allocate memory", "a/module/that/is/imported/late")
    assert isolated._fault(without, small) == isolated._fault(MemoryError(), small)
    for said in ("unable to start watchdog thread", "can't start new thread"):
        assert isolated._fault(RuntimeError(said), small) == isolated._fault(MemoryError(), small)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_large_file_whose_disk_fails_is_no_short_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.resize(np.float32([0.5, -0.5]), 44_100 * 120), 44_100)
    assert path.stat().st_size > opening.WHOLE_BYTES
    (whole,) = pa.concat_tables(decoding.decoded(rows([path]), Audio(), Tag())).to_pylist()
    assert (whole["status"], whole["duration_s"]) == ("ok", 120.0)

    class Failing(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            if self.tell() > 4 << 20:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().readinto(buffer) or 0

    monkeypatch.setattr("builtins.open", lambda path, mode: io.BufferedReader(Failing(path)))
    (row,) = pa.concat_tables(decoding.decoded(rows([path]), Audio(), Tag())).to_pylist()
    assert (row["status"], row["error"]) == ("unreadable", "Input/output error")


def test_a_helper_that_never_begins_is_no_clips_fault(tmp_path: Path) -> None:
    helper = isolated.Helper(sys.executable, "-c", "raise SystemExit(3)")
    with pytest.raises(RuntimeError, match=r"ends before it begins: the decoder crashed \(exit code 3\)"):
        list(helper.run_step("decoded", rows(write_tones(tmp_path, 2)), LIMITS, audio=Audio(), tag=Tag()))
    helper.close()


def test_the_folder_that_a_user_is_in_is_no_place_for_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And Python's exit code for one that it cannot import is a hung decoder's, too."""
    (tmp_path / "av.py").write_text("raise ImportError")
    table = rows(write_tones(tmp_path / "in", 2))
    monkeypatch.chdir(tmp_path)
    helper = isolated.Helper()
    (found,) = helper.run_step("decoded", table, LIMITS, audio=Audio(), tag=Tag())
    assert found.column("status").to_pylist() == ["ok", "ok"]
    helper.close()
    helper = isolated.Helper(sys.executable, "-c", "import av")
    with pytest.raises(RuntimeError, match=r"ends before it begins: the decoder crashed \(exit code 1\)"):
        list(helper.run_step("decoded", table, LIMITS, audio=Audio(), tag=Tag()))
    helper.close()


def test_an_error_of_ours_is_said_and_not_a_clips() -> None:
    helper = isolated.Helper()
    with pytest.raises(RuntimeError, match="KeyError"):
        list(helper.run_step("decoded", pa.table({"id": ["a"]}), LIMITS, audio=Audio(), tag=Tag()))
    helper.close()


def test_preparing_drops_what_kills_a_decoder(sick: isolated.Helper, tmp_path: Path) -> None:
    paths = write_tones(tmp_path, 12)
    paths[9].write_bytes(b"crash" * 99)
    table = pa.concat_tables(sick.run_step("prepared", rows(paths), LIMITS, settings=Prepare()))
    assert [number for number, reason in enumerate(table.column("drop").to_pylist()) if reason] == [9]
    assert table.column("duration_s").to_pylist()[8:11] == [0.25, 0.0, 0.25]


def test_what_nobody_heard_to_the_end_is_not_taken_for_the_next_answer(tmp_path: Path) -> None:
    paths = write_tones(tmp_path, 40)
    helper = isolated.Helper()
    how = {"audio": Audio(), "tag": Tag()}
    first = next(iter(helper.run_step("decoded", rows(paths[:30]), LIMITS, **how)))
    assert first.num_rows == 16
    found = pa.concat_tables(helper.run_step("decoded", rows(paths[30:]), LIMITS, **how))
    assert found.column("uri").to_pylist() == [str(path) for path in paths[30:]]
    helper.close()


def test_a_helper_that_was_killed_while_idle_is_replaced(tmp_path: Path) -> None:
    table = rows(write_tones(tmp_path, 3))
    helper = isolated.Helper()
    for _ in range(2):
        assert pa.concat_tables(helper.run_step("decoded", table, LIMITS, audio=Audio(), tag=Tag())).num_rows == 3
        assert helper.process
        helper.process.kill()
        helper.process.wait()
    helper.close()


def test_a_row_is_given_the_time_that_its_store_may_take_but_no_more_than_a_day() -> None:
    out = io.BytesIO()
    begin = isolated._watched(out, Limits(max_decode_s=60.0))
    for row, more_s in ((3, 10.0), (4, float("inf"))):
        begin(row, more_s)
        faulthandler.cancel_dump_traceback_later()
    said = out.getvalue()
    assert isolated.BEGINS.unpack(said[9:25]) == (3, 100.0)
    assert isolated.BEGINS.unpack(said[34:50]) == (4, isolated.LONGEST_S)
