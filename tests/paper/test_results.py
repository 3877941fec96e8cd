"""Runs, tables and figures, out of made-up scores."""

import csv
import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
import yaml

from looptagger.archive.storage import Folder
from looptagger.cluster import paper_job
from looptagger.config import Audio, Model, Train
from looptagger.errors import UserError
from looptagger.learn.table import Dataset
from looptagger.model import checkpoint
from looptagger.paper import figures, results, runs, tables
from looptagger.paper.settings import PUBLISHED, SYSTEMS, Paper
from looptagger.roles import COLOURS, ROLES
from looptagger.settings import load
from tests.conftest import tone

CONFIGS = Path(__file__).parents[2] / "configs"


def scores(noise: float, seed: int = 0, count: int = 80) -> pa.Table:
    """A system that is right but for so much noise."""
    rng = np.random.default_rng(seed)
    made = []
    for part in (runs.VALIDATION, runs.TEST):
        truth = np.random.default_rng(7).random((count, 6)) < 0.3
        found = np.clip(truth * 0.6 + rng.normal(0.2, noise, truth.shape), 0, 1)
        made.append(runs.table([f"{part}{i}" for i in range(count)], part, truth, found))
    return pa.concat_tables(made)


def reports() -> dict:
    made = {}
    for i, system in enumerate(SYSTEMS[-2:]):
        for protocol in ("ours", "published"):
            each = [runs.report(scores(0.4 - 0.1 * i, seed), system, protocol, {}) for seed in (0, 1)]
            made[system, protocol] = runs.over_seeds(each)
    return made


def test_the_published_code_averages_other_roles_of_classic_systems() -> None:
    network, classic = (runs.report(scores(0.3, 0), system, "published", {}) for system in ("HCNN", "LP-RF"))
    assert network["roc_auc"].keys() == {*ROLES[:5], "macro"}
    assert classic["roc_auc"].keys() == {*ROLES, "macro"}
    assert network["f1_samples"] == classic["f1_samples"], "over all six"


@pytest.fixture(scope="module")
def two() -> dict:
    return reports()


def test_the_paper_s_training_is_the_one_in_configs() -> None:
    assert load(Train, CONFIGS / "train_paper.yaml") == PUBLISHED
    file = CONFIGS / "paper.yaml"
    assert load(Paper, file) == Paper()
    listed, every = yaml.safe_load(file.read_text()), Paper().model_dump(mode="json")
    assert listed.keys() == every.keys()
    assert listed["classic"] == every["classic"]
    starter = CONFIGS.parent / "jobs" / "starter"
    ours = load(Train, starter / "train.yaml")
    assert (load(Paper, starter / "paper.yaml").ours, load(Paper, starter / "paper.yaml").published) == (ours, ours)
    brief = load(Paper, None, ["published.epochs=3"])
    assert brief.published == PUBLISHED.model_copy(update={"epochs": 3})


def test_a_run_s_key_is_of_all_that_it_depends_on() -> None:
    def keys(**how: object) -> dict[str, str]:
        about = {"settings": Paper(), "data": "d", "test": "t", "versions": {"essentia": "1"}} | how
        return {f"{run.system} {run.protocol} {run.seed}": run.key for run in runs.runs(**about)}

    base = keys()
    assert len(base) == 8 * 2 * 3
    assert base == keys(settings=Paper(storage={"attempts": 2}, ours=Train(compute={"workers": 2})))
    assert all(value != base[name] for name, value in keys(data="other").items())
    assert all(value != base[name] for name, value in keys(test="other").items())
    changed = {name for name, value in keys(versions={"essentia": "2"}).items() if value != base[name]}
    assert {name.split()[0] for name in changed} == set(SYSTEMS[:6])
    changed = {name for name, value in keys(settings=Paper(ours=Train(epochs=3))).items() if value != base[name]}
    assert {tuple(name.split()[:2]) for name in changed} == {("CNN", "ours"), ("HCNN", "ours")}


