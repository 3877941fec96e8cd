"""`looptagger paper` on a small data set of FSLD's shape, stopped and gone on with."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from looptagger.archive.storage import Folder
from looptagger.cli import main
from looptagger.cluster.paper_job import Events, PaperJob, paper
from looptagger.cluster.training_job import TrainJob, train
from looptagger.config import Compute, Model, Train
from looptagger.errors import UserError
from looptagger.model import checkpoint, predictor
from looptagger.paper import classic, features, runs
from looptagger.paper.settings import SYSTEMS, Paper
from looptagger.settings import load
from tests.learn.tree import separable, store

TRAINING = (
    "{split: grouped, epochs: 1, batch: 16, model: {channels: 4}, compute: {device: cpu}, phases: [{lr: 0.003}], "
    "augment: {mix: 0.5}, raise_quiet: true, balance: sampling, average_epochs: 5.0, select: roc_auc}"
)
OTHER = TRAINING.replace("split: grouped", "split: stratified")
BRIEF = ["classic.trees=10", "classic.folds=2", "seeds=[0]", f"ours={TRAINING}", f"published={TRAINING}"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    tree = separable(tmp_path_factory.mktemp("fsld"), 12, users=30).write("json")
    return store(tree, tmp_path_factory.mktemp("table"), shares=(0.6, 0.2, 0.2))[0].uri


def command(data: str, out: Path, *more: str) -> list[str]:
    return ["paper", "--data", data, "-o", str(out), *(word for each in BRIEF for word in ("--set", each)), *more]


@pytest.fixture(scope="module")
def one_alone(data: str, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with all features, and the scores of one run."""
    out = tmp_path_factory.mktemp("paper")
    main(command(data, out, "--system", "lp-rf", "--protocol", "ours"))
    return out


@pytest.mark.usefixtures("ray_here")
def test_all_eight_systems_in_a_command_that_goes_on_where_it_stopped(
    data: str, one_alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(one_alone, tmp_path / "paper"))
    assert [path.name.split("-0-")[0] for path in (out / "scores").iterdir()] == ["lp-rf-ours"]
    assert (out / "table1.csv").read_text().startswith("role,here")
    features_at = {path: path.stat().st_mtime_ns for path in out.glob("features/*/*.parquet")}
    assert features_at

    main(command(data, out))
    said = capsys.readouterr()
    assert "LP-RF (ours, seed 0)" not in said.err  # it was there
    assert "16/16: HCNN (published, seed 0)" in said.err
    assert {path: path.stat().st_mtime_ns for path in features_at} == features_at
    assert len(list((out / "runs").iterdir())) == 2  # of each network: both protocols train alike here, so once
    found = json.loads((out / "results.json").read_text())["systems"]
    assert len(found) == 16
    for system in SYSTEMS[:6]:  # the sounds are easy to tell apart
        assert found[f"{system}, ours"]["roc_auc"]["macro"]["mean"] > 0.9, system
    for name in ("figure1", "figure3", "figure4"):
        assert (out / f"{name}.png").stat().st_size > 20_000
        assert (out / f"{name}.svg").stat().st_size > 5_000
    assert "Table 2: the eight systems" in said.out
    assert "HCNN and" in (out / "tables.md").read_text()
    assert "judged on its test part." in (out / "tables.md").read_text()


