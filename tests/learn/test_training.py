"""Training without Ray: it learns, it resumes exactly, it writes what it says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tensorboardX import SummaryWriter

from looptagger.archive.storage import Folder
from looptagger.cluster import training_job
from looptagger.config import Augment, Model, Phase, Train
from looptagger.errors import UserError
from looptagger.learn import record, resuming, start, table, training
from looptagger.learn.augment import Tensors
from looptagger.learn.evaluation import Report, judged
from looptagger.learn.fairness import has_heard, warnings
from looptagger.learn.learner import Learner, Trainee
from looptagger.learn.peers import Peers
from looptagger.learn.schedule import augment_at, optimiser, rate
from looptagger.learn.share import Share
from looptagger.learn.task import Census, Task
from looptagger.model import checkpoint
from looptagger.model.hcnn import HCNN
from looptagger.model.predictor import Predictor
from looptagger.roles import ROLES
from looptagger.settings import load
from tests.learn.tree import separable, store

Data = tuple[Folder, table.Dataset]
SHORT = ("audio.chunk_samples=32768", "model.n_harmonic=2")
"""Half the work of a crop, where so much is enough for what is learned."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    place = tmp_path_factory.mktemp("fsld")
    return store(separable(place / "tree", 24).write("json"), place / "table", shares=(0.6, 0.2, 0.2))


def settings(*overrides: str) -> Train:
    plain = ["balance=none", "augment.mix=0", "average_epochs=0"]
    small = [*plain, "model.channels=4", "batch=16", "epochs=2", "phases=[{lr: 0.003, warmup_epochs: 1, cosine: true}]"]
    return load(Train, None, [*small, *overrides])


def fit(
    data: Data,
    out: Path,
    chosen: Train,
    epoch: Callable[[Any], None] = lambda row: None,
    begun_with: bytes | None = None,
) -> resuming.State:
    folder, dataset = data
    labels = np.concatenate([table.truth(rows) for rows in table.rows(folder, dataset, chosen.split, "train")])
    provenance = {"data": {**dataset.model_dump(), "split": chosen.split}, "counts": dataset.counts[chosen.split]}
    card = checkpoint.Card(name="trial", model=chosen.model, provenance=provenance)
    told = lambda kind, what: epoch(what) if kind == "epoch" else None  # noqa: E731
    task = Task(chosen, Census.of(labels), card, begun_with)
    share = Share(folder, dataset.parts, chosen.split, 1 << 30)
    return training.fit(task, share, Folder(str(out)), Peers(), told)


def evaluate(*args: Any) -> Report:
    return judged(*args)[0]


def warning(card: checkpoint.Card, dataset: table.Dataset, split: str, part: str) -> str | None:
    return next(iter(warnings(card, dataset, split, part)), None)


def weights(data: bytes | None) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(data or b"")


