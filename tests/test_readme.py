"""What README.md shows is run, in order: its commands on the demo loops, its queries on what they made."""

import contextlib
import importlib.util
import re
import shlex
import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
import torch

from looptagger.archive import tags
from looptagger.cli import main
from looptagger.config import Model
from looptagger.model import checkpoint
from tests.conftest import LOOPS, S3
from tests.learn.test_training import SHORT
from tests.learn.tree import separable

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCKS if found == kind]


COMMANDS = [
    line.split("  #")[0].strip() for text in blocks("sh") for line in text.splitlines() if line.startswith("looptagger")
]
LABELS = next(text for text in blocks("csv") if text.startswith("path,roles"))
BRIEF = ("model.channels=4", "epochs=2", "batch=16", "compute.device=cpu", *SHORT)
MANIFEST = next(text for text in blocks("text") if text.startswith("id,uri"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README's reader has it: loops/ and manifest.csv, and tags/ once the commands have run."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(LOOPS, folder / "loops")
    (folder / "loops" / "zz broken.wav").write_bytes(b"RIFF broken")
    (folder / "manifest.csv").write_text(MANIFEST)
    separable(folder, 10, users=40).write("json")
    shutil.copytree(LOOPS, folder / "myloops")
    (folder / "myloops" / "labels.csv").write_text(LABELS.replace("drums/break.wav", "loop_amen.flac"))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny one that is sure of percussion and bass, so that questions have answers."""
    network, card = checkpoint.load(checkpoint.untrained(Model(channels=4)), "untrained")
    with torch.no_grad():
        network.out.bias[:2] += 4
    path = tmp_path_factory.mktemp("model") / "sure.safetensors"
    path.write_bytes(checkpoint.dump(network, card))
    return str(path)


@pytest.mark.usefixtures("no_workers")
def test_every_command_works(place: Path, s3_server: S3, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.chdir(place)
    for key, value in {**s3_server.env, "AWS_ENDPOINT_URL": s3_server.endpoint}.items():
        monkeypatch.setenv(key, value)
    s3fs.S3FileSystem.clear_instance_cache()
    for path in LOOPS.glob("*.flac"):
        s3_server.fs.pipe_file(f"public/loops/{path.name}", path.read_bytes())
    assert len(COMMANDS) == 19
    for line in COMMANDS:
        command, _, file = line.partition(" > ")
        args = shlex.split(command.replace("s3://bucket/", "s3://public/"))[1:]
        if args[0] in ("tag", "doctor"):
            args += [] if "--model" in args else ["--model", model]
            args += ["--set", "compute.device=cpu"]
        if args[0] == "prepare":
            args += ["--set", "shares=[0.6,0.2,0.2]"]
        if args[0] == "train":
            args += [text for setting in BRIEF for text in ("--set", setting)]
        if args[0] == "paper":
            args += ["--system", "BR-RF", "--protocol", "ours", "--seed", "0", "--set", "classic.trees=10"]
        if args[0] == "doctor":
            with pytest.raises(SystemExit, match="0"):
                main(args)
            continue
        with contextlib.redirect_stdout(open(file, "w")) if file else contextlib.nullcontext():
            main(args)  # raises SystemExit on failure
    assert duckdb.sql("select count(*), count(error) from 'tags.csv'").fetchall() == [(13, 1)]
    page = (place / "tags-report.html").read_text()
    assert all(text in page for text in ("loop_amen.flac", "zz broken.wav", "undecodable"))
    assert s3_server.fs.glob("public/tags/part-*.parquet")
    assert duckdb.sql("select count(*) from 'tags/*.parquet'").fetchall() == [(13,)]
    found = duckdb.sql("select id, bpm, pack, status from 'tagged/*.parquet' order by id").fetchall()
    assert found == [("amen", 136, "breaks", "ok"), ("choir", None, "pads", "ok")]
    order = "select bool_and(m.id = t.id) from 'manifest.csv' as m positional join 'tagged/*.parquet' as t"
    assert duckdb.sql(order).fetchall() == [(True,)]


def test_every_sql_query_works(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    queries = [query for text in blocks("sql") for query in text.split(";") if query.strip()]
    assert len(queries) == 7
    as_here = [query.replace("float[128]", "float[8]") for query in queries]  # as many as the model here gives
    roles, bass, together, failed, by_pack, by_row, alike = (duckdb.sql(query).fetchall() for query in as_here)
    clips = [row for row in pq.read_table("tags").to_pylist() if row["status"] == "ok"]
    assert len(clips) == 12
    assert dict(roles) == Counter(role for clip in clips for role in clip["roles"])
    assert len(bass) > 5
    surest = sorted((clip["bass"] for clip in clips if clip["bass"] > 0.5), reverse=True)
    assert [row[1] for row in bass] == surest[:10]
    beside = Counter(pair for clip in clips for pair in combinations(sorted(clip["roles"]), 2))
    assert {row[:2]: row[2] for row in together} == beside
    assert [row[:2] for row in failed] == [("undecodable", 1)]
    assert sorted(by_pack) == sorted(by_row) == [("breaks", 1, 136.0), ("pads", 1, None)]
    assert len(alike) == 5
    assert alike[0][0].endswith("/bass_thick_c.flac")
    assert alike[0][1] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("text", blocks("python"), ids=lambda text: text.split()[1])
def test_every_python_snippet_works(text: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    for module in re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
        if module == "pyspark" and not shutil.which("java"):
            pytest.skip("pyspark needs Java")
    monkeypatch.setenv("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")  # compiling better costs more than it runs
    exec(compile(text, "README.md", "exec"), {})


def test_every_column_is_described() -> None:
    table = README.split("### Columns")[1].split("\n## ")[0]
    described = set(re.findall(r"`(\w+)`", table))
    more = {"embedding", tags.CODE[0], tags.CODE[-1], tags.CODED_ROW}
    assert {field.name for field in tags.CLIP_SCHEMA} | more <= described
    assert set(tags.STATUSES) <= described


def test_every_flag_is_real(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tag", "--help", "--nope"])
    for command in ("tag", "prepare", "train", "evaluate", "paper", "status"):
        main([command, "-h"])
    text = capsys.readouterr().out
    for flag in set(re.findall(r"`(--[a-z-]+)", README)):
        assert flag in text, flag