def test_a_run_s_key_is_of_the_model_that_it_begins_with(tmp_path: Path) -> None:
    def key() -> str:
        settings = Paper(ours=Train(begin_with=str(tmp_path / "m.safetensors")), systems=("HCNN",), protocols=("ours",))
        return runs.runs(settings, "d", "t", {}, paper_job._begun(settings))[0].key

    found = []
    for seed in (0, 1, 0):
        (tmp_path / "m.safetensors").write_bytes(checkpoint.untrained(Model(channels=4), seed=seed))
        found.append(key())
    assert found[0] == found[2] != found[1]
    (tmp_path / "m.safetensors").unlink()
    with pytest.raises(UserError, match="no such model"):
        key()
    classic = Paper(ours=Train(begin_with=str(tmp_path / "m.safetensors")), systems=("BR-RF",))
    assert paper_job._begun(classic) == {}


def test_scores_that_are_damaged_are_a_sentence(tmp_path: Path) -> None:
    run, folder = runs.Run("HCNN", "ours", 0, "abc", "def"), Folder(str(tmp_path))
    folder.write(f"scores/{run.name}.parquet", b"junk")
    with pytest.raises(UserError, match="cannot be read whole; delete it, and run the same command again"):
        run.stored(folder)


def test_scores_are_stored_as_they_are(tmp_path: Path) -> None:
    run, folder = runs.Run("HCNN", "ours", 0, "abc", "def"), Folder(str(tmp_path))
    assert run.stored(folder) is None
    run.store(folder, scores(0.1))
    found = run.stored(folder)
    assert found is not None
    assert found.equals(scores(0.1))
    assert runs.report(found, "HCNN", "ours", {})["roc_auc"]["macro"] > 0.95


def test_means_and_spreads_over_seeds() -> None:
    each = [runs.report(scores(0.3, seed), "HCNN", "ours", {}) for seed in range(3)]
    found = runs.over_seeds(each)
    values = [one["roc_auc"]["bass"] for one in each]
    assert found["roc_auc"]["bass"]["mean"] == pytest.approx(np.mean(values))
    assert found["roc_auc"]["bass"]["spread"] == pytest.approx(np.std(values, ddof=1))
    low, high = found["roc_auc"]["bass"]["interval"]
    assert low < found["roc_auc"]["bass"]["mean"] < high
    assert runs.over_seeds(each[:1])["f1"]["macro"]["spread"] is None


def test_a_difference_is_paired() -> None:
    middle, low, high = runs.difference(scores(0.1), scores(0.5), {}) or (0, 0, 0)
    assert 0 < low < middle < high
    assert runs.difference(scores(0.3), scores(0.3), {}) == (0, 0, 0)
    turned = scores(0.3).take(pa.array(np.arange(160)[::-1]))
    assert runs.difference(scores(0.3), turned, {}) == (0, 0, 0), "whatever the order of the loops"
    assert runs.difference(scores(0.3), scores(0.3, count=70), {}) is None


