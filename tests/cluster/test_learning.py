"""prepare, train and evaluate as users run them: on Ray, with workers that die, on S3."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from ray.exceptions import OutOfMemoryError, RayError, WorkerCrashedError

from jobs.drills.processes import alive, kill, named
from looptagger.archive.storage import Folder
from looptagger.cli import main
from looptagger.cluster import training, training_job
from looptagger.cluster.environment import CREDENTIALS, Environment, adopt, storage_environment
from looptagger.cluster.training_job import Events, TrainJob, train
from looptagger.errors import UserError
from looptagger.learn import record, resuming, table, worker
from looptagger.model import checkpoint
from looptagger.model.predictor import Predictor
from looptagger.roles import ROLES
from looptagger.settings import load
from tests.conftest import S3, joining
from tests.learn.test_training import SHORT, fit, settings
from tests.learn.tree import answer, separable, store

SMALL = ["model.channels=4", "batch=16", "phases=[{lr: 0.003, warmup_epochs: 1}]", "compute.device=cpu", *SHORT]


def flags(*overrides: str) -> list[str]:
    return [text for override in (*SMALL, *overrides) for text in ("--set", override)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = separable(tmp_path_factory.mktemp("fsld"), 16)
    made.add(2001, 90, b"RIFF broken", ann=answer(("fx",)))
    made.add(2002, 90, None, ann=answer(("fx",)))
    return made.write("json")


@pytest.fixture(scope="module")
def data(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, table.Dataset]:
    return store(tree, tmp_path_factory.mktemp("table"), shares=(0.6, 0.2, 0.2))


def kill_a_worker(run: Path, killed: list[int]) -> None:
    """SIGKILL the training worker once an epoch is stored."""
    deadline = time.monotonic() + 200
    while not (run / record.STATE).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    killed += named(os.getpid(), "ray::alone")  # not those of a training that goes on beside the tests
    kill(killed)


@pytest.mark.usefixtures("ray_here")
def test_from_fsld_to_figures_though_a_worker_dies(
    tree: Path, data: tuple[Folder, table.Dataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, run = tmp_path / "data", tmp_path / "run"
    main(["prepare", str(tree), "-o", str(out), "--set", "shares=[0.6,0.2,0.2]"])
    said = capsys.readouterr()
    assert "undecodable" in said.out
    assert "no audio" in said.out
    assert "1,626" in said.out  # the paper's
    assert "Rule: loops discarded" in said.out
    assert table.find(Folder(str(out))).digest == data[1].digest
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(run, killed), daemon=True)
    killer.start()
    main(["train", str(out), "-o", str(run), *flags("epochs=5")])
    killer.join()
    assert len(killed) == 1
    said = capsys.readouterr()
    assert [row["epoch"] for row in record.rows(Folder(str(run)))] == [1, 2, 3, 4, 5]
    assert "epoch 5/5" in said.err
    assert {record.CURVES, record.MODEL, record.ASKED} <= {path.name for path in run.iterdir()}
    main(["train", str(out), "-o", str(run), *flags("epochs=5")])  # nothing is left to do
    each = tmp_path / "scores.parquet"
    main(["evaluate", str(run), "--data", str(out), "-o", str(tmp_path / "figures.json"), "--scores", str(each)])
    rows = pq.read_table(each)
    assert rows.num_rows == data[1].counts["grouped"]["test"]["loops"]
    assert {"id", "model", "part", "is_bass", "bass"} < set(rows.column_names)
    chosen = tmp_path / "chosen.safetensors"
    main(["model", "thresholds", str(run), "--data", str(out), "-o", str(chosen)])
    assert Predictor.load(chosen).card.thresholds == pytest.approx(Predictor.load(run).card.thresholds)
    assert Predictor.load(chosen).card.provenance["thresholds_of"]["part"] == "validation"
    told = checkpoint.told_anew(chosen.read_bytes(), thresholds=dict.fromkeys(ROLES, 0.9))
    chosen.write_bytes(told)
    main(["model", "thresholds", str(chosen), "--data", str(out)])  # in its own place
    assert Predictor.load(chosen).card.thresholds == pytest.approx(Predictor.load(run).card.thresholds)
    weights = [checkpoint.load(data, "")[0].state_dict() for data in (told, chosen.read_bytes())]
    assert all(torch.equal(one, other) for one, other in zip(*(each.values() for each in weights), strict=True))
    said = capsys.readouterr()
    assert "suit other loops less" not in said.err
    main(["model", "thresholds", str(run), "--data", str(out), "-o", str(chosen), "--splits", "paper"])
    assert "They suit other loops less. The model was trained on the grouped split" in capsys.readouterr().err
    assert "mean of 6 roles" in said.out
    (report,) = json.loads((tmp_path / "figures.json").read_text())
    assert (report["split"], report["part"], report["loops"]) == (
        "grouped",
        "test",
        data[1].counts["grouped"]["test"]["loops"],
    )
    main(["evaluate", str(run), str(run), "--data", str(out), "--protocol", "published", "--split", "all"])
    said = capsys.readouterr()
    assert "F1, loop by loop" in said.out
    assert "flattering" in said.err


def test_a_worker_that_is_killed_too_often_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception) -> None:
        raise error

    monkeypatch.setattr(training.ray, "get", fail)
    for killed in (WorkerCrashedError(), OutOfMemoryError("the node was short of memory")):
        with pytest.raises(UserError, match="killed again and again.*set compute.keep_bytes or batch lower"):
            training._end(killed)
    with pytest.raises(RuntimeError, match="training failed: what Ray says"):
        training._end(RayError("what Ray says"))


@pytest.mark.usefixtures("ray_here")
def test_two_workers_on_s3_one_of_which_dies_do_as_one_here(
    data: tuple[Folder, table.Dataset], s3: S3, tmp_path: Path
) -> None:
    for path in Path(data[0].path).glob("*.*"):
        s3.fs.pipe_file(f"private/fsld/{path.name}", path.read_bytes())
    chosen = settings(
        "epochs=8",
        *SHORT,
        "compute.workers=2",
        "compute.device=cpu",
        f"storage.endpoint_url={s3.endpoint}",
        "average_epochs=2",
    )
    rows: list[Any] = []
    killed: list[int] = []

    def heard(row: Any) -> None:
        rows.append(row)
        if row["epoch"] == 3:
            assert named(os.getpid(), "ray::TrainController")
            killed.extend(list(named(os.getpid(), "RayTrainWorker"))[:1])
            kill(killed)

    log = train(TrainJob("s3://private/fsld", "s3://private/run", chosen), Events(epoch=heard))
    assert [row["epoch"] for row in log] == list(range(1, 9))
    assert all(row in log for row in rows), "one may have ended while the workers that would tell of it were replaced"
    assert len(killed) == 1
    alone = fit(data, tmp_path, chosen).log
    assert log[-1]["train_loss"] == pytest.approx(alone[-1]["train_loss"], abs=0.08)
    assert log[-1]["loss"] == pytest.approx(alone[-1]["loss"], abs=0.08)
    assert log[-1]["roc_auc"] == pytest.approx(alone[-1]["roc_auc"], abs=0.15)
    names = {name.removeprefix("private/run/") for name in s3.fs.find("private/run")}
    assert {record.STATE, record.MODEL, record.LOG, record.CURVES, record.ASKED} <= names
    assert any(name.startswith(record.BOARD) for name in names)
    card = checkpoint.card(checkpoint.resolve("s3://private/run", chosen.storage), "run")
    assert card.provenance["data"]["digest"] == data[1].digest
    assert (card.name, card.provenance["settings"]["epochs"]) == ("run", 8)
    assert card.provenance["started"] == record.started(Folder("s3://private/run", chosen.storage))
    again = train(TrainJob("s3://private/fsld", "s3://private/run", chosen, resume=True))
    assert again == log
    deadline = time.monotonic() + 60
    while named(os.getpid(), "ray::TrainController") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not named(os.getpid(), "ray::TrainController")  # a session that stays open keeps nothing of it


@pytest.mark.usefixtures("ray_here")
def test_a_training_stopped_in_an_open_session_stops(data: tuple[Folder, table.Dataset], tmp_path: Path) -> None:
    """In a notebook, the same call is made again: two workers would write to one run."""

    def stop(row: Any) -> None:
        raise KeyboardInterrupt

    job = TrainJob(data[0].path, str(tmp_path), settings(*SHORT, "epochs=500", "compute.device=cpu"))
    with pytest.raises(KeyboardInterrupt):
        train(job, Events(epoch=stop))
    deadline = time.monotonic() + 60
    while named(os.getpid(), "ray::alone") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not named(os.getpid(), "ray::alone")
    assert 1 <= len(record.rows(Folder(str(tmp_path)))) < 500


@pytest.mark.usefixtures("ray_here")
def test_what_ends_a_worker_is_said_in_a_sentence(
    data: tuple[Folder, table.Dataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = flags("phases=[{lr: 1.0e+20, optimiser: sgd}]", "compute.retries=0")
    with pytest.raises(SystemExit) as ended:
        main(["train", data[0].path, "-o", str(tmp_path), *wild])
    assert ended.value.code == 2
    assert "the loss is no longer a number; try a lower phases.0.lr" in capsys.readouterr().err


@pytest.mark.usefixtures("ray_here")
def test_a_run_is_not_deleted_for_one_that_cannot_start(
    data: tuple[Folder, table.Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(data, tmp_path, settings(*SHORT))
    job = TrainJob(data[0].path, str(tmp_path), settings(*SHORT, "compute.workers=3"), overwrite=True)
    with pytest.raises(UserError, match="cannot be divided evenly|CPU"):
        train(job)
    assert record.is_started(Folder(str(tmp_path)))
    again = settings("model.n_harmonic=2", f"begin_with={tmp_path}/../{tmp_path.name}/")
    with pytest.raises(UserError, match="would delete the model to learn from"):
        train(replace(job, train=again))
    monkeypatch.chdir(tmp_path)  # the model that comes along is no folder in it
    with pytest.raises(UserError, match="another; leave one of the two settings out"):
        train(replace(job, train=settings("model.n_harmonic=2", "begin_with=starter")))
    fewer = replace(job, train=settings(*SHORT, "epochs=1", "compute.device=cpu"))
    assert len(train(fewer)) == 1
    assert len(record.rows(Folder(str(tmp_path)))) == 1


def test_what_lies_there_without_a_state_is_not_trained_over(
    data: tuple[Folder, table.Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = TrainJob(data[0].path, str(tmp_path), settings(*SHORT))
    record.begin(Folder(str(tmp_path)), record.identity(job.train, data[1]), {})
    fit(data, tmp_path, job.train)
    known: list[Any] = []
    monkeypatch.setattr(training_job, "_run", lambda job, task, found, log, *_: known.append(log))
    assert len(train(job)) == 2, "which is returned as it is"
    train(replace(job, train=job.train.model_copy(update={"licence": "CC-BY-4.0"})))  # said when all is done
    now = Predictor.load(tmp_path)
    assert now.card.licence == "CC-BY-4.0"
    assert train(job)
    assert Predictor.load(tmp_path).model_id == now.model_id, "what is not said is not taken back"
    (tmp_path / record.STATE).unlink()
    for there in (record.MODEL, record.LOG):
        before = (tmp_path / there).read_bytes()
        with pytest.raises(UserError, match=f"holds {there}, but no _run/state.pt to go on from; choose another"):
            train(job)
        assert (tmp_path / there).read_bytes() == before
        (tmp_path / there).unlink()
    train(job)
    train(replace(job, overwrite=True))
    assert known == [[], []]


def test_a_worker_that_sees_no_run_says_so(data: tuple[Folder, table.Dataset], tmp_path: Path) -> None:
    job = worker.Job(None, data[0], data[1], Folder(str(tmp_path)))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="sees no run there; use s3:// or a folder that all machines share"):
        worker.live(job, worker.Place(), print)


def test_credentials_come_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in (("ACCESS_KEY_ID", "node"), ("SECRET_ACCESS_KEY", "node"), ("PROFILE", "node"), ("REGION", "x")):
        monkeypatch.setenv(f"AWS_{key}", value)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "old")
    adopt(Environment({"AWS_REGION": "y"}))
    assert storage_environment().variables["AWS_ACCESS_KEY_ID"] == "node"
    adopt(Environment({"AWS_ACCESS_KEY_ID": "driver", "AWS_SECRET_ACCESS_KEY": "its"}))
    now = storage_environment()
    found = {key: value for key, value in now.variables.items() if key in CREDENTIALS or key == "AWS_REGION"}
    assert found == {"AWS_ACCESS_KEY_ID": "driver", "AWS_SECRET_ACCESS_KEY": "its", "AWS_REGION": "x"}
    assert "its" not in f"{now} {now!r} {asdict(training.Errand(None, now, None))}"  # type: ignore[arg-type]


@pytest.mark.usefixtures("ray_here")
def test_a_killed_driver_goes_on_from_its_last_epoch(data: tuple[Folder, table.Dataset], tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "looptagger", "train", data[0].path, "-o", str(run), *flags("epochs=60")]
    with open(tmp_path / "said", "wb") as said:
        driver = subprocess.Popen(command, stdout=said, stderr=said, env=joining())
    folder = Folder(str(run))
    while len(record.rows(folder)) < 3:
        assert driver.poll() is None, (tmp_path / "said").read_text()
        time.sleep(0.1)
    left = named(os.getpid(), "ray::alone")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = _log_after(left, folder)
    stored = resuming.load(folder)
    assert stored is not None
    assert 3 <= len(before) <= stored.epoch <= len(before) + 1 < 60  # the state is written first, the log after it
    driver = subprocess.Popen([*command, "--resume"], stderr=subprocess.PIPE, text=True, env=joining())
    assert driver.stderr is not None
    for line in driver.stderr:
        if line.startswith("epoch") and "validation" in line:
            break
    driver.send_signal(signal.SIGINT)
    rest = driver.stderr.read()
    assert driver.wait() == 130
    assert "The same command goes on from here" in rest
    assert line.split("/")[0].split()[-1] == str(stored.epoch + 1)
    assert record.rows(folder)[: len(before)] == before


def _log_after(workers: list[int], folder: Folder) -> list[Any]:
    """The log once the dead driver's workers have ended too."""
    assert workers
    for _ in range(300):
        if not alive(workers):
            return record.rows(folder)
        time.sleep(0.2)
    raise AssertionError("the workers of a dead driver go on")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["train", "{data}", "-o", "{out}", "--set", "audio.sample_rate=8000"], "holds audio at 16,000 Hz"),
        (["train", "{data}", "-o", "{out}", "--resume"], "holds no run to resume"),
        (["train", "{data}", "-o", "{out}", "--resume", "--overwrite"], "use one of the two"),
        (["train", "{data}", "-o", "{out}", "--set", "audio.chunk_samples=16000"], "128 of each at least"),
        (["train", "{data}", "-o", "{out}", "--set", "model.last_midi=24"], "128 of each at least"),
        (["train", "{data}", "-o", "{out}", "--set", "augment.band_mask=129"], "wider than a chunk's map of 128 bands"),
        (["train", "{data}", "-o", "{data}"], "is the data set itself"),
        (["train", "{out}", "-o", "{out}/run"], "looptagger prepare SOURCE"),
        (["train", "{data}", "-o", "{out}", "--set", "phases=3"], "phases"),
        (["train", "{data}", "-o", "{out}", "--set", "epocs=3"], "perhaps epochs is meant"),
        (["prepare", "{out}", "-o", "{out}/data"], "neither FSLD"),
        (["prepare", "{out}/nowhere", "-o", "{out}/data"], "no such file or folder"),
        (["prepare", "s3://bucket/fsld", "-o", "{out}/data"], "give a local folder"),
        (["prepare", "{tree}", "-o", "{data}"], "--overwrite replaces it"),
        (["prepare", "{tree}", "-o", "{out}/data", "--licence", "by-nc"], "no loop has a licence of by-nc"),
        (["prepare", "{tree}", "-o", "{out}/data", "--set", "shares=[1,1]"], "shares"),
        (["train", "{data}", "-o", "starter"], "the name of a model that looptagger brings along"),
        (["train", "{data}", "-o", "{out}", "--set", "begin_with=nowhere"], "nowhere: no such model"),
        (["evaluate", "{out}", "--data", "{data}"], "no such model"),
        (["evaluate", "untrained", "--data", "{data}", "--split", "grouped"], "use --splits grouped"),
        (["evaluate", "untrained", "--data", "{data}", "--set", "limits.max_bytes=1"], "limits cannot be set here"),
        (
            ["evaluate", "untrained", "--data", "{data}", "--set", "compute.shard_rows=8"],
            "compute.shard_rows cannot be",
        ),
        (["evaluate", "untrained", "--data", "{data}", "-o", "{out}/x", "--scores", "{out}/x"], "give them two names"),
        (["model", "thresholds", "untrained", "--data", "{data}"], "name the checkpoint to write with -o"),
        (
            [
                "model",
                "thresholds",
                "untrained",
                "--data",
                "{data}",
                "-o",
                "{out}/m.safetensors",
                "--set",
                "limits.max_bytes=1",
            ],
            "limits cannot be set here",
        ),
        (["evaluate", "untrained", "--data", "{out}"], "looptagger prepare SOURCE"),
    ],
)
def test_wrong_use_is_one_sentence(
    args: list[str], says: str, tree: Path, data: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"data": data[0].path, "out": str(tmp_path), "tree": str(tree)}
    with pytest.raises(SystemExit) as ended:
        main([text.format(**places) for text in args])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert says in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.usefixtures("ray_here")
