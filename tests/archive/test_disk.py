"""Folders that link to each other, and patterns over them: every file once, in time."""

import os
from collections import Counter
from pathlib import Path

import pytest

from looptagger.archive import disk
from looptagger.errors import UserError


def found(source: object) -> list[str]:
    """The files of a source, by name."""
    return [Path(uri).name for uri in disk.find(str(source))(Counter())]


def folder(path: Path, *names: str) -> Path:
    path.mkdir(parents=True)
    for name in names:
        (path / name).write_bytes(b"x")
    return path


def test_folders_that_all_link_to_each_other(tmp_path: Path) -> None:
    """Followed wherever they lead, ten would be listed a million times."""
    packs = [folder(tmp_path / f"pack{i}", f"{i}.wav") for i in range(10)]
    for one in packs:
        for other in packs:
            (one / other.name).symlink_to(other)
    assert found(tmp_path) == [f"{i}.wav" for i in range(10)]
    assert found(tmp_path / "**/*.wav") == [f"{i}.wav" for i in range(10)]
    assert sorted(found(packs[3])) == [f"{i}.wav" for i in range(10)]  # through links alone


def test_a_folder_with_links_to_itself(tmp_path: Path) -> None:
    folder(tmp_path / "in", "a.wav", "b.txt")
    for name in ("current", "latest"):
        (tmp_path / "in" / name).symlink_to(".")
    for source in ("in", "in/**", "**/*.wav", "in/**/a.*"):
        assert found(tmp_path / source) == ["a.wav"], source


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_links_to_a_folder_and_to_one_in_it(tmp_path: Path, names: tuple[str, str]) -> None:
    inner = folder(tmp_path / "else" / "inner", "deep.wav")
    (tmp_path / "else" / "flat.wav").write_bytes(b"x")
    top = folder(tmp_path / "top")
    (top / names[0]).symlink_to(inner)
    (top / names[1]).symlink_to(inner.parent)
    assert sorted(found(top)) == ["deep.wav", "flat.wav"]


def test_a_link_into_a_hidden_folder_is_the_way_there(tmp_path: Path) -> None:
    folder(tmp_path / "top" / ".store" / "pack", "a.wav")
    (tmp_path / "top" / "pack").symlink_to(".store/pack")
    assert found(tmp_path / "top") == ["a.wav"]


def test_a_whole_disk(tmp_path: Path) -> None:
    folder(tmp_path / "disk" / "lost+found", "#12.wav").chmod(0)
    (tmp_path / "disk" / "a.wav").write_bytes(b"x")
    assert found(tmp_path / "disk") == ["a.wav"]


def test_a_pattern_can_name_a_link(tmp_path: Path) -> None:
    folder(tmp_path / "x" / "packs" / "v3", "a.wav")
    folder(tmp_path / "y" / "current", "b.wav")
    (tmp_path / "x" / "packs" / "current").symlink_to("v3")
    assert found(tmp_path / "**/current/*.wav") == ["b.wav", "a.wav"]
    assert found(tmp_path / "**/*.wav") == ["a.wav", "b.wav"]


@pytest.mark.parametrize("pattern", ["", "*/*.wav", "**/*.wav"])
def test_what_lies_here_keeps_its_name_whatever_leads_to_it(tmp_path: Path, pattern: str) -> None:
    """Or a link made between two runs would have all of it tagged anew, under other ids."""
    folder(tmp_path / "drums", "x.wav")
    (tmp_path / "aa").symlink_to("drums")
    assert list(disk.find(f"{tmp_path}/{pattern}")(Counter())) == [f"{tmp_path}/drums/x.wav"]


def test_of_links_to_the_same_the_first_by_name_is_followed(tmp_path: Path) -> None:
    folder(tmp_path / "else", "x.wav")
    folder(tmp_path / "top" / "pack1")
    for name in ("zlink", "pack1/l"):
        (tmp_path / "top" / name).symlink_to(tmp_path / "else")
    assert list(disk.find(f"{tmp_path}/top")(Counter())) == [f"{tmp_path}/top/pack1/l/x.wav"]


def test_what_a_pattern_names_is_looked_up_in_folders_that_may_not_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a shell does: people may not list the homes of others."""
    for name in ("ann", "bob"):
        folder(tmp_path / name / "public", f"{name}.wav")
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: 1 / 0 if path.endswith((b"ann", b"bob")) else real(path))
    assert found(tmp_path / "*/public/*.wav") == ["ann.wav", "bob.wav"]


@pytest.mark.parametrize("pattern", ["", "*/*.wav", "**/*.wav"])
def test_a_folder_that_cannot_be_listed_is_not_left_out(
    tmp_path: Path, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("drums", "shut"):
        folder(tmp_path / name, "x.wav")
    real = os.scandir

    def scandir(path: bytes) -> object:
        if path.endswith(b"shut"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match="shut: cannot be listed: Permission denied; give read permission"):
        list(disk.find(f"{tmp_path}/{pattern}")(Counter()))


def test_a_pattern_of_folders_that_link_to_each_other(tmp_path: Path) -> None:
    packs = [folder(tmp_path / f"pack{i}", f"{i}.wav") for i in range(3)]
    for one in packs:
        for other in packs:
            (one / other.name).symlink_to(other)
    assert sorted(found(tmp_path / "*")) == ["0.wav", "1.wav", "2.wav"]


def test_a_pattern_goes_only_where_it_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("drums1", "drums2", "private"):
        folder(tmp_path / name / "in", f"{name}.wav")
    real, gone_to = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: gone_to.append(path) or real(path))
    assert found(tmp_path / "drums*/**/*.wav") == ["drums1.wav", "drums2.wav"]
    assert not [path for path in gone_to if b"private" in path]


def test_what_a_pattern_of_folders_matches(tmp_path: Path) -> None:
    folder(tmp_path / "x" / "drums", "a.wav", "b.flac")
    folder(tmp_path / "x" / "y" / "drums" / "more", "c.wav")
    folder(tmp_path / "x" / ".drums", "d.wav")
    folder(tmp_path / "x" / "bass", "drums.wav")
    assert found(tmp_path / "**/drums") == ["a.wav", "b.flac", "c.wav"]
    assert found(tmp_path / "**/drums/*.wav") == ["a.wav"]
    assert found(tmp_path / "x/**/[d]*.wav") == ["drums.wav"]
    assert found(tmp_path / "**") == ["drums.wav", "a.wav", "b.flac", "c.wav"]
    assert found(tmp_path / "x/**/.drums/*") == ["d.wav"]
    for nothing in ("**/*.mp3", "nowhere/**/*.wav", "x/**/y/z/*.wav"):
        with pytest.raises(UserError, match="no such file or folder"):
            found(tmp_path / nothing)