def test_loops_of_one_uploader_are_drawn_together() -> None:
    found, others = scores(0.4), scores(0.5, seed=1)
    each = runs.report(found, "HCNN", "ours", {})["roc_auc_interval"]["macro"]
    assert runs.report(found, "HCNN", "ours", {f"test{i}": i for i in range(80)})["roc_auc_interval"]["macro"] == each
    few = {f"test{i}": i // 20 for i in range(80)}
    assert runs.report(found, "HCNN", "ours", few)["roc_auc_interval"]["macro"] != each
    assert runs.difference(found, others, few) != runs.difference(found, others, {})


def test_tables_say_what_there_is_and_what_the_paper_has(two: dict) -> None:
    table = tables.table_2(two, is_full=True)
    by_system = {row[0]: row[1:] for row in table.rows}
    assert list(by_system) == list(SYSTEMS)
    assert by_system["BR-RF"] == ("0.620", "0.376", "0.554", *["–"] * 6)
    assert by_system["HCNN"][:3] == ("0.861", "0.586", "0.725")
    assert all("±" in cell for cell in by_system["HCNN"][3:])
    assert "[" in by_system["HCNN"][6]
    assert "[" not in "".join(tables.table_2(two, is_full=False).rows[-1])
    lines = table.markdown().splitlines()
    assert lines[0] == "## Table 2: the eight systems"
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    roles = {row[0]: row[1:] for row in tables.by_role(two, is_full=False).rows}
    assert len(roles["HCNN"]) == 7


def test_the_csv_is_for_programs(two: dict) -> None:
    rows = list(csv.DictReader(io.StringIO(tables.tidy(two))))
    found = {(row["system"], row["protocol"], row["figure"], row["role"]): row for row in rows}
    best = found["HCNN", "ours", "roc_auc", "macro"]
    assert float(best["low"]) < float(best["mean"]) < float(best["high"])
    assert best["paper"] == "0.8606"
    assert ("HCNN", "published", "roc_auc", "voice") not in found
    assert found["CNN", "ours", "f1", "voice"]["paper"] == ""


def dataset(train: int = 1200, **how: object) -> Dataset:
    counts = {part: dict.fromkeys(("loops", *ROLES), n) for part, n in (("train", train), ("test", 30))}
    about = {"source": "x", "rule": "x", "sample_rate": 16000, "digest": "d", "parts": (), "annotated": 9}
    more = {"dropped": {}, "shares": (0.9, 0.05, 0.05), "seed": 0, "licences": {}, "counts": {"paper": counts}}
    return Dataset(**(about | more | {"dealt": {}, "twins": {}} | how))


def test_the_same_loops_split_otherwise_are_another_data_set() -> None:
    others = [dataset(seed=1), dataset(shares=(0.8, 0.1, 0.1)), dataset(train=1100), dataset(digest="e")]
    others += [dataset(dealt={"paper": name}) for name in "xy"]
    assert len({runs.identity(each) for each in (dataset(), *others)}) == 7
    assert runs.identity(dataset()) == runs.identity(dataset(source="moved", licences={"cc0": 3}))


def test_table_1_counts_roles_beside_the_paper_s() -> None:
    rows = tables.table_1(dataset()).rows
    assert rows[0] == ("percussion", "1,230", "1,626")
    assert rows[-1] == ("all loops", "1,230", "2,936")


@pytest.mark.parametrize("name", ["spectrograms", "together", "predictions"])
def test_figures_are_pictures_and_the_same_each_time(name: str) -> None:
    found = scores(0.3)
    truth, guessed = runs.arrays(found, runs.TEST)
    wave = np.rint(tone(2.0) * 32767).astype(np.int16)
    picked = {
        role: tuple(figures.Guess(f"a$b_${i}.wav", guessed[i], truth[i]) for i in pair)
        for role, pair in figures.chosen(truth, guessed).items()
    }

    def draw() -> dict[str, bytes]:
        if name == "spectrograms":
            shown = {
                role: [
                    figures.Example("a/very/long/name/of/a/loop_that_goes_on.wav", wave),
                    figures.Example("$_$", wave),
                ]
                for role in ROLES[:5]
            }
            return figures.pictures(figures.spectrograms(shown, Audio()))
        if name == "together":
            return figures.pictures(figures.together(truth, guessed > 0.5, "HCNN"))
        return figures.pictures(figures.predictions(picked, np.full(6, 0.5), "HCNN"))

    drawn = draw()
    assert drawn["png"].startswith(b"\x89PNG")
    text = "".join(ElementTree.fromstring(drawn["svg"]).itertext())
    assert all(role in text for role in ROLES)
    assert all(colour.lower() in drawn["svg"].decode().lower() for colour in COLOURS.values())
    assert draw() == drawn


def test_a_role_that_one_protocol_cannot_tell_is_named() -> None:
    told, untold = {"mean": 0.9}, {"mean": None}
    ours, published = {"bass": told, "voice": told, "macro": told}, {"bass": told, "voice": untold, "macro": told}
    assert results._untold([ours, published]) == ["voice"]
    assert results._untold([ours, {"bass": told, "macro": told}]) == []


def test_examples_are_the_middle_and_the_most_missed() -> None:
    truth = np.zeros((5, 6), bool)
    truth[:4, 1] = True
    guessed = np.array([0.9, 0.2, 0.5, 0.7, 0.1])[:, None] * np.ones(6)
    assert figures.chosen(truth, guessed) == {"bass": (3, 1)}