def test_a_narrow_network_learns_the_roles(data: Data, tmp_path: Path) -> None:
    """Judged on loops of another seed, 144 of them: the test part's 29 would say little."""
    steady = [*SHORT, "phases=[{lr: 0.005, warmup_epochs: 1, cosine: true}]", "average_epochs=3"]
    state = fit(data, tmp_path, settings("model.channels=8", "epochs=32", "batch=8", "augment.wrap=true", *steady))
    predictor = Predictor.load(tmp_path)
    others = store(separable(tmp_path / "others", 24, seed=1).write("json"), tmp_path / "table")
    report = evaluate(predictor, *others, "grouped", "all", "ours")
    assert report["roc_auc"]["macro"] > 0.95
    assert report["f1"]["macro"] > 0.6
    report = evaluate(predictor, *data, "grouped", "test", "ours")
    assert report["not_judged"] == []
    assert report["roc_auc_interval"]["macro"] is None  # of so few uploaders
    every = evaluate(predictor, *data, "grouped", "all", "ours")
    low, high = every["roc_auc_interval"]["macro"]
    assert low <= every["roc_auc"]["macro"] <= high
    assert set(predictor.card.thresholds.values()) != {0.5}
    assert predictor.card.provenance["reached"]["roc_auc"] == state.best_value
    published = evaluate(predictor, *data, "grouped", "test", "published")
    assert set(published["positives"]) == set(ROLES[:5])
    assert 0 < published["f1_samples"] <= 1
    assert warning(predictor.card, data[1], "grouped", "test") is None
    assert "flattering" in str(warning(predictor.card, data[1], "grouped", "train"))
    assert "has heard some" in str(warning(predictor.card, data[1], "paper", "test"))
    dealt_anew = data[1].model_copy(update={"dealt": {**data[1].dealt, "grouped": "otherwise"}})
    assert "has heard some" in str(warning(predictor.card, dealt_anew, "grouped", "test"))
    learned = (tmp_path / record.MODEL).read_bytes()
    heir = Predictor(checkpoint.told_anew(learned, provenance=start.learned_from(learned)))
    assert "learned from has been trained on" in str(warning(heir.card, data[1], "grouped", "train"))
    assert warning(heir.card, data[1], "grouped", "test") is None
    for odd in (
        {"data": {"digest": data[1].digest, "shares": 3, "dealt": []}},
        {"heard": 3},
        {"data": [], "heard": [1]},
        {"thresholds_of": {"digest": data[1].digest, "split": "grouped", "part": []}},
    ):
        strange = checkpoint.told_anew(learned, provenance=odd)
        warning(checkpoint.card(strange, "a stranger's"), data[1], "grouped", "test")
        start.learned_from(strange)
    again = data[1].model_copy(update={"digest": "of another rule"})
    assert "a data set with loops of this one, otherwise prepared" in str(
        warning(predictor.card, again, "grouped", "test")
    )
    moved = again.model_copy(update={"source": "/other", "sample": data[1].sample[:3]})
    assert "a data set with loops of this one" in str(warning(predictor.card, moved, "grouped", "test"))
    other = moved.model_copy(update={"sample": ("0123456789abcdef",)})
    assert warning(predictor.card, other, "grouped", "test") is None
    mine = again.model_copy(update={"source": "mine/labels.csv"})
    assert warning(Predictor.load("starter").card, mine, "grouped", "test") is None
    assert has_heard(heir.card, data[1], "grouped") is None
    assert "has heard some" in str(has_heard(heir.card, data[1], "paper")), "its validation loops are none to it"
    on = {"digest": data[1].digest, "split": "grouped", "part": "test"}
    tuned = predictor.card.model_copy(update={"provenance": {**predictor.card.provenance, "thresholds_of": on}})
    assert "thresholds were chosen on some" in str(warning(tuned, data[1], "grouped", "test"))
    assert [*warnings(tuned, data[1], "grouped", "train")] == [*warnings(predictor.card, data[1], "grouped", "train")]
    on = {"part": "validation", "split": "grouped", "dealt": data[1].dealt["grouped"]}
    on |= {"source": data[1].source, "digest": data[1].digest}
    tuned = Predictor.load("starter").card.model_copy(update={"provenance": {"thresholds_of": on}})
    assert warnings(tuned, data[1], "grouped", "test") == []
    assert "thresholds were chosen on some" in str(warnings(tuned, dealt_anew, "grouped", "test"))
    named = moved.model_copy(update={"source": data[1].source})
    assert "thresholds may have been chosen on some" in str(warnings(tuned, named, "grouped", "test"))
    on |= {"source": "/other", "sample": [*data[1].sample]}
    assert "thresholds may have been chosen on some" in str(warnings(tuned, moved, "grouped", "test"))


def test_of_epochs_with_the_same_area_the_one_with_the_lower_loss_is_best() -> None:
    state = resuming.State(best_value=1.0, log=[{"loss": 0.7, "best": True}, {"loss": 0.5, "best": False}])
    for loss, area, better in ((0.6, 1.0, True), (0.7, 1.0, False), (0.1, 0.9, False)):
        assert training._is_better({"loss": loss, "roc_auc": area}, state, "roc_auc") is better
    assert not training._is_better({"loss": 0.1, "roc_auc": 1.0}, resuming.State(best_value=1.0), "roc_auc"), (
        "the start"
    )


