"""The command line as people and schedulers meet it: exit codes, sentences, kills and restarts, Ray jobs."""

import errno
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import duckdb
import pyarrow as pa
import pytest

from jobs.drills.processes import descendants, kill
from looptagger import terminal
from looptagger.archive import status
from looptagger.archive.storage import Folder, file_at
from looptagger.cli import cli, main, options, tables
from looptagger.config import Model, Tag
from looptagger.errors import UserError
from looptagger.model import checkpoint
from looptagger.roles import ROLES
from tests.conftest import CLEAN, LOOPS, ONE_CORE, joining, write_tones

ROOT = Path(__file__).parents[1]
BY_FOUR = ("--set", "compute.shard_rows=4", "--set", "compute.device=cpu")


def call(*args: object) -> int:
    try:
        main([str(arg) for arg in args])
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """A command and those below it."""
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


@pytest.mark.parametrize("command", commands(cli), ids=" ".join)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_everywhere_with_an_example(
    command: tuple[str, ...], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*command, flag) == 0
    text = capsys.readouterr().out
    assert "Example: looptagger" in text or command == ("model",)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A folder of things that are wrong."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "path.csv").write_text("id,path\n1,a.wav\n")
    (tmp_path / "twice.csv").write_text("id,uri\n1,a.wav\n1,b.wav\n")
    (tmp_path / "junk.parquet").write_text("junk")
    data = checkpoint.untrained(Model(channels=2)).replace(rb"hcnn", rb"gru_", 1)
    (tmp_path / "other.safetensors").write_bytes(data)
    (tmp_path / "junk.pth").write_bytes(b"junk")
    return tmp_path


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("tag {d}/nowhere -o {d}/out", "{d}/nowhere: no such file or folder"),
        ("tag {d}/empty -o {d}/out", "{d}/empty: no audio files found"),
        ("tag {d}/junk.parquet -o {d}/out", "junk.parquet: cannot be read as a manifest"),
        ("tag {d}/path.csv -o {d}/out", "path.csv: a manifest needs a column `uri`; this one has id, path"),
        ("tag {d}/twice.csv -o {d}/out", "the id '1' comes twice (rows 1 and 2)"),
        ("tag {d} -o {d}/out --model {d}/other.safetensors", "other.safetensors: the checkpoint's model.kind"),
        ("tag {d} -o {d}/out --model {d}/junk.pth", "junk.pth: not a safetensors checkpoint"),
        ("tag {d} -o {d}/out --model nope", "nope: no such model"),
        ("tag {d} -o {d}/file", "{d}/file: is a file; give a folder"),
        ("tag {d} -o {d}/out --set chunking.max_chunk=3", "no setting 'chunking.max_chunk'"),
        ("tag {d} -o {d}/out --set x", "write it as key=value"),
        ("tag {d} -o {d}/out --config {d}/none.yaml", "none.yaml: cannot be read"),
        ("tag {d} -o {d}/out --limit 0", "0 is not in the range"),
        ("tag {d} -o {d}/out --colour red", "No such option"),
        ("tag {d}", "Missing option"),
        ("tag -o {d}/out", "Missing argument"),
        ("tag warez://x -o {d}/out", "warez:// cannot be reached"),
        ("status {d}/empty", "no looptagger output there"),
        ("show {d}/empty", "no looptagger output there"),
        ("compact {d}/empty", "no looptagger output there"),
        ("show {d}/empty --csv --role bass", "--csv writes all rows"),
        ("model info {d}/junk.pth", "not a safetensors checkpoint"),
        ("report {d}/empty --to {d}/out", "{d}/out: give it a name that ends in .html"),
        ("model import {d}/junk.pth -o starter", "starter: give it a name that ends in .safetensors"),
        ("model import {d}/junk.pth -o {d}/out.safetensors", "not a file of plain PyTorch weights"),
        ("model import {d}/junk.pth -o {d}/out.safetensors --name=a:b", "letters, digits and"),
        ("frobnicate", "No such command"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(
    args: str, says: str, bad: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*args.format(d=bad).split()) == 2
    text = " ".join(said(capsys).split())
    assert says.format(d=bad) in text
    assert "Traceback" not in text
    assert not (bad / "out").exists()


def test_no_permission_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("tag", LOOPS, "-o", "/proc/nope/out") == 2
    assert "/proc/nope/out: cannot be written" in said(capsys)


def test_a_cluster_that_does_not_answer(tmp_path: Path, tiny_model: str) -> None:
    job = start(LOOPS, tmp_path / "out", tiny_model, "--address", "127.0.0.1:1")
    text = job.communicate(timeout=60)[1].decode()
    assert job.returncode == 2, text
    assert "Ray cluster" in text
    assert "Traceback" not in text


def test_ray_that_does_not_start_in_time_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    def slow(**_: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", slow)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(SystemExit, match="2"):
        main(["tag", str(LOOPS), "-o", str(tmp_path / "out"), "--model", tiny_model, "--address", "local"])
    assert "timed out during startup; on a busy machine, try again." in said(capsys)
    main(["show", str(tmp_path / "out")])
    assert "no clips to show" in said(capsys)


def test_a_fault_of_ours_is_kept_for_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("surprise")

    monkeypatch.setattr(checkpoint, "resolve", fail)
    assert call("model", "info", "x") == 1
    text = said(capsys)
    assert "Internal error: surprise" in text
    log = Path(text.split("report it with ")[1].split(";")[0].strip())
    assert "Traceback" in log.read_text()
    log.unlink()


@pytest.mark.usefixtures("no_workers")
def test_tag_show_status_compact(tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    (tmp_path / "in").mkdir()
    write_tones(tmp_path / "in", 9)
    (tmp_path / "in" / "bad.wav").write_bytes(b"junk")
    flags = ("-o", out, "--model", tiny_model, "--set", "compute.device=cpu")
    assert call("tag", tmp_path / "in", *flags, "--fail-on-error") == 1
    assert call("tag", tmp_path / "in", *flags, "--fail-on-error") == 1, "also where an earlier run met them"
    text = said(capsys)
    assert "random weights" in text
    assert "10/10 clips (100%), 1 failed" in text
    assert "1 failed (1 undecodable)" in text
    assert "10 of 10 are in" in text
    assert call("tag", tmp_path / "in", *flags) == 0
    assert "Nothing to do: 10 of 10 clips have a row" in said(capsys)
    assert call("show", out) == 0
    table = capsys.readouterr().out
    assert "tone0003.wav" in table
    assert "undecodable: no decoder could read it" in " ".join(table.split())
    assert call("compact", out) == 0
    assert "2 parts before, 1 now" in said(capsys)
    assert call("status", out, "--verify") == 0
    text = " ".join(said(capsys).split())
    assert "10 of 10 clips have a row in 1 part, 0 left, 1 failed (1 undecodable)" in text
    assert "Every part is whole" in text
    next(out.glob("part-*")).unlink()
    assert call("status", out, "--verify") == 1
    assert "shards 0 to 1 are not tagged yet" in said(capsys)


def test_clips_of_a_store_are_shown_without_the_folder_they_share(capsys: pytest.CaptureFixture[str]) -> None:
    scores = dict.fromkeys(ROLES, 0.5) | {"duration_s": 1.0, "roles": ["bass"], "status": "ok", "error": None}
    names = [f"s3://a-long-name-of-a-bucket/loops/of/2024/{name}" for name in ("drums/a.wav", "bass/b.wav")]
    terminal.show(pa.Table.from_pylist([{"id": name} | scores for name in names]), "out")
    text = capsys.readouterr().out
    assert "\ndrums/a.wav " in text
    assert "\nbass/b.wav " in text


def test_streams_that_are_closed_or_know_few_letters(tmp_path: Path) -> None:
    (tmp_path / "\N{GRINNING FACE}.safetensors").write_bytes(checkpoint.untrained(Model(channels=4)))
    command = f"{sys.executable} -m looptagger model info '{tmp_path}/\N{GRINNING FACE}.safetensors'"
    for how in (f"{command} >&-", f"PYTHONIOENCODING=latin-1 {command}"):
        assert subprocess.run(how, shell=True, capture_output=True).returncode == 0, how


def test_names_that_would_speak_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    scores = dict.fromkeys(ROLES, 0.5) | {"duration_s": 1.0, "roles": ["bass"], "status": "ok", "error": None}
    rows = pa.Table.from_pylist(
        [{"id": name} | scores for name in ("/x:fire:.wav", "/data/\x1b]0;evil\x07 [b] [/b].wav", "/y\\")]
    )
    terminal.show(rows, "out")
    terminal.note("a\x1b[31m [b] :fire:")
    terminal.plain(os.fsdecode(b"caf\xe9")).plain.encode()
    tables.table(("loop",), [("\x1b[31m [/b].wav",)])
    text = "".join(capsys.readouterr())
    assert "\x1b" not in text
    assert "data/\ufffd]0;evil\ufffd [b] [/b].wav" in text
    assert "\nx:fire:.wav" in text
    assert "\ny\\ " in text
    assert "[b] :fire:\n" in text
    assert "from '/a b/*.parquet'" in terminal.query("file:///a%20b")
    assert "from 'Bob''s [[]1] $x/*.parquet'" in terminal.query("Bob's [1] $x")


def test_where_a_file_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places = ("page.html", "/page.html", "sub/page.html", "file:///a/page.html", "s3://bucket/x/page.html")
    found = [file_at(place) for place in places]
    assert {name for _, name in found} == {"page.html"}
    for place in ("s3://bucket", "s3://bucket/d/"):
        with pytest.raises(UserError, match="name a file in it"):
            file_at(place)
    assert [to.uri for to, _ in found] == [str(tmp_path), "/", f"{tmp_path}/sub", "/a", "s3://bucket/x"]


@pytest.mark.usefixtures("no_workers")
def test_json_lines_for_machines(tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tones(tmp_path / "in", 3)
    (tmp_path / "in" / "bad ü.wav").write_bytes(b"junk")
    flags = ("--model", tiny_model, "--set", "compute.device=cpu", "--set", "compute.price_per_hour=3000000")
    assert call("tag", tmp_path / "in", "-o", tmp_path / "out", *flags, "--log-json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert all(line["time"] and line["event"] for line in lines)
    (failed,) = [line for line in lines if line["event"] == "failed"]
    assert failed["id"] == failed["uri"] == str(tmp_path / "in" / "bad ü.wav")
    assert failed["status"] == "undecodable"
    last = [line for line in lines if line["event"] == "progress"][-1]
    assert (last["done"], last["total"], last["failed"]) == (4, 4, 1)
    assert lines[-1]["event"] == "finished"
    assert lines[-1]["by_status"] == {"ok": 3, "undecodable": 1}
    assert lines[-1]["cost"] > 0


def test_json_lines_say_faults_of_ours_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("surprise")

    monkeypatch.setattr(checkpoint, "resolve", fail)
    assert call("tag", LOOPS, "-o", tmp_path / "out", "--log-json") == 1
    (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert line["event"] == "error"
    assert "Internal error: surprise" in line["text"]
    Path(line["text"].split("report it with ")[1].split(";")[0].strip()).unlink()


def test_json_lines_say_wrong_flags_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("tag", LOOPS, "-o", tmp_path / "out", "--log-json", "--limit", "0") == 2
    (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert line["event"] == "error"
    assert "0 is not in the range" in line["text"]


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["--set", "chunking.x=1"], 2, "there is no setting 'chunking.x'"),
        (["--config", "nowhere.yaml"], 2, "nowhere.yaml: cannot be read"),
        (["--model", "nowhere"], 2, "nowhere"),
    ],
)
def test_json_lines_say_what_can_be_mended(
    more: list[str], code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("tag", LOOPS, "-o", tmp_path / "out", "--log-json", *more) == code
    (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert line["event"] == "error"
    assert says in line["text"]


def test_json_lines_say_that_a_job_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "resolve", stop)
    assert call("tag", LOOPS, "-o", tmp_path / "out", "--log-json") == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "stopped"
    assert call("model", "info", "starter") == 130
    assert said(capsys) == "Stopped.\n", "what the same command would do, goes without saying"


def test_no_folder_to_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert call("tag", "in", "-o", "out") == 2
    assert "the folder that the command was given in is gone" in said(capsys)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 2), (errno.EDQUOT, 2), (errno.EIO, 1)])
def test_a_full_disk_is_the_user_s_to_mend(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoint, "resolve", fail)
    assert call("model", "info", "x") == code
    text = said(capsys)
    assert ("the disk is full; free some space and run the same command again." in text) == (code == 2)
    if code == 1:
        Path(text.split("report it with ")[1].split(";")[0].strip()).unlink()


def test_settings_are_the_file_s_then_set_s_then_flags(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("storage: {attempts: 7, timeout_s: 9, endpoint_url: 'http://file'}\nchunking: {hop_s: 1.5}\n")
    given = {
        "config_file": file, "endpoint_url": "http://flag", "anonymous": True, "other": 1,
        "overrides": ("storage.attempts=8", "storage.endpoint_url=http://set"),
    }  # fmt: skip
    found = options.settings(Tag, given)
    assert (found.storage.timeout_s, found.chunking.hop_s) == (9, 1.5)
    assert found.storage.attempts == 8
    assert (found.storage.endpoint_url, found.storage.anonymous) == ("http://flag", True)
    assert given == {"other": 1}


def test_names_that_are_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("tag", "", "-o", tmp_path / "out") == 2
    assert call("tag", LOOPS, "-o", "") == 2
    assert call("tag", "github://x", "-o", tmp_path / "out") == 2
    text = said(capsys)
    assert "a source's name is empty" in text
    assert not (tmp_path / "out").exists()
    assert "the output's name is empty" in text
    assert "github:// needs more than a URI says" in text


def test_model_import_and_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from looptagger.config import Audio
    from looptagger.model.hcnn import HCNN
    from tests.model.test_published import published_key

    state = HCNN(Model(channels=2), Audio()).state_dict()
    torch.save({name: value for key, value in state.items() if (name := published_key(key))}, tmp_path / "p.pth")
    out = tmp_path / "my own.safetensors"
    assert call("model", "import", tmp_path / "p.pth", "-o", out, "--licence", "CC0-1.0") == 0
    assert call("model", "info", out) == 0
    text = capsys.readouterr().out
    assert '"imported_from": "p.pth"' in text
    assert '"name": "my-own"' in text


def start(source: Path, out: Path, model: str, *more: str, env: dict[str, str] = ONE_CORE) -> subprocess.Popen[bytes]:
    command = [Path(sys.executable).parent / "looptagger", "tag", source, "-o", out, "--model", model, *BY_FOUR]
    there = {"cwd": out.parent, "env": env}
    return subprocess.Popen([*command, *more], **there, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def rows_readable_now(out: Path) -> int:
    """DuckDB reads every part there is, at any moment."""
    if not list(out.glob("*.parquet")):
        return 0
    return int(duckdb.sql(f"select count(*) from '{out}/*.parquet'").fetchall()[0][0])


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Wide enough that a hundred clips take some seconds."""
    path = tmp_path_factory.mktemp("model") / "slow.safetensors"
    path.write_bytes(checkpoint.untrained(Model(channels=64)))
    return str(path)


def cut_off(how: str, job: subprocess.Popen[bytes], out: Path, rows: int) -> None:
    """Let it run until so many rows are there, then end it, one way or another."""
    deadline = time.monotonic() + 120
    while rows_readable_now(out) < rows and time.monotonic() < deadline:
        time.sleep(0.1)
    if how == "kill":
        kill(list(descendants(job.pid)))
        job.wait()
    else:
        job.send_signal(signal.SIGTERM)
        printed, text = (stream.decode() for stream in job.communicate(timeout=60))
        assert job.returncode == 130, text
        assert printed == ""
        assert "Stopped. The same command goes on from here." in text
        assert "Traceback" not in text
    assert rows <= rows_readable_now(out) < 120, how


@pytest.mark.usefixtures("no_workers")
def test_a_run_cut_off_twice_goes_on_to_one_row_a_clip(tmp_path: Path, slow_model: str) -> None:
    """The first with a Ray of its own, the second on a cluster that goes on without it."""
    source, out = tmp_path / os.fsdecode(b"caf\xe9"), tmp_path / "out"  # not UTF-8, which Ray wants of command lines
    write_tones(source, 120)
    (tmp_path / "av.py").write_text("raise ImportError")  # a user's, in the folder that the command is given in
    cut_off("terminate", start(source, out, slow_model), out, 8)
    (tmp_path / "av.py").unlink()
    (ran,) = status.runs(Folder(str(out)))
    assert (ran["ended"], ran["clips"]) == ("interrupted", rows_readable_now(out)), "not those that no part has"
    assert sum(ran["by_status"].values()) == ran["clips"]
    cut_off("kill", start(source, out, slow_model, env=joining()), out, 36)
    main(["tag", str(source), "-o", str(out), "--model", slow_model, *BY_FOUR])
    found = duckdb.sql(f"select count(*), count(distinct id) from '{out}/*.parquet'").fetchall()
    assert found == [(120, 120)]
    assert status.verify(Folder(str(out))) == []


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "looptagger", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert "0.1.0" in done.stdout


def _free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return int(each.getsockname()[1])


@pytest.fixture
def ray_head() -> Iterator[tuple[dict[str, str], str]]:
    """A Ray head node with its job server, as `ray start --head` makes it; its environment and the server's address."""
    bin_ = Path(sys.executable).parent
    port, dashboard, agent = _free_port(), _free_port(), _free_port()
    env = CLEAN | {
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    flags = [
        f"--port={port}",
        f"--dashboard-port={dashboard}",
        "--dashboard-host=127.0.0.1",
        "--include-dashboard=true",
        f"--dashboard-agent-listen-port={agent}",  # its default is held by the Ray session of the other tests
    ]
    command = [bin_ / "ray", "start", "--head", "--block", "--num-cpus=1", "--disable-usage-stats", *flags]
    head = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield env, f"http://127.0.0.1:{dashboard}"
    finally:
        kill(list(descendants(head.pid)))
        head.wait()


def test_ray_job_submit_does_what_the_command_does(
    ray_head: tuple[dict[str, str], str], tmp_path: Path, tiny_model: str
) -> None:
    env, address = ray_head
    entry = ["python", "jobs/tag.py", str(LOOPS), "-o", str(tmp_path / "out"), "--model", tiny_model]
    submit = ["ray", "job", "submit", f"--address={address}", "--working-dir", ".", "--", *entry]
    for _ in range(30):
        done = subprocess.run(submit, env=env, cwd=ROOT, capture_output=True, text=True, timeout=200)
        if done.returncode == 0 or not re.search("Failed to connect|try again later", done.stderr + done.stdout):
            break
        time.sleep(1)
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "Starting Ray ... 12 clips to tag with 1 CPU workers" in said, "on the cluster that it was submitted to"
    assert "12 of 12 are in" in said
    assert status.verify(Folder(str(tmp_path / "out"))) == []