def test_what_stops_a_worker_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.csv").write_text("path,roles\ns3://bucket/x.wav,bass\n")
    quick = "storage={endpoint_url: 'http://127.0.0.1:9', anonymous: true, attempts: 1, timeout_s: 1, patience_s: 0}"
    flags = ["--labels", str(tmp_path / "labels.csv"), "-o", str(tmp_path / "data"), "--set", quick]
    terminal = io.StringIO()  # Ray Data's own handler keeps the stderr that was there when it was imported
    logging.getLogger("ray.data").addHandler(logging.StreamHandler(terminal))
    with pytest.raises(SystemExit, match="2"):
        main(["prepare", "/", *flags])
    assert terminal.getvalue() == ""
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "Using the Ray session that is open."
    assert said[1:] == [line for line in said if line.startswith("Error: the object store has not answered for 0 s")]
    assert said[1].endswith("run the same command when it does.")


def test_a_run_is_not_taken_for_another(data: tuple[Folder, table.Dataset], tmp_path: Path) -> None:
    chosen, folder = settings(), Folder(str(tmp_path))
    record.begin(folder, record.identity(chosen, data[1]), {})
    fit(data, tmp_path, chosen)
    record.begin(folder, record.identity(load(type(chosen), None, [*_as_flags(), "compute.workers=2"]), data[1]), {})
    with pytest.raises(Exception, match=r"a run with epochs = 2, not 3; choose another folder"):
        record.begin(folder, record.identity(settings("epochs=3"), data[1]), {})
    counts = {"grouped": {**data[1].counts["grouped"], "test": {"loops": 1}}}
    dealt_anew = record.identity(chosen, data[1].model_copy(update={"counts": counts}))
    with pytest.raises(UserError, match="counts"):
        record.begin(folder, dealt_anew, {})
    moved = record.identity(chosen, data[1].model_copy(update={"dealt": {"grouped": "other"}}))
    with pytest.raises(UserError, match="dealt"):
        record.begin(folder, moved, {})
    folder.write(record.ASKED, b"[1]")
    with pytest.raises(UserError, match="not understood"):
        record.begin(folder, record.identity(chosen, data[1]), {})
    record.clear(folder)
    assert not record.is_started(folder)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def _as_flags() -> list[str]:
    plain = ["balance=none", "augment.mix=0", "average_epochs=0"]
    return [*plain, "model.channels=4", "batch=16", "epochs=2", "phases=[{lr: 0.003, warmup_epochs: 1, cosine: true}]"]
