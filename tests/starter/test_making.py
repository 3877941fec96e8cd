"""How the starter's clips are made: patterns, sounds from nothing, effects, the list of sources. Nothing is fetched."""

import re
from pathlib import Path

import numpy as np
import pytest

from jobs.starter import card, effects, patterns, presets, shelf
from jobs.starter.drums import DRUMS, drum
from jobs.starter.noises import KINDS, noise
from jobs.starter.patterns import Note
from jobs.starter.synth import RATE, note, patch, played, vocoded
from looptagger.roles import ROLES

SEEDS = range(12)
PARTS = ("train", "validation")


@pytest.mark.parametrize("seed", SEEDS)
def test_patterns_lie_in_their_song_and_come_again(seed: int) -> None:
    song = patterns.song(np.random.default_rng(seed))
    assert 1 <= song.seconds <= 9 or song.bars == 1
    for make, low, high in (
        (patterns.bass, 26, 55),
        (patterns.chords, 24, 100),
        (patterns.melody, 48, 110),
        (patterns.arpeggio, 36, 110),
    ):
        notes = make(np.random.default_rng(seed), song)
        assert notes == make(np.random.default_rng(seed), song)
        assert all(0 <= each.start < song.beats + 0.5 and each.beats > 0 and 0 < each.level <= 1 for each in notes)
        assert all(low <= each.pitch <= high for each in notes), make.__name__
    groove = patterns.groove(np.random.default_rng(seed), song)
    assert groove
    assert set(groove) <= set(DRUMS)


@pytest.mark.parametrize("role", ["bass", "chord", "melody"])
def test_the_synthesizer_sounds_and_ends(role: str) -> None:
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        made = patch(rng, role)
        wave = note(45, 0.3, 0.8, made, rng)
        assert wave.dtype == np.float32
        assert np.isfinite(wave).all()
        assert np.abs(wave).max() > 0.01
        assert np.abs(wave[-50:]).max() < 0.1 * np.abs(wave).max()


def test_a_loop_rings_into_its_own_start() -> None:
    wave = played([Note(3.5, 1, 60, 1.0)], 0.5, 2.0, lambda each, before: np.ones(RATE, np.float32))
    assert len(wave) == 2 * RATE
    assert wave[:100].min() == 1.0
    assert wave[RATE : RATE + 100].max() == 0.0


@pytest.mark.parametrize("kind", sorted({kind for kinds in DRUMS.values() for kind in kinds}))
def test_each_drum_hits(kind: str) -> None:
    wave = drum(kind, np.random.default_rng(0))(Note(0, 1, 0, 0.5), None)
    assert np.abs(wave).max() == pytest.approx(0.5, rel=0.01)
    assert np.abs(wave[-100:]).max() < 0.2


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_each_noise_is_finite_and_heard(kind: int) -> None:
    time = np.arange(RATE) / RATE
    wave = KINDS[kind](np.random.default_rng(kind), time)
    assert len(wave) == len(time)
    assert np.isfinite(wave).all()
    assert np.abs(noise(np.random.default_rng(kind), 0.5)).max() == pytest.approx(1, abs=0.01)


def test_effects_keep_length_level_and_sense() -> None:
    rng = np.random.default_rng(0)
    tone = np.sin(2 * np.pi * 220 * np.arange(RATE) / RATE).astype(np.float32)
    for _ in range(40):
        wave = effects.dressed(tone, rng, RATE, 120, amount=3)
        assert wave.shape == tone.shape
        assert np.isfinite(wave).all()
        assert np.abs(wave).max() == pytest.approx(0.9, abs=0.01)
    silent = np.zeros(RATE, np.float32)
    assert not effects.levelled(silent).any()
    assert np.abs(vocoded(tone, rng.normal(0, 1, RATE).astype(np.float32))).max() > 0.5


@pytest.mark.parametrize(
    ("bank", "name", "role"),
    [
        ("Bass", "0001-Bass 1", "bass"),
        ("Pads", "0033-Synth Pad 1", "chord"),
        ("Choir and Voice", "0002-AHH Choir 2", "voice"),
        ("Cormi_Noise", "0001-x", "fx"),
        ("Synth", "0002-Soft Lead", "melody"),
        ("Misc", "0001-x", None),
    ],
)
def test_presets_are_sorted_by_name_then_bank(bank: str, name: str, role: str | None) -> None:
    assert presets.role_of(Path(bank) / f"{name}.xiz") == role


HELD = Path(__file__).parents[1] / "data" / "heldout.tsv"


def test_the_sources_are_understood_and_never_those_held_out() -> None:
    rows = shelf.sources()
    held = [line.split("\t")[0] for line in HELD.read_text().splitlines()[1:]]
    packages = {"scratch", "python3-pyo", "pyo", "puredata-doc", "supercollider-common"}
    assert not packages & {row["package"] for row in rows}
    for row in rows:
        assert row["part"] in ("train", "validation")
        assert set(row["roles"].split()) <= set(ROLES)
        assert row["licence"]
        assert row["kind"] in card.USES
        assert not [path for path in held if row["package"].startswith("lmms") and shelf.matches(row, path)]


def test_a_card_tells_who_is_in_what(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("path,part,uploader\na.flac,train,lmms-common kit + synthesizer\nb.flac,train,lmms-common\n")
    assert "| lmms-common | GPL-2+ |" in card.table(labels)
    assert re.search(r"lmms-common .* 100.0% \| 0.0% \|", card.table(labels))


ROW = {"package": "kits", "from": "apt", "kind": "drums", "roles": "percussion", "licence": "CC0"}


def two_rows(monkeypatch: pytest.MonkeyPatch, folder: Path, train: str, validation: str) -> list[shelf.Sound]:
    """A shelf of one package, one row a part."""
    rows = [{**ROW, "part": "train", "pattern": train}, {**ROW, "part": "validation", "pattern": validation}]
    monkeypatch.setattr(shelf, "sources", lambda: rows)
    return shelf.shelf(folder)


def test_no_sound_is_in_both_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, data in {"a/1.wav": b"one", "a/2.wav": b"two", "b/1.wav": b"two", "kits/x/3.wav": b"333"}.items():
        path = tmp_path / "kits" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    found = two_rows(monkeypatch, tmp_path, r"^a/", r"^b/")
    assert [(each.part, Path(each.path).name) for each in found] == [("train", "1.wav"), ("validation", "1.wav")]
    with pytest.raises(SystemExit, match="in both parts"):
        two_rows(monkeypatch, tmp_path, r"^[ab]/", r"^b/")
    with pytest.raises(SystemExit, match="no file matches"):
        two_rows(monkeypatch, tmp_path, r"kits/a/", r"^b/")  # the package's own folder does not count


def test_sonic_pi_is_dealt_by_series_and_the_demos_are_to_validate_on() -> None:
    names = [
        line.split("\t")[0] for line in (Path(shelf.__file__).parent / "sonic_pi.tsv").read_text().splitlines()[1:]
    ]
    dealt = shelf._listed([shelf.Sound(f"x/{name}", "sonic", 0, "", "listed", (), "CC0") for name in names])
    series = {part: {Path(each.path).name.split("_")[0] for each in dealt if each.part == part} for part in PARTS}
    assert not series["train"] & series["validation"]
    assert {"ambi", "bass", "guit", "loop", "vinyl"} <= series["validation"]
    assert len(series["train"]) >= 4