@pytest.mark.usefixtures("ray_here")
def test_judged_on_another_data_set_with_chunks_that_essentia_fails_on(
    data: str, one_alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    other = separable(tmp_path / "other", 3, seed=9).write("json")
    test = store(other, tmp_path / "test")[0].uri
    shutil.copytree(one_alone / "features", tmp_path / "out" / "features")
    job = PaperJob(data, str(tmp_path / "out"), load(Paper, None, [*BRIEF, "systems=[BR-SVM]"]), test)
    real = runs.kept

    def lost(folder: Folder, name: str) -> pa.Table:
        found = real(folder, name)
        if not name.startswith("features/"):
            return found
        loop = found.column("id")[0]
        gone = [str(each) if each == loop else None for each in found.column("id")]
        return found.set_column(found.column_names.index("error"), found.schema.field("error"), [gone])

    monkeypatch.setattr(runs, "kept", lost)
    found = paper(job, Events(notes.append))
    assert any("Essentia failed on all of" in note for note in notes)
    figures = json.loads((tmp_path / "out" / "results.json").read_text())["systems"]["BR-SVM, ours"]
    assert sum(figures["positives"].values()) >= 18  # all of the other data set's loops are judged
    assert found.not_judged == []
    assert not any("Not in the tables" in note for note in notes)
    (tmp_path / "out" / "scores" / "hcnn-ours-0-00000000.parquet").write_bytes(b"of another data set")
    paper(job, Events(notes.append))
    assert "Not in the tables: 1 stored runs of other seeds, settings, data or libraries." in notes
    assert f"judged on {other}, all of it." in (tmp_path / "out" / "tables.md").read_text()


def test_what_is_learned_from_is_not_judged_as_another_set(data: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="which are learned from; leave --test out"):
        paper(PaperJob(data, str(tmp_path), load(Paper, None, [*BRIEF, "systems=[CNN]"]), data))


@pytest.mark.parametrize("seeds", ["[0, 0]", "[-1]", "[4294967296]"])
def test_seeds_that_would_count_one_run_twice_or_fail(seeds: str) -> None:
    with pytest.raises(UserError, match="seeds"):
        load(Paper, None, [f"seeds={seeds}"])


@pytest.mark.parametrize("setting", ["ours.seed=3", "published.model.kind=cnn", "ours.storage.attempts=2"])
def test_what_is_said_for_all_runs_is_not_said_of_some(setting: str) -> None:
    with pytest.raises(UserError, match="cannot be set: `(seeds|systems|storage)` says it for all runs"):
        load(Paper, None, [setting])


@pytest.mark.usefixtures("ray_here")
def test_networks_that_begin_with_a_model(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = str(tmp_path / "heard")
    train(TrainJob(data, heard, load(Train, None, [f"{key}={value}" for key, value in yaml.safe_load(OTHER).items()])))
    asked = [*BRIEF, "systems=[HCNN]", "protocols=[ours]", f"ours.begin_with={heard}"]
    scored: list[Compute] = []
    real = predictor.Predictor

    def noted(data: bytes, name: str, compute: Compute) -> predictor.Predictor:
        scored.append(compute)
        return real(data, name, compute)

    monkeypatch.setattr(predictor, "Predictor", noted)
    notes: list[str] = []
    paper(PaperJob(data, str(tmp_path / "out"), load(Paper, None, asked)), Events(notes.append))
    assert [compute.device for compute in scored] == ["cpu"]
    unfair = "was trained on the stratified split of these loops: it has heard some of this part."
    assert f"Not fair: A model that it learned from {unfair}" in notes
    (tmp_path / "plain").write_bytes(checkpoint.untrained(Model(kind="cnn", channels=4)))
    asked = ["systems=[HCNN]", f"ours={{begin_with: {tmp_path / 'plain'}}}"]
    with pytest.raises(UserError, match="is of kind cnn; name a HCNN, or leave it out"):
        paper(PaperJob(data, str(tmp_path / "out"), load(Paper, None, asked)))


@pytest.mark.usefixtures("ray_here")
def test_a_system_that_cannot_be_done_leaves_the_others(
    data: str, one_alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(one_alone / "features", tmp_path / "features")
    real = classic.ClassicSystem

    def small(system: str, *args: Any, **how: Any) -> Any:
        if system == "BR-RF":
            raise UserError(f"{system}: too small a split.")
        if system == "BR-SVM":
            raise RuntimeError("CUDA out of memory\nby far")
        return real(system, *args, **how)

    monkeypatch.setattr(classic, "ClassicSystem", small)
    flags = command(data, tmp_path, "--protocol", "ours", "--system", "BR-RF")
    with pytest.raises(SystemExit, match="2"):
        main(flags)
    assert not (tmp_path / "tables.md").exists()
    with pytest.raises(SystemExit, match="1"):
        main([*flags, "--system", "BR-SVM", "--system", "LP-RF"])
    said = capsys.readouterr()
    assert "Without 2 that could not be done. BR-RF (ours, seed 0): BR-RF: too small a split." in said.err
    assert "BR-SVM (ours, seed 0): CUDA out of memory by far." in said.err
    assert "LP-RF" in (tmp_path / "tables.md").read_text()
    assert "RuntimeError: CUDA out of memory" in next((tmp_path / "_run").glob("failed-br-svm*.log")).read_text()


def test_what_cannot_be_done_is_a_sentence(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = separable(tmp_path / "fsld", 3).write("json")
    small = store(tree, tmp_path / "small", shares=(1.0, 0.0, 0.0))[0].uri
    with pytest.raises(UserError, match=r"the (validation|test) part of the grouped split holds no loops.*--test DIR"):
        paper(PaperJob(small, str(tmp_path / "out")))
    rate = store(tree, tmp_path / "rate", sample_rate=8000)[0].uri
    with pytest.raises(UserError, match="at another rate"):
        paper(PaperJob(data, str(tmp_path / "out"), test=rate))
    monkeypatch.setattr(features, "PACKAGES", ("essentia-of-old",))
    with pytest.raises(UserError, match=r"pip install .* '\.\[paper\]'"):
        paper(PaperJob(data, str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_wrong_flags_are_exit_code_2(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, says in (
        (["--system", "KNN"], "'KNN' is not one of"),
        (["--set", "classic.trees=0"], "classic.trees"),
        (["--set", "published.epochs=0"], "published.epochs"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["paper", "--data", data, "-o", str(tmp_path), *flags])
        assert says in capsys.readouterr().err
