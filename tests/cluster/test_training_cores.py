"""Training on this machine's cores, without Ray."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.drills.processes import alive, descendants, kill
from looptagger.archive.storage import Folder
from looptagger.cli import main
from looptagger.cluster import cores, processes, training_cores
from looptagger.cluster.training_job import Events, TrainJob, train
from looptagger.errors import UserError
from looptagger.learn import record, table
from tests.conftest import CLEAN, workers
from tests.learn.test_training import SHORT, fit, settings
from tests.learn.tree import separable, store

SHARES = (0.6, 0.2, 0.2)


pytestmark = pytest.mark.usefixtures("without_ray")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return separable(tmp_path_factory.mktemp("fsld"), 16).write("json")


@pytest.fixture(scope="module")
def data(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, table.Dataset]:
    return store(tree, tmp_path_factory.mktemp("table"), shares=SHARES)


def test_a_data_set_is_prepared(
    tree: Path, data: tuple[Folder, table.Dataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["prepare", str(tree), "-o", str(tmp_path / "data"), "--set", f"shares={[*SHARES]}"])
    assert "Ray" not in capsys.readouterr().err
    found = table.find(Folder(str(tmp_path / "data")))
    assert found.digest == data[1].digest
    assert found.parts == data[1].parts


def test_one_worker_learns_the_same_though_it_dies(data: tuple[Folder, table.Dataset], tmp_path: Path) -> None:
    chosen = settings(*SHORT, "epochs=4", "compute.device=cpu")
    killed: list[int] = []

    def heard(row: Any) -> None:
        if row["epoch"] == 2:
            killed.extend(workers())
            kill(killed)

    log = train(TrainJob(data[0].path, str(tmp_path / "run"), chosen), Events(epoch=heard))
    assert [row["epoch"] for row in log] == [1, 2, 3, 4]
    assert len(killed) == 1
    calm = train(TrainJob(data[0].path, str(tmp_path / "calm"), chosen))
    for name in ("train_loss", "loss", "roc_auc"):
        assert [row[name] for row in log] == [row[name] for row in calm]
    here = fit(data, tmp_path / "here", chosen).log
    assert log[-1]["train_loss"] == pytest.approx(here[-1]["train_loss"], abs=0.01)
    assert train(TrainJob(data[0].path, str(tmp_path / "run"), chosen, resume=True)) == log


def test_two_workers_one_of_which_dies(data: tuple[Folder, table.Dataset], tmp_path: Path) -> None:
    chosen = settings(*SHORT, "epochs=6", "compute.device=cpu", "compute.workers=2")
    killed: list[int] = []

    def heard(row: Any) -> None:
        if row["epoch"] == 2:
            killed.extend(workers()[1:])
            kill(killed)

    log = train(TrainJob(data[0].path, str(tmp_path / "run"), chosen), Events(epoch=heard))
    assert [row["epoch"] for row in log] == [1, 2, 3, 4, 5, 6]
    assert len(killed) == 1
    here = fit(data, tmp_path / "here", chosen).log
    assert log[-1]["train_loss"] == pytest.approx(here[-1]["train_loss"], abs=0.08)
    assert log[-1]["roc_auc"] == pytest.approx(here[-1]["roc_auc"], abs=0.15)


def test_what_ends_a_worker_is_said(
    data: tuple[Folder, table.Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wild = settings(*SHORT, "phases=[{lr: 1.0e+20, optimiser: sgd}]", "compute.device=cpu", "compute.workers=2")
    with pytest.raises(UserError, match=r"the loss is no longer a number; try a lower phases\.0\.lr"):
        train(TrainJob(data[0].path, str(tmp_path / "wild"), wild))
    begun: list[Any] = []

    class Counted(processes.Process):
        def begin(self) -> None:
            begun.append(self)
            super().begin()

    monkeypatch.setattr(training_cores, "Process", Counted)
    chosen = settings(*SHORT, "compute.device=cpu", "compute.retries=1")
    monkeypatch.setattr(processes, "START", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(UserError, match=r"killed again and again.*set compute\.keep_bytes.*\(SIGKILL\)"):
        train(TrainJob(data[0].path, str(tmp_path / "killed"), chosen))
    assert len(begun) == 2
    monkeypatch.undo()
    monkeypatch.setattr(cores, "wants_ray", lambda address, device="cpu": False)
    monkeypatch.setattr(training_cores, "_live", print)
    with pytest.raises(processes.Fault, match="a worker is gone"):
        train(TrainJob(data[0].path, str(tmp_path / "gone"), chosen))
    monkeypatch.undo()
    monkeypatch.setattr(cores, "wants_ray", lambda address, device="cpu": False)
    monkeypatch.setattr(cores.joblib, "cpu_count", lambda: 2)

    chosen = settings(*SHORT, "compute.device=cpu", "compute.retries=0", "compute.workers=2")
    slow = Events(epoch=lambda row: time.sleep(3))  # the second worker has no more to say by then
    assert len(train(TrainJob(data[0].path, str(tmp_path / "slow"), chosen), slow)) == chosen.epochs

    def broken(row: Any) -> None:
        raise RuntimeError("of our own making")

    with pytest.raises(RuntimeError, match="of our own making"):
        train(TrainJob(data[0].path, str(tmp_path / "ours"), chosen), Events(epoch=broken))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_job_and_it_goes_on(
    number: int, data: tuple[Folder, table.Dataset], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    sets = [*SHORT, "model.channels=4", "batch=16", "epochs=400", "compute.device=cpu", "compute.workers=2"]
    command = [sys.executable, "-m", "looptagger", "train", data[0].path, "-o", str(run)]
    command += [text for each in sets for text in ("--set", each)]
    log = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    job = subprocess.Popen(command, env=CLEAN | {"LOKY_MAX_CPU_COUNT": "2"}, **log)
    folder = Folder(str(run))
    deadline = time.monotonic() + 100
    while len(record.rows(folder)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    below = descendants(job.pid)
    assert len(below) == 3
    job.send_signal(number)
    assert job.wait(timeout=20) == (-9 if number == signal.SIGKILL else 130)
    while alive(list(below)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(list(below))
    before = record.rows(folder)
    assert 2 <= len(before) < 400
