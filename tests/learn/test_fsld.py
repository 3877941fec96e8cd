"""The FSLD reader: both layouts, two annotators who disagree, and all that real copies lack or break."""

import json
import shutil
from pathlib import Path

import pytest

from looptagger.errors import UserError
from looptagger.learn import fsld
from tests.learn.tree import Tree, answer


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path / "copy")
    made.add(1, 70, b"x", ann=answer(("percussion",)), bob=answer(("percussion", "bass")))  # they disagree
    made.add(2, 71, b"x", ann=answer(("chord",), discard=False, save_for_later=False))
    made.add(3, 71, b"x", ann=answer(("fx",), discard=True))
    made.add(4, 72, b"x", ann=answer(("fx",)), bob=answer(("fx",), save_for_later=True))
    made.add(5, 72, b"x", ann=answer(()))
    made.add(6, 73, None, ann=answer(("voice",)))
    made.add(7, 74, b"x", ann=answer(("melody",)), bob=answer(("voice",)))  # nothing in common
    return made


@pytest.mark.parametrize("layout", ["json", "csv"])
def test_both_layouts_give_the_same_loops_and_counts(tree: Tree, layout: str) -> None:
    found = fsld.read(tree.write(layout), "union")
    assert {loop.id: sorted(loop.roles) for loop in found.loops} == {
        "1": ["bass", "percussion"],
        "2": ["chord"],
        "7": ["melody", "voice"],
    }
    assert found.annotated == 7
    assert found.drops.counts == {"discarded or left for later": 2, "no role": 1, "no audio": 1}
    first = found.loops[0]
    assert (first.uploader, first.pack, first.licence) == ("70", "a pack", "CC-BY-3.0")
    assert Path(first.uri).name == "1_70.wav.wav"
    assert "any annotator set it" in found.rule


def test_intersection_keeps_what_all_annotators_set(tree: Tree) -> None:
    found = fsld.read(tree.write("json"), "intersection")
    assert {loop.id: sorted(loop.roles) for loop in found.loops} == {"1": ["percussion"], "2": ["chord"]}
    assert found.drops.counts["no role"] == 2
    assert "all annotators" in found.rule


@pytest.mark.parametrize("point_at", ["", "FSL10K", ".."])
def test_it_and_folders_above_it_will_do(tree: Tree, point_at: str) -> None:
    assert len(fsld.read(tree.write("json") / point_at, "union").loops) == 3


def test_a_folder_within_its_audio_is_not_it(tree: Tree) -> None:
    with pytest.raises(UserError, match="FSL10K/audio: neither FSLD"):
        fsld.read(tree.write("json") / "FSL10K" / "audio", "union")


def test_another_folder_beside_it_is_not_it(tree: Tree) -> None:
    root = tree.write("json")
    shutil.move(root / "FSL10K" / "audio", root / "audio")
    (root / "mine").mkdir()
    with pytest.raises(UserError, match="mine: no audio/wav found in it"):
        fsld.find(root / "mine")


def test_zips_unpacked_flat_will_do(tree: Tree, tmp_path: Path) -> None:
    root = tree.write("json")
    flat = tmp_path / "flat"
    shutil.move(root / "FSL10K" / "audio", flat / "audio")
    shutil.move(root / "annotations", flat / "annotations")
    found = fsld.read(flat, "union")
    assert len(found.loops) == 3
    assert found.loops[0].licence is None  # there is no metadata.json


def test_annotations_that_are_not_json_are_counted(tree: Tree) -> None:
    root = tree.write("json")
    for number, text in enumerate(["{", "[]", '{"instrumentation": 3}', "\x00", '{"bpm": "1"}', "[" * 100_000]):
        (root / "annotations" / "ann" / f"sound-9{number}.json").write_text(text)
    found = fsld.read(root, "union")
    assert found.drops.counts["unreadable annotation"] == 6
    assert len(found.loops) == 3


def test_an_id_twice_is_counted_and_taken_once(tree: Tree) -> None:
    root = tree.write("csv")
    (root / "audio" / "wav" / "1_99.wav.wav").write_bytes(b"y")
    table = root / "loop_annotation_data.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[1]]))
    found = fsld.read(root, "union")
    assert found.drops.counts["second audio file of an id"] == 1
    assert found.drops.counts["repeated annotation"] == 1
    assert len({loop.id for loop in found.loops}) == len(found.loops) == 3


def test_who_discards_a_loop_need_not_say_its_roles(tree: Tree) -> None:
    root = tree.write("json")
    before = fsld.read(root, "union")
    (root / "annotations" / "zoe").mkdir()
    (root / "annotations" / "zoe" / f"sound-{before.loops[0].id}.json").write_text('{"discard": true}')
    found = fsld.read(root, "union")
    assert found.loops == before.loops[1:]
    assert found.drops.counts["unreadable annotation"] == before.drops.counts["unreadable annotation"]


