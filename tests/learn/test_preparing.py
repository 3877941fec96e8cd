"""The training table: what is stored, what is dropped, what its digest means."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from looptagger.archive import output
from looptagger.archive.storage import Folder
from looptagger.cli import tables
from looptagger.cluster.preparing import PrepareJob, prepare
from looptagger.config import Limits, Prepare
from looptagger.errors import UserError
from looptagger.learn import preparing, table
from looptagger.learn.loops import Collection, Drops
from looptagger.roles import ROLES
from tests.conftest import audio_bytes, tone
from tests.learn.tree import RATE, Tree, answer, separable, store


def all_rows(folder: Folder, dataset: table.Dataset) -> pa.Table:
    return pa.concat_tables(table.rows(folder, dataset, "paper", "all"))


@pytest.mark.parametrize("layout", ["json", "csv"])
def test_a_tree_becomes_a_table(tmp_path: Path, layout: str) -> None:
    tree = separable(tmp_path / "tree", 12)
    tree.add(2001, 90, b"RIFF broken", ann=answer(("fx",)))
    tree.add(2002, 90, b"", ann=answer(("fx",)))
    tree.add(2003, 90, np.zeros(RATE, np.float32), ann=answer(("fx",)))
    tree.add(2004, 90, tone(0.02, rate=RATE), ann=answer(("fx",)))
    place = tree.write(layout).rename(tmp_path / os.fsdecode(b"caf\xe9"))  # not UTF-8
    folder, dataset = store(place, tmp_path / "out", shares=(0.8, 0.1, 0.1))
    rows = all_rows(folder, dataset)
    assert dataset.dropped == {"undecodable": 1, "empty": 1, "silent": 1, "shorter than 0.05 s": 1}
    assert rows.schema == table.SCHEMA
    assert rows.num_rows == dataset.size() == 72 == len(set(rows.column("id").to_pylist()))
    assert dataset.annotated == 76
    assert dataset.parts == ("loops-00000.parquet", "loops-00001.parquet")
    seconds = np.array([len(wave) for wave in table.waveforms(rows)]) / 16_000
    assert seconds == pytest.approx(rows.column("duration_s").to_numpy(), abs=1e-3)
    labels = table.truth(rows)
    first = {str(1000 + i): i % 6 for i in range(72)}
    assert all(labels[i, first[loop]] for i, loop in enumerate(rows.column("id").to_pylist()))
    assert {name: sum(part[name] for part in dataset.counts["grouped"].values()) for name in ROLES} == dict(
        zip(ROLES, labels.sum(axis=0).tolist(), strict=True)
    )
    assert dataset.licences == {"by": dataset.licences["by"], "cc0": dataset.licences["cc0"]}


def test_parts_of_a_split_are_disjoint_and_whole(tmp_path: Path) -> None:
    folder, dataset = store(separable(tmp_path / "tree", 6).write("json"), tmp_path / "out", shares=(0.6, 0.2, 0.2))
    for split, parts in dataset.counts.items():
        found = {part: pa.concat_tables(table.rows(folder, dataset, split, part)) for part in parts}
        assert {part: rows.num_rows for part, rows in found.items()} == {p: n["loops"] for p, n in parts.items()}
        assert len({loop for rows in found.values() for loop in rows.column("id").to_pylist()}) == dataset.size()
    columns = next(table.rows(folder, dataset, "paper", "test", ["id", "fx"])).column_names
    assert columns == ["id", "fx", "paper"]


def test_the_digest_is_of_the_loops_not_of_their_order(tmp_path: Path) -> None:
    source = separable(tmp_path / "tree", 3).write("json")
    _, first = store(source, tmp_path / "a")
    _, seeded = store(source, tmp_path / "b", seed=5)
    assert first.digest == seeded.digest
    (source / "annotations" / "ann" / "sound-1003.json").unlink()
    _, less = store(source, tmp_path / "c")
    assert less.digest != first.digest


def test_files_of_the_users_beside_a_data_set_stay(tmp_path: Path) -> None:
    names = [f"loops-{number}.wav" for number in range(4)] + ["loops-00000.wav", "loops-notes.txt"]
    for name in names:
        (tmp_path / name).write_bytes(audio_bytes(tone(0.5, 220)) if name.endswith("wav") else b"mine")
    (tmp_path / "labels.csv").write_text("path,roles\n" + "".join(f"{name},bass\n" for name in names[:4]))
    for seed in (0, 1):
        store(tmp_path, tmp_path, seed=seed)
        left = {path.name for path in tmp_path.iterdir() if path.is_file()}
        assert left == {*names, "labels.csv", "dataset.json", "loops-00000.parquet"}


def test_how_loops_are_dealt_is_noted_though_the_counts_stay(tmp_path: Path) -> None:
    """Two loops of the same roles change places between the parts."""
    for name, fixed in (("a", "train,test"), ("b", "test,train"), ("c", "train,test")):
        (tmp_path / name).mkdir()
        parts = fixed.split(",")
        rows = [f"{loop}.wav,bass,{parts[i % 2]}" for i, loop in enumerate("pq")]
        for loop, hertz in zip("pq", (220, 330), strict=True):
            (tmp_path / name / f"{loop}.wav").write_bytes(audio_bytes(tone(0.5, hertz)))
        (tmp_path / name / "labels.csv").write_text("\n".join(["path,roles,part", *rows]) + "\n")
    first, swapped, same = (store(tmp_path / name, tmp_path / f"{name}-out")[1] for name in "abc")
    assert first.digest == swapped.digest
    assert first.counts == swapped.counts
    assert first.dealt == same.dealt
    assert not set(first.dealt.values()) & set(swapped.dealt.values())


def test_nothing_usable_is_a_sentence_and_leaves_what_was_there(tmp_path: Path) -> None:
    folder, before = store(separable(tmp_path / "old", 3).write("json"), tmp_path / "out")
    tree = Tree(tmp_path / "tree")
    tree.add(1, 1, b"", ann=answer(("fx",)))
    with pytest.raises(UserError, match="none of the loops can be used: 1 empty"):
        store(tree.write("json"), tmp_path / "out")
    assert table.find(folder) == before
    assert all_rows(folder, before).num_rows == 18


def test_a_smaller_data_set_in_the_place_of_a_larger_one(tmp_path: Path) -> None:
    store(separable(tmp_path / "old", 12).write("json"), tmp_path / "out")
    folder, dataset = store(separable(tmp_path / "new", 3).write("json"), tmp_path / "out")
    assert folder.names() == [table.NAME, *dataset.parts]


def test_a_folder_without_a_table_or_with_a_broken_one_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="looptagger prepare SOURCE"):
        table.find(Folder(str(tmp_path)))
    (tmp_path / table.NAME).write_text("{")
    with pytest.raises(UserError, match="prepare the data set again"):
        table.find(Folder(str(tmp_path)))


def test_half_a_copied_table_is_a_sentence(tmp_path: Path) -> None:
    folder, dataset = store(separable(tmp_path / "tree", 3).write("json"), tmp_path / "out")
    path = tmp_path / "out" / dataset.parts[0]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="copy the data set again"):
        all_rows(folder, dataset)
    path.unlink()
    with pytest.raises(UserError, match="copy the data set again"):
        all_rows(folder, dataset)


def test_a_labels_file_leads_to_any_format_at_any_rate(tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_bytes(audio_bytes(tone(1.5, rate=44_100), 44_100, format="FLAC"))
    (tmp_path / "b.ogg").write_bytes(audio_bytes(tone(1.0, rate=48_000), 48_000, format="OGG", subtype="VORBIS"))
    (tmp_path / "labels.csv").write_text("path,roles\na.flac,bass\nb.ogg,melody;chord\ngone.wav,fx\n")
    folder, dataset = store(tmp_path, tmp_path / "out")
    assert dataset.dropped == {"no audio": 1}
    rows = all_rows(folder, dataset)
    with pytest.raises(UserError, match="says each loop's roles once; leave out --merge"):
        store(tmp_path, tmp_path / "out", merge="intersection")
    (tmp_path / "labels.csv").write_text(f"path,roles\nfile://{tmp_path}/a.flac,bass\n")
    assert store(tmp_path, tmp_path / "again")[1].size() == 1
    assert sorted(np.round([len(wave) / 16_000 for wave in table.waveforms(rows)], 2)) == [1.0, 1.5]


def test_a_labels_file_may_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "loops").mkdir()
    (tmp_path / "loops" / "a.wav").write_bytes(audio_bytes(tone(1.0)))
    (tmp_path / "loops" / "labels.csv").write_text("path,roles\na.wav,fx\n")
    (tmp_path / "mine.tsv").write_text("path\troles\na.wav\tbass\n")
    found = preparing.collect(str(tmp_path / "loops"), Prepare(), str(tmp_path / "mine.tsv"))
    assert [(loop.roles, loop.uri) for loop in found.loops] == [({"bass"}, str(tmp_path / "loops" / "a.wav"))]


def test_what_annotators_disagree_on_and_loops_that_are_too_long(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "tree")
    tree.add(1, 50, tone(1.0, rate=RATE), ann=answer(("bass", "fx")), ben=answer(("bass",)))
    tree.add(2, 51, tone(1.5, rate=RATE), ann=answer(("melody",)), ben=answer(("melody", "voice")))
    place = tree.write("json")
    said = {}
    for merge in ("union", "intersection"):
        rows = all_rows(*store(place, tmp_path / merge, merge=merge))
        said[merge] = {row["id"]: [role for role in ROLES if row[role]] for row in rows.to_pylist()}
    assert said["union"] == {"1": ["bass", "fx"], "2": ["melody", "voice"]}
    assert said["intersection"] == {"1": ["bass"], "2": ["melody"]}
    _, dataset = store(place, tmp_path / "brief", limits=Limits(max_seconds=1.2))
    assert (dataset.size(), dataset.dropped) == (1, {"too large or long": 1})


def test_loops_of_a_pack_are_of_one_maker_where_no_uploader_is_known(tmp_path: Path) -> None:
    """As the split has it: else intervals would take them for strangers."""
    lines = ["path,roles,uploader,pack", "a.wav,bass,,x", "b.wav,bass,,x", "c.wav,bass,me,x", "d.wav,bass,,"]
    for name in "abcd":
        (tmp_path / f"{name}.wav").write_bytes(audio_bytes(tone(0.5, 100 + ord(name))))
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    makers = table.makers(*store(tmp_path, tmp_path / "out"), "grouped", "all")
    assert makers == {"a.wav": "uploader me", "b.wav": "uploader me", "c.wav": "uploader me", "d.wav": "loop d.wav"}


def test_loops_that_are_on_two_sides_under_two_names_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    lines = ["path,roles,part"]
    for i in range(6):
        soundfile.write(tmp_path / f"{i}.wav", rng.normal(0, 0.1, 4000), 16_000)
        lines.append(f"{i}.wav,fx,{'test' if i == 5 else 'train'}")
    for name, part in (("twin", "validation"), ("other", "train")):
        (tmp_path / f"{name}.wav").write_bytes((tmp_path / "0.wav").read_bytes())
        lines.append(f"{name}.wav,bass,{part}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    _, dataset = store(tmp_path, tmp_path / "out")
    assert dataset.twins == {"paper": 3, "stratified": 3, "grouped": 3}
    tables.prepared(Collection("here", "", 8, [], Drops()), dataset, "out")
    said = capsys.readouterr().err
    assert "Loops whose very audio is in another part, too: paper 3, stratified 3" in said
    assert "Under 5 loops of a held-out part play bass, fx: figures" in said


@pytest.mark.parametrize("overwrite", [False, True])
def test_tags_are_not_prepared_over(tmp_path: Path, overwrite: bool) -> None:
    folder = Folder(str(tmp_path))
    folder.write(output.RECORD, b"{}")
    with pytest.raises(UserError, match="holds the tags of `looptagger tag`; choose another folder"):
        prepare(PrepareJob("nowhere", folder.uri, overwrite=overwrite))


def test_waveforms_are_stored_in_less_than_they_are(tmp_path: Path) -> None:
    folder, dataset = store(separable(tmp_path / "tree", 4).write("json"), tmp_path / "out", shares=(0.6, 0.2, 0.2))
    column = pq.read_metadata(folder.at(dataset.parts[0])).row_group(0).column(1)
    assert column.path_in_schema == "waveform.list.element"
    assert "DELTA_BINARY_PACKED" in column.encodings


def test_half_written_files_of_a_killed_preparation_go(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in (".loops-00003.parquet.77.tmp", ".dataset.json.77.tmp", ".mine.77.tmp"):
        (tmp_path / "out" / name).write_bytes(b"half")
    job = PrepareJob(str(separable(tmp_path / "tree", 4).write("json")), str(tmp_path / "out"))
    prepare(job)
    assert [name for name in os.listdir(tmp_path / "out") if name.startswith(".")] == [".mine.77.tmp"]
