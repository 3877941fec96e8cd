"""Trainings that begin with a model's weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from looptagger.archive.storage import Folder
from looptagger.config import Model, Phase, Train
from looptagger.errors import UserError
from looptagger.learn import record, start, training
from looptagger.learn.evaluation import judged
from looptagger.model import checkpoint
from looptagger.model.predictor import Predictor
from looptagger.settings import load
from tests.learn.test_training import fit, weights
from tests.learn.tree import separable, store

NARROW = Model(channels=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "narrow.safetensors"
    path.write_bytes(checkpoint.untrained(NARROW, seed=5))
    return path


def kept_at(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = checkpoint.card((run / record.MODEL).read_bytes(), "kept").provenance["reached"]
    return found


def test_training_begins_with_a_models_weights_in_its_shape(model: Path, tmp_path: Path) -> None:
    few = ["epochs=1", "average_epochs=0", "phases=[{lr: 1.0e-12}]", "augment.mix=0"]
    chosen, begun_with = start.begun_with(load(Train, None, [f"begin_with={model}", *few]))
    assert chosen.model == NARROW
    place = tmp_path / "fsld"
    data = store(separable(place / "tree", 12).write("json"), place / "table", shares=(0.6, 0.2, 0.2))
    state = fit(data, tmp_path / "run", chosen, begun_with=begun_with)
    now = weights(state.best)
    learned = {name for name in now if "running" not in name and "num_batches" not in name}
    before = weights(model.read_bytes())
    assert all(torch.allclose(now[name], before[name], atol=1e-6) for name in learned)
    worse = chosen.model_copy(update={"phases": (Phase(lr=1.0),), "select": "loss"})
    spoilt = fit(data, tmp_path / "worse", worse, begun_with=begun_with)
    report = judged(Predictor(model.read_bytes()), *data, "grouped", "validation", "ours")[0]
    assert kept_at(tmp_path / "worse")["roc_auc"] == report["roc_auc"]["macro"], "what only spoils gives the model back"
    assert not spoilt.log[0]["best"]
    assert kept_at(tmp_path / "worse")["epoch"] == 0


def test_what_is_stopped_in_its_first_epoch_begins_anew(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    chosen, begun_with = start.begun_with(load(Train, None, [f"begin_with={model}", "epochs=1"]))
    data = store(separable(tmp_path / "tree", 12).write("json"), tmp_path / "table", shares=(0.6, 0.2, 0.2))
    monkeypatch.setattr(training, "_train", stopped)
    folder, wanted = Folder(str(tmp_path / "run")), record.identity(chosen, data[1])
    record.begin(folder, wanted, {})
    with pytest.raises(KeyboardInterrupt):
        fit(data, tmp_path / "run", chosen, begun_with=begun_with)
    record.begin(folder, wanted, {})
    assert folder.names() == [record.ASKED]


def test_what_training_began_with_is_noted(model: Path) -> None:
    data = model.read_bytes()
    name = checkpoint.model_id(data, checkpoint.card(data, "model"))
    assert start.noted(None) == start.learned_from(None) == start.thresholds(None) == {}
    assert start.thresholds(checkpoint.resolve("starter"))["thresholds"]["chord"] < 0.4
    assert start.noted(data) == {"begun_with": name}


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("begin_with=nowhere", "no such model"),
        ("model.channels=8", "model: begin_with="),
        ("audio.chunk_samples=64000", "audio: begin_with="),
    ],
)
def test_a_model_that_does_not_fit_is_refused(model: Path, override: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        start.begun_with(load(Train, None, [f"begin_with={model}", override]))


def test_a_run_goes_on_though_the_model_it_began_with_has_gone(model: Path) -> None:
    chosen, begun_with = start.begun_with(load(Train, None, ["begin_with=nowhere"]), model.read_bytes())
    assert (chosen.model, begun_with) == (NARROW, model.read_bytes())
    assert load(Train, None, ["begin_with=starter", "phases=[{head_only: true}]"]).phases[0].head_only