@pytest.mark.parametrize("is_column_there", [False, True])
def test_a_csv_that_names_no_annotators(tree: Tree, is_column_there: bool) -> None:
    """Each of its rows is an answer: none is taken for the same one again."""
    root = tree.write("csv")
    path = root / "loop_annotation_data.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    assert lines[0][1] == "annotator"
    kept = [
        [*line[:1], *([""] if number else ["annotator"]) * is_column_there, *line[2:]]
        for number, line in enumerate(lines)
    ]
    path.write_text("\ufeff" + "\n".join(map(",".join, kept)), encoding="utf-8")
    found = fsld.read(root, "union")  # and Excel puts a mark before the first column's name
    assert {loop.id: loop.roles for loop in found.loops} == {
        "1": {"percussion", "bass"}, "2": {"chord"}, "7": {"melody", "voice"},
    }  # fmt: skip
    assert not found.drops.counts["repeated annotation"]


def test_answers_in_numbers_and_with_a_mark_before_them(tree: Tree) -> None:
    root = tree.write("json")
    said = {"instrumentation": {"bass": 1, "melody": 0}, "discard": 0}
    for loop, discard in (("2", 0), ("7", 1)):
        text = json.dumps(said | {"discard": discard})
        (root / "annotations" / "ann" / f"sound-{loop}.json").write_text("\ufeff" + text, encoding="utf-8")
    found = fsld.read(root, "union")
    assert {loop.id: loop.roles for loop in found.loops} == {"1": {"percussion", "bass"}, "2": {"bass"}}


def test_half_a_character_in_the_metadata_costs_no_more_than_itself(tree: Tree) -> None:
    root = tree.write("json")
    (root / "FSL10K" / "metadata.json").write_text(r'{"1": {"pack_name": "loops \ud83d"}}')
    assert fsld.read(root, "union").loops[0].pack == "loops ?"


def test_a_rule_that_leaves_no_loop_is_said(tree: Tree) -> None:
    for answers in tree.answers.values():
        answers["instrumentation"] = dict.fromkeys(answers["instrumentation"], False)
    with pytest.raises(UserError, match="no loop is left that has a role"):
        fsld.read(tree.write("json"), "intersection")


def _no_audio(root: Path) -> None:
    shutil.rmtree(root / "FSL10K" / "audio")


def _no_annotations(root: Path) -> None:
    shutil.rmtree(root / "annotations")


def _empty_audio(root: Path) -> None:
    for path in (root / "FSL10K" / "audio" / "wav").iterdir():
        path.unlink()


def _half_metadata(root: Path) -> None:
    path = root / "FSL10K" / "metadata.json"
    path.write_text(path.read_text()[:100])


def _no_json(root: Path) -> None:
    for path in (root / "annotations").rglob("*.json"):
        path.write_text("<html>")


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (_no_audio, "no audio/wav found"),
        (_no_annotations, r"no annotations.*unpack annotations.zip"),
        (_empty_audio, "holds the audio of none"),
        (_half_metadata, "not whole JSON"),
        (_no_json, "none of its 10 annotations can be read"),
    ],
)
def test_half_a_download_is_a_sentence(tree: Tree, broken: object, says: str) -> None:
    root = tree.write("json")
    broken(root)  # type: ignore[operator]
    with pytest.raises(UserError, match=says) as error:
        fsld.read(root, "union")
    assert "\n" not in str(error.value)


def test_a_csv_of_something_else_is_a_sentence(tree: Tree) -> None:
    root = tree.write("csv")
    (root / "loop_annotation_data.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="lacks the column"):
        fsld.read(root, "union")


def test_a_csv_with_a_quote_that_is_not_closed_is_a_sentence(tree: Tree) -> None:
    root = tree.write("csv")
    file = root / "loop_annotation_data.csv"
    head, first, *rest = file.read_text().splitlines()
    file.write_text("\n".join([head, f'"{first}', *rest]))
    with pytest.raises(UserError, match="cannot be read as CSV"):
        fsld.read(root, "union")


def test_metadata_of_another_shape_costs_only_what_it_would_have_said(tree: Tree) -> None:
    root = tree.write("json")
    (root / "FSL10K" / "metadata.json").write_text(json.dumps({"1": None, "2": {"license": 5, "pack_name": {}}}))
    found = fsld.read(root, "union")
    assert [loop.uploader for loop in found.loops] == ["70", "71", "74"]


def test_files_that_freesound_names_have_their_uploader_from_the_metadata(tree: Tree) -> None:
    """Whose number others of that name may tell: else one person would be on two sides."""
    root = tree.write("json")
    audio = root / "FSL10K" / "audio" / "wav"
    for loop, name in (("2", "2__jane__b.wav"), ("7", "7__joe__g.wav")):
        (next(audio.glob(f"{loop}_*"))).rename(audio / name)
    names = {"1": "jane", "2": "jane", "7": "joe"}
    (root / "FSL10K" / "metadata.json").write_text(json.dumps({loop: {"username": n} for loop, n in names.items()}))
    assert [loop.uploader for loop in fsld.read(root, "union").loops] == ["70", "70", "joe"]
    (root / "FSL10K" / "metadata.json").unlink()
    (audio / "7__joe__g.wav").rename(audio / "7_70-hq.wav")
    assert [loop.uploader for loop in fsld.read(root, "union").loops] == ["70", None, "70"]
