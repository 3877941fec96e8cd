"""Trainings that begin with a model's weights, and that learn what models say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from looptagger.config import Compute, Model, Phase, Train
from looptagger.errors import UserError
from looptagger.learn import record
from looptagger.learn.augment import Tensors
from looptagger.learn.evaluation import judged
from looptagger.learn.given import Given, given
from looptagger.learn.learner import Learner
from looptagger.learn.peers import Peers
from looptagger.learn.task import Census
from looptagger.learn.teaching import Teachers
from looptagger.model import checkpoint
from looptagger.model.predictor import Predictor
from looptagger.settings import load
from tests.learn.test_training import fit, settings, weights
from tests.learn.tree import separable, store

NARROW = Model(channels=4)
CENSUS = Census(16, (3,) * 6)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "narrow.safetensors"
    path.write_bytes(checkpoint.untrained(NARROW, seed=5))
    return path


def batch(labels: float, crops: int = 4) -> Tensors:
    samples = torch.randint(-9000, 9000, (crops, 48_000), dtype=torch.int16, generator=torch.Generator().manual_seed(0))
    each = torch.ones(crops)
    nobody = torch.zeros(crops)
    return Tensors(samples, each.long() * 48_000, each, torch.arange(crops), nobody, torch.full((crops, 6), labels))


def kept_at(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = checkpoint.card((run / record.MODEL).read_bytes(), "kept").provenance["reached"]
    return found


def test_training_begins_with_a_models_weights_in_its_shape(model: Path, tmp_path: Path) -> None:
    few = ["epochs=1", "average_epochs=0", "phases=[{lr: 1.0e-12}]", "augment.mix=0"]
    chosen, models = given(load(Train, None, [f"begin_with={model}", *few]))
    assert chosen.model == NARROW
    place = tmp_path / "fsld"
    data = store(separable(place / "tree", 24).write("json"), place / "table", shares=(0.6, 0.2, 0.2))
    state = fit(data, tmp_path / "run", chosen, models=models)
    now = weights(state.best)
    learned = {name for name in now if "running" not in name and "num_batches" not in name}
    before = weights(model.read_bytes())
    assert all(torch.allclose(now[name], before[name], atol=1e-6) for name in learned)
    worse = chosen.model_copy(update={"phases": (Phase(lr=1.0),), "select": "loss"})
    spoilt = fit(data, tmp_path / "worse", worse, models=models)
    report = judged(Predictor(model.read_bytes()), *data, "grouped", "validation", "ours")[0]
    assert kept_at(tmp_path / "worse")["roc_auc"] == report["roc_auc"]["macro"], "what only spoils gives the model back"
    assert not spoilt.log[0]["best"]
    assert kept_at(tmp_path / "worse")["epoch"] == 0


def test_teachers_score_what_the_student_hears(model: Path) -> None:
    two = [model.read_bytes(), checkpoint.untrained(NARROW, seed=6)]
    heard = batch(0.0).samples
    wanted = np.mean([Predictor(data).chunk_scores(heard.numpy())[0] for data in two], axis=0)
    scores = Teachers(two, Compute(device="cpu")).scores(heard.float() / 32768)
    assert np.allclose(scores, wanted, atol=1e-5)


@pytest.mark.parametrize(("share", "is_same"), [(1.0, True), (0.5, False)])
def test_labels_count_for_what_the_teachers_leave(model: Path, share: float, is_same: bool) -> None:
    found = []
    for labels in (0.0, 1.0):
        chosen = settings("batch=4", f"teachers=[{model}]", f"teachers_share={share}")
        learner = Learner(chosen, CENSUS, Peers(), Teachers([model.read_bytes()], Compute(device="cpu")))
        learner.enter(0, None)
        list(learner.train(0, [batch(labels)]))
        found.append(learner.network.out.bias.detach().clone())
    assert torch.equal(*found) == is_same


def test_what_was_given_is_noted(model: Path) -> None:
    data = model.read_bytes()
    name = checkpoint.model_id(data, checkpoint.card(data, "model"))
    assert Given().noted() == Given().heard() == {}
    assert Given(data, (data,)).noted() == {"given": {"begin_with": name, "teachers": [name]}}
    assert not {"begin_with", "teachers", "teachers_share"} & set(Train().recipe())  # runs of before go on
    assert Train(teachers=("starter",)).recipe()["teachers_share"] == 0.75


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("begin_with=nowhere", "no such model"),
        ("teachers=[nowhere]", "no such model"),
        ("model.channels=8", "model: begin_with="),
        ("audio.chunk_samples=64000", "audio: begin_with="),
    ],
)
def test_models_that_do_not_fit_are_refused(model: Path, override: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        given(load(Train, None, [f"begin_with={model}", override]))


def test_a_run_goes_on_though_the_model_it_began_with_has_gone(model: Path) -> None:
    chosen, models = given(load(Train, None, ["begin_with=nowhere"]), [model.read_bytes()])
    assert (chosen.model, models.start) == (NARROW, model.read_bytes())
    teacher = checkpoint.untrained(NARROW, seed=6)
    kept = given(load(Train, None, ["begin_with=nowhere", "teachers=[nowhere]"]), [model.read_bytes(), teacher])[1]
    assert kept == Given(model.read_bytes(), (teacher,))
    assert load(Train, None, ["begin_with=starter", "phases=[{head_only: true}]"]).phases[0].head_only


def test_a_teacher_of_other_chunks_is_refused(model: Path) -> None:
    with pytest.raises(UserError, match="hears other chunks"):
        given(load(Train, None, [f"teachers=[{model}]", "audio.chunk_samples=64000"]))