def test_a_phase_of_the_head_alone_leaves_the_rest_as_it_was(data: Data, tmp_path: Path) -> None:
    phases = "phases=[{lr: 0.003}, {from_epoch: 2, lr: 0.003, from_best: true, head_only: true}]"
    chosen = settings("epochs=3", phases, "average_epochs=1", "augment.mix=0.5", "augment.band_mask=9", *SHORT)
    before = fit(data, tmp_path, chosen.model_copy(update={"epochs": 2}))
    after = fit(data, tmp_path, chosen)
    best, now = weights(before.best), after.learner["network"]
    head = {name for name in best if name.split(".")[0] in ("dense", "dense_norm", "out")}
    assert head
    assert all(torch.equal(best[name], now[name]) for name in best.keys() - head)
    assert not any(torch.equal(best[name], now[name]) for name in head if "num_batches" not in name)
    assert augment_at(chosen, 1) == chosen.augment
    assert augment_at(chosen, 2) == Augment()


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["average_epochs=1", "balance=sampling", "augment.mix=0.5", "augment.time_mask=9"],
        ["average_epochs=1", "phases=[{lr: 0.003}, {from_epoch: 2, lr: 0.001, from_best: true, head_only: true}]"],
    ],
)
def test_a_killed_run_ends_exactly_where_an_undisturbed_one_ends(data: Data, tmp_path: Path, more: list[str]) -> None:
    phases = "phases=[{lr: 0.003, warmup_epochs: 1}, {from_epoch: 2, optimiser: sgd, lr: 0.001, from_best: true}]"
    chosen = settings("epochs=4", phases, *SHORT, *more)
    whole = fit(data, tmp_path / "whole", chosen)

    def kill(row: dict[str, Any]) -> None:
        if row["epoch"] in (1, 3):
            raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            fit(data, tmp_path / "cut", chosen, kill)
    resumed = fit(data, tmp_path / "cut", chosen)
    assert resumed.epoch == whole.epoch == 4
    assert [row["epoch"] for row in resumed.log] == [1, 2, 3, 4]
    first, second = (state.learner["network"] for state in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert resumed.best == whole.best
    assert [row["loss"] for row in resumed.log] == [row["loss"] for row in whole.log]


def test_the_folder_holds_model_log_and_state_in_step(data: Data, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    state = fit(data, tmp_path, settings(), rows.append)
    log = [json.loads(line) for line in (tmp_path / record.LOG).read_text().splitlines()]
    assert log == rows == state.log
    assert {"epoch", "train_loss", "loss", "roc_auc", "pr_auc", "roc_auc_voice", "crops_per_s", "seconds"} <= log[
        0
    ].keys()
    best = max(row["epoch"] for row in log if row["best"])
    card = checkpoint.card((tmp_path / record.MODEL).read_bytes(), "it")
    assert card.provenance["reached"]["epoch"] == best
    (tmp_path / record.LOG).unlink()
    fit(data, tmp_path, settings())  # nothing is left to do, but what follows from the state comes back
    assert record.rows(Folder(str(tmp_path))) == log


def test_a_broken_state_is_a_sentence(data: Data, tmp_path: Path) -> None:
    Folder(str(tmp_path)).write(record.STATE, b"nonsense")
    with pytest.raises(UserError, match="--overwrite"):
        fit(data, tmp_path, settings())


def test_a_loss_that_explodes_is_a_sentence(data: Data, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no longer a number"):
        fit(data, tmp_path, settings("phases=[{lr: 1.0e+20, optimiser: sgd}]"))


@pytest.mark.parametrize("kind", ["hcnn", "cnn"])
def test_training_sees_what_the_network_computes(kind: str) -> None:
    chosen = settings(f"model.kind={kind}")
    network = HCNN(chosen.model, chosen.audio).eval()
    waveform = torch.randn(2, 48_000) * 0.1
    with torch.no_grad():
        trained = Trainee(network, chosen.augment, torch.float32).eval()(waveform)
        assert torch.allclose(trained, network(waveform), atol=1e-5)
        half = Trainee(network, chosen.augment, torch.bfloat16).eval()(waveform)
    assert half.dtype == torch.float32
    assert torch.allclose(half, trained, atol=0.1)


def test_a_cpu_without_bfloat16_takes_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """In software it would take five times as long: hours for the starter."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    learner = Learner(settings("compute.precision=bfloat16"), Census(16, (3,) * 6), Peers())
    learner.enter(0, None)
    assert learner.alone.precision == torch.float32


def test_the_filters_learn() -> None:
    chosen = settings("augment.band_mask=64", "augment.time_mask=64")
    learner = Learner(chosen, Census(16, (3,) * 6), Peers())
    learner.enter(0, None)
    before = learner.network.front.q.detach().clone()
    list(learner.train(0, [one_batch()]))
    assert not torch.equal(before, learner.network.front.q)


def test_a_mask_hides_the_same_of_all_harmonics() -> None:
    """What one map shows, the others would give away."""
    chosen = settings("augment.band_mask=64", "augment.time_mask=64")
    network, seen = HCNN(chosen.model, chosen.audio), []
    network.classify = lambda maps: seen.append(maps) or maps.mean(dim=(2, 3))  # type: ignore[method-assign, func-returns-value]
    torch.manual_seed(3)
    Trainee(network, chosen.augment, torch.float32)(torch.randn(4, chosen.audio.chunk_samples))
    hidden = seen[0] == 0
    assert hidden.any(dim=(2, 3)).any()
    assert (hidden == hidden[:, :1]).all()


def test_a_mask_can_be_as_wide_as_it_may() -> None:
    chosen = settings("augment.band_mask=2")
    network, seen = HCNN(chosen.model, chosen.audio), []
    network.classify = lambda maps: seen.append(maps) or maps.mean(dim=(2, 3))  # type: ignore[method-assign, func-returns-value]
    torch.manual_seed(3)
    Trainee(network, chosen.augment, torch.float32)(torch.randn(40, chosen.audio.chunk_samples))
    widths = (seen[0][:, 0] == 0).all(dim=2).sum(dim=1)
    assert set(widths.tolist()) == {0, 1, 2}


def test_the_rate_warms_up_and_falls() -> None:
    phase = Phase(lr=1.0, warmup_epochs=2, cosine=True)
    later = Phase(from_epoch=10, lr=0.1, optimiser="sgd")
    chosen = Train(epochs=20, phases=(phase, later))
    assert [rate(chosen, 0, epoch) for epoch in (0, 1, 2)] == [0, 0.5, 1.0]
    brief = settings("epochs=2", "phases=[{lr: 1.0, warmup_epochs: 4, cosine: true}]")
    assert [rate(brief, 0, epoch) for epoch in (0.5, 1, 2)] == pytest.approx([0.5, 1.0, 0.0])
    assert rate(chosen, 0, 6) == pytest.approx(0.5)
    assert rate(chosen, 0, 10) == pytest.approx(0)  # its last step, not yet the next phase's
    assert rate(chosen, 1, 10) == rate(chosen, 1, 19.9) == 0.1
    assert rate(chosen.model_copy(update={"epochs": 6}), 0, 6) == pytest.approx(0), "where the next is not reached"


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_only_weights_decay(kind: str) -> None:
    network = HCNN(settings().model, settings().audio)
    made = optimiser(Phase(optimiser=kind, lr=0.1, weight_decay=0.3), network.parameters())
    assert isinstance(made, {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}[kind])
    assert kind != "sgd" or (made.defaults["momentum"], made.defaults["nesterov"]) == (0.9, True)
    decay = {id(each): group["weight_decay"] for group in made.param_groups for each in group["params"]}
    found = {name: decay[id(each)] for name, each in network.named_parameters()}
    decayed = {name for name, each in found.items() if each == 0.3}
    assert decayed == {name for name in found if "norm" not in name and name.endswith("weight")}
    assert {each for name, each in found.items() if name not in decayed} == {0.0}
    assert "front.q" in found.keys() - decayed


def one_batch() -> Tensors:
    samples = torch.randint(-9000, 9000, (16, 48_000), dtype=torch.int16, generator=torch.Generator().manual_seed(0))
    size, labels = torch.full((16,), 48_000), torch.zeros(16, 6)
    labels[:4, 0] = labels[4:, 1] = 1
    return Tensors(samples, size, torch.ones(16), torch.arange(16), torch.zeros(16), labels)


def test_the_positives_of_rare_roles_weigh_more_where_that_is_asked_for() -> None:
    census, losses = Census(16, (4, 12, 0, 0, 0, 0)), []
    for balance in ("none", "loss"):
        learner = Learner(settings(f"balance={balance}", "augment.mix=0"), census, Peers())
        learner.enter(0, None)
        learner.network.dropout.p = 0.0
        torch.nn.init.zeros_(learner.network.out.weight)
        torch.nn.init.zeros_(learner.network.out.bias)  # every score is 1/2, every cross-entropy log 2
        ((_, loss),) = learner.train(0, [one_batch()])
        losses.append(float(loss))
    first, second, *_ = census.positive_weights()
    assert first > second
    assert losses[0] == pytest.approx(np.log(2), abs=1e-5)
    assert losses[1] == pytest.approx(np.log(2) * (1 + (4 * (first - 1) + 12 * (second - 1)) / 96), abs=1e-5)


def test_what_is_kept_is_a_running_mean_of_the_weights() -> None:
    """Over the first steps a plain one; then each step counts for 1 in so many, here in 2."""
    census = Census(16, (4, 12, 0, 0, 0, 0))
    learner = Learner(settings("average_epochs=2"), census, Peers())
    assert learner.steps == 1
    learner.enter(0, None)
    seen = []
    for _ in range(3):
        list(learner.train(0, [one_batch()]))
        seen.append(learner.network.out.weight.detach().clone())
    kept = ((seen[0] + seen[1]) / 2 + seen[2]) / 2
    assert torch.allclose(learner.scored.out.weight, kept, atol=1e-7)
    assert not torch.allclose(seen[2], kept, atol=1e-5)


def test_workers_share_the_statistics_of_norms_and_no_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divided by three, the bands' frequencies would not come back the same."""
    shared: list[torch.Tensor] = []
    monkeypatch.setattr(Peers, "mean_", lambda self, tensors: shared.extend(tensors))
    learner = Learner(settings("average_epochs=2"), Census(16, (4, 12, 0, 0, 0, 0)), Peers())
    learner.enter(0, None)
    list(learner.train(0, [one_batch()]))
    norms = [name for name in learner.network.state_dict() if name.endswith(("running_mean", "running_var"))]
    assert len(shared) == 1 + 2 * len(norms)
    constants = {each.data_ptr() for name, each in learner.network.named_buffers() if name.startswith("front.")}
    assert not constants & {each.data_ptr() for each in shared}


def test_a_phase_of_the_head_alone_goes_on_from_the_mean_of_the_rest() -> None:
    phases = "phases=[{lr: 0.003}, {from_epoch: 1, lr: 0.003, head_only: true}]"
    learner = Learner(settings("average_epochs=5", phases), Census(16, (4, 12, 0, 0, 0, 0)), Peers())
    learner.enter(0, None)
    list(learner.train(0, [one_batch()] * 3))
    mean = learner.scored.front.q.detach().clone()
    assert not torch.equal(mean, learner.network.front.q)
    learner.enter(1, None)
    list(learner.train(1, [one_batch()] * 3))
    assert torch.equal(mean, learner.network.front.q)
    assert torch.equal(mean, learner.scored.front.q)


def test_phases_must_follow_each_other() -> None:
    with pytest.raises(UserError, match="phases must begin at epoch 0"):
        load(Train, None, ["phases=[{from_epoch: 5}]"])
    with pytest.raises(UserError, match="the first phase cannot be head_only"):
        load(Train, None, ["phases=[{head_only: true}]"])


def test_evaluating_what_cannot_be_judged_is_a_sentence(data: Data, tiny_model: str) -> None:
    predictor = Predictor.load(tiny_model)
    folder, dataset = data
    empty = dataset.model_copy(update={"counts": {"paper": {"test": {"loops": 0}}}})
    with pytest.raises(UserError, match="holds no loops"):
        evaluate(predictor, folder, empty, "paper", "test", "ours")
    with pytest.raises(UserError, match="8,000 Hz, the model hears 16,000 Hz"):
        evaluate(predictor, folder, dataset.model_copy(update={"sample_rate": 8000}), "paper", "test", "ours")


def test_what_replaces_a_run_goes_on_with_that(data: Data, tmp_path: Path) -> None:
    folder, wanted = Folder(str(tmp_path)), record.identity(settings("epochs=2"), data[1])
    record.begin(folder, wanted, {"anew": True})
    assert not record.is_being_replaced(folder, wanted, 2), "no epoch has ended"
    folder.write(record.STATE, b"state")
    folder.write(record.LOG, b'{"epoch": 1}\n')
    assert record.is_being_replaced(folder, wanted, 2)
    assert not record.is_being_replaced(folder, wanted, 1), "all is done: another time is meant"
    assert not record.is_being_replaced(folder, record.identity(settings("epochs=2", "seed=9"), data[1]), 2)
    record.clear(folder)
    record.begin(folder, wanted, {"anew": False})
    folder.write(record.STATE, b"state")
    assert not record.is_being_replaced(folder, wanted, 2)


@pytest.mark.parametrize("name", [record.ASKED, record.CURVES, record.LOG, record.MODEL])
def test_a_run_does_not_begin_over_what_a_user_has_there(name: str, tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write(name, b'{"a": 1}')
    with pytest.raises(UserError, match=f"holds {name}, but no _run/state.pt"):
        record.begin(folder, {"settings": {}, "data": {}}, {})
    assert folder.read(name) == b'{"a": 1}'


def test_a_state_that_nothing_is_said_of_is_not_gone_on_with(tmp_path: Path) -> None:
    """It may have learned from what is held out now."""
    folder = Folder(str(tmp_path))
    folder.write(record.STATE, b"state")
    with pytest.raises(UserError, match=r"holds _run/state.pt, but no run.json that says of what; put it back"):
        record.begin(folder, {"settings": {}, "data": {}}, {})


def test_pictures_have_the_epochs_that_ended_while_nobody_listened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(str(tmp_path))
    figures = dict.fromkeys(("loss", "train_loss", "roc_auc", "pr_auc"), 0.5)
    log = [{"epoch": epoch, "time": 0.0, "best": False, **figures} for epoch in range(1, 5)]
    folder.write(record.LOG, "\n".join(map(json.dumps, log)).encode())
    told: list[int] = []
    monkeypatch.setattr(SummaryWriter, "add_scalar", lambda self, tag, value, epoch, walltime: told.append(epoch))
    pictures = record.Pictures(folder)
    folder.write(record.LOG, "\n".join(map(json.dumps, [*log, {**log[0], "epoch": 5}])).encode())
    pictures.epoch_ended()
    assert set(told) == {1, 2, 3, 4}, "it was drawn just now"
    pictures.close()
    assert [*dict.fromkeys(told)] == [1, 2, 3, 4, 5]
    assert len(told) == 5 * len(figures)


def test_what_keeps_pictures_from_being_drawn_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, figures = Folder(str(tmp_path)), dict.fromkeys(("loss", "train_loss", "roc_auc", "pr_auc"), 0.5)
    folder.write(record.LOG, json.dumps({"epoch": 1, "time": 0.0, "best": False, **figures}).encode())

    def half_imported(log: object) -> bytes:
        raise AttributeError("module 'matplotlib' has no attribute 'get_data_path'")  # after Ctrl-C in its import

    monkeypatch.setattr(record, "curves", half_imported)
    pictures = record.Pictures(folder)
    pictures.epoch_ended()
    pictures.close()
    assert folder.read(record.CURVES) is None


def test_the_card_names_the_commonest_licences(data: Data) -> None:
    """Its header is bounded, and each loop may have an attribution of its own."""
    many = {f"(c) Jane Doe {i}, https://freesound.org/{'x' * 60}": 1 for i in range(13_000)} | {"by": 9}
    card = training_job._card(
        training_job.TrainJob("data", "run", settings()), data[1].model_copy(update={"licences": many}), None
    )
    weights = checkpoint.untrained(Model(channels=4))
    kept = checkpoint.card(checkpoint.told_anew(weights, provenance=card.provenance), "it")
    assert kept.provenance["data"]["licences"]["by"] == 9


def test_a_run_begins_with_the_thresholds_of_the_model_that_it_begins_with(data: Data) -> None:
    starter = checkpoint.resolve("starter")
    card = training_job._card(training_job.TrainJob("data", "run", settings()), data[1], starter)
    assert card.thresholds == checkpoint.card(starter, "starter").thresholds
    truth = np.array([[1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 1, 0]], bool)
    decided = training._decided(card, truth, np.where(truth, 0.9, 0.2), {})
    changed = {role for role in ROLES if decided.thresholds[role] != card.thresholds[role]}
    assert changed == {"fx"}, "of the others the loops tell nothing"


def test_curves_are_a_picture_and_tensorboard_can_read_the_log(data: Data, tmp_path: Path) -> None:
    fit(data, tmp_path, settings())
    folder = Folder(str(tmp_path))
    record.Pictures(folder).close()
    assert (tmp_path / record.CURVES).read_bytes().startswith(b"\x89PNG")
    (events,) = (tmp_path / record.BOARD).iterdir()
    (mine := tmp_path / record.BOARD / "layout.json").write_text("a user's")
    written = events.read_bytes()
    assert all(tag in written for tag in (b"loss/train", b"loss/validation", b"roc_auc/macro", b"pr_auc/bass"))
    record.Pictures(folder).close()
    assert len(list((tmp_path / record.BOARD).iterdir())) == 2
    record.clear(folder)
    assert list((tmp_path / record.BOARD).iterdir()) == [mine]
