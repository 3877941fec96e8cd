from pathlib import Path

import pytest

from looptagger.config import Augment, Model, Prepare, Settings, Tag, Train
from looptagger.errors import UserError
from looptagger.paper.settings import Paper
from looptagger.settings import load

CONFIGS = Path(__file__).parents[1] / "configs"


def test_overrides_come_after_the_file(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text("chunking: {max_chunks: 7, silence_db: -60}\n")
    tag = load(Tag, file, ["chunking.max_chunks=9", "storage.endpoint_url=http://localhost:1", "compute.device=cpu"])
    assert (tag.chunking.max_chunks, tag.chunking.silence_db) == (9, -60)
    (tmp_path / "none.yaml").write_text("storage:\n  # endpoint_url: there\n")
    assert load(Tag, tmp_path / "none.yaml") == Tag()
    assert load(Tag, tmp_path / "none.yaml", ["storage.attempts=2"]).storage.attempts == 2
    assert tag.storage.endpoint_url == "http://localhost:1"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("chunking.max_chunk=9", "perhaps chunking.max_chunks is meant; chunking has hop_s, max_chunks"),
        ("chunking.max_chunks=0", "chunking.max_chunks.*greater than or equal to 1"),
        ("compute.device=tpu", "'auto', 'cpu' or 'cuda'"),
        ("chunking", "key=value"),
        ("chunking.max_chunks=[", "not a value"),
        ("chunking.max_chunks.deep=1", "max_chunks"),
        ("chunking.hop_s=.inf", "finite"),
        ("chunking.hop_s=1e300", "less than or equal"),
        ("limits.max_memory=1000000000000000000000000", "less than or equal"),
        ("chunking.hop_s=2026-99-99", "not a value"),
    ],
)
def test_bad_overrides_are_one_sentence(override: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        load(Tag, None, [override])
    assert "\n" not in str(error.value)
    assert "--set" in str(error.value)


def test_one_of_a_list_of_groups_is_set_by_its_number() -> None:
    (phase,) = load(Train, None, ["phases.0.lr=1e-4"]).phases
    assert (phase.lr, phase.cosine, phase.warmup_epochs) == (1e-4, True, 2)
    file = CONFIGS / "train_paper.yaml"
    phases = load(Train, file, ["phases.1.lr=7", "phases.3={from_epoch: 90}"]).phases
    assert [phase.lr for phase in phases] == [1e-4, 7, 1e-4, 1e-3]
    assert load(Paper, None, ["published.phases.3.lr=7"]).published.phases[3].optimiser == "sgd"
    for wrong, says in (("phases.4.lr=1", "4 is no number from 0 to 3"), ("phases.x.lr=1", "x is no number")):
        with pytest.raises(UserError, match=says):
            load(Train, file, [wrong])


def test_an_unknown_setting_in_a_list_of_groups() -> None:
    with pytest.raises(UserError, match="phases.1.lt.*; phases has from_epoch, optimiser, lr"):
        load(Train, None, ["phases=[{lr: 0.1}, {lt: 1}]"])


@pytest.mark.parametrize("shares", ["[90, 5, 5]", "[-1, 1, 1]", "[0, 0, 0]", "[.nan, 0.5, 0.5]"])
def test_shares_are_shares_of_one(shares: str) -> None:
    with pytest.raises(UserError, match="shares"):
        load(Prepare, None, [f"shares={shares}"])
    assert load(Prepare, None, ["shares=[0.8, 0.1, 0.1]"]).shares == (0.8, 0.1, 0.1)


@pytest.mark.parametrize("text", ["a: 2026-99-99", "a: [", "- 1\n", "nothing: 1\n", "chunking: 5\n"])
def test_bad_files_are_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match="t.yaml"):
        load(Tag, file)
    with pytest.raises(UserError, match="cannot be read"):
        load(Tag, tmp_path / "nope.yaml")


@pytest.mark.parametrize("kind", [Tag, Prepare, Train])
def test_the_shipped_files_list_every_setting_at_its_default(kind: type[Settings]) -> None:
    import yaml

    file = CONFIGS / f"{kind.__name__.lower()}.yaml"
    assert load(kind, file) == kind()
    assert yaml.safe_load(file.read_text()) == kind().model_dump(mode="json")


def test_the_papers_recipe_is_the_papers() -> None:
    paper = load(Train, CONFIGS / "train_paper.yaml")
    assert paper.augment == Augment()
    assert (paper.epochs, paper.balance, paper.average_epochs) == (200, "none", 0)
    assert [(phase.from_epoch, phase.optimiser, phase.lr) for phase in paper.phases] == [
        (0, "adam", 1e-4), (60, "sgd", 1e-3), (80, "sgd", 1e-4), (100, "sgd", 1e-5),
    ]  # fmt: skip


def test_groups_that_are_one_in_a_file_are_set_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "paper.yaml").write_text("ours: &recipe {epochs: 7, model: {channels: 32}}\npublished: *recipe\n")
    both = load(Paper, tmp_path / "paper.yaml", ["ours.model.channels=16", "ours.epochs=2"])
    assert (both.ours.epochs, both.ours.model.channels) == (2, 16)
    assert (both.published.epochs, both.published.model.channels) == (7, 32)


def test_a_group_named_in_part_keeps_the_rest_of_its_defaults() -> None:
    """Of this group: elsewhere its kind may have others."""
    assert load(Train, None, ["augment.gain_db=6"]).augment == Augment(mix=0.5, gain_db=6)
    assert load(Prepare, None, ["limits.max_decode_s=90"]).limits.max_seconds == 600
    for rate, samples in ((22_050, 66_150), (8_000, 24_000)):
        assert load(Train, None, [f"audio.sample_rate={rate}"]).audio.chunk_samples == samples, "3 s at any rate"
    assert load(Paper, None, ["ours.augment.gain_db=6"]).ours.augment == Augment(mix=0.5, gain_db=6)
    assert load(Paper, None, ["ours.phases.0.lr=7"]).ours.phases[0].warmup_epochs == 2
    assert load(Paper, None, ["published.audio.sample_rate=8000"]).published.audio.chunk_samples == 24_000


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Model().channels = 3  # type: ignore[misc]
