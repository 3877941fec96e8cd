"""Labels files, licences and splits."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from looptagger.errors import UserError
from looptagger.learn import labels
from looptagger.learn.loops import Collection, Drops, Loop, family, short_licence, with_licences, with_uploaders
from looptagger.learn.splits import PARTS, carried, splits
from looptagger.roles import ROLES


def write(folder: Path, text: str, name: str = "labels.csv") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_a_labels_file_with_and_without_its_optional_columns(tmp_path: Path) -> None:
    file = write(tmp_path, 'path,roles\na.wav,"bass, FX"\nb/c.wav,chord;voice\ns3://x/d.wav,melody|bass\ne.wav,\n')
    found = labels.read(file)
    assert [sorted(loop.roles) for loop in found.loops] == [["bass", "fx"], ["chord", "voice"], ["bass", "melody"]]
    assert [loop.uri for loop in found.loops][1:] == [str(tmp_path / "b/c.wav"), "s3://x/d.wav"]
    assert found.drops.counts == {"no role": 1}
    more = write(tmp_path, "id\tpath\troles\tuploader\tlicense\n7\ta.wav\tfx\tme\tCC0-1.0\n", "labels.tsv")
    assert labels.read(more).loops == [Loop("7", str(tmp_path / "a.wav"), frozenset({"fx"}), "me", None, "CC0-1.0")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,roles\na.wav,drums\n", "line 2: unknown role 'drums'; the roles are percussion"),
        ("path,roles,part\na.wav,bass,dev\n", "line 2: unknown part 'dev'; the parts are train, validation, test"),
        ("path,roles\na.wav,bass\na.wav,fx\n", "line 3: the id 'a.wav' comes twice"),
        ("file,roles\na.wav,bass\n", "needs a column `path`; this one has file, roles"),
        ("", "needs a column `path`; this one has none"),
        ("path,roles\n", "holds no rows"),
        ('path,roles\na.wav,bass\n"b.wav,bass\nc.wav,bass\n', "cannot be read as a labels file"),
        ("path,roles,uploader\na.wav,bass,melody,me\n", "line 2 has more fields than the header; part roles with `;`"),
        ("path,roles,roles\na.wav,bass,fx\n", "the column 'roles' comes twice"),
        ("id,path,roles\n1,x/a.wav,bass\n2,x/../x/./a.wav,bass\n", "line 3: the file .* comes twice"),
        ("path,roles\n,bass\n", "line 2 has no path"),
        ("path,roles\na.wav\n", None),
        ("\x00\xff", "cannot be read|needs a column"),
    ],
)
def test_bad_labels_files_are_sentences(tmp_path: Path, text: str, says: str | None) -> None:
    file = write(tmp_path, text)
    if says is None:
        assert labels.read(file).loops == []
        return
    with pytest.raises(UserError, match=says) as error:
        labels.read(file)
    assert "\n" not in str(error.value)


def test_licences_have_short_names_and_families() -> None:
    url = "http://creativecommons.org/licenses/by-nc/3.0/"
    assert short_licence(url) == "CC-BY-NC-3.0"
    assert short_licence("https://creativecommons.org/publicdomain/zero/1.0/") == "CC0-1.0"
    assert short_licence("http://creativecommons.org/licenses/sampling+/1.0/") == "CC-Sampling+-1.0"
    names = ["CC-BY-NC-3.0", "CC BY 4.0", "CC0-1.0", "CC-Sampling+-1.0", "GPL", None]
    assert [family(name) for name in names] == ["by-nc", "by", "cc0", "sampling+", "gpl", "unknown"]


def test_a_labels_file_may_have_licences_as_freesound_writes_them(tmp_path: Path) -> None:
    url = "http://creativecommons.org/licenses/by/4.0/"
    found = labels.read(write(tmp_path, f"path,roles,license\na.wav,fx,{url}\nb.wav,fx,CC-BY-4.0\nc.wav,fx,\n"))
    assert [loop.licence for loop in found.loops] == ["CC-BY-4.0", "CC-BY-4.0", None]


def test_only_the_wanted_licences_stay() -> None:
    loops = [Loop(str(i), "", frozenset({"fx"}), licence=name) for i, name in enumerate(["CC0-1.0", "CC-BY-4.0", None])]
    collection = Collection("here", "", 3, loops, Drops())
    kept = with_licences(collection, ["cc0", "BY"])
    assert [loop.id for loop in kept.loops] == ["0", "1"]
    assert kept.drops.counts == {"another licence": 1}
    with pytest.raises(UserError, match=r"no loop has a licence of by-nc; there are: cc0 \(1\), by \(1\), unknown"):
        with_licences(collection, ["by-nc"])
    none = Collection("here", "", 3, [], Drops())
    assert with_licences(none, ["by-nc"]) is none, "that no loop is left has another reason"


def fsld_like(seed: int = 0, count: int = 2936) -> list[Loop]:
    """As many loops as FSLD has, roles as rare, by users of whom few give many."""
    rng = np.random.default_rng(seed)
    shares = np.array([1626, 493, 350, 603, 845, 69]) / 2936
    users = rng.zipf(1.6, count) % 700
    loops = []
    for i in range(count):
        on = frozenset(role for role, share in zip(ROLES, shares, strict=True) if rng.random() < share)
        loops.append(Loop(str(i), "", on or frozenset({"percussion"}), uploader=str(users[i])))
    return loops


@pytest.mark.parametrize("seed", [0, 1])
def test_no_uploader_leaks_and_shares_are_kept(seed: int) -> None:
    loops = fsld_like(seed)
    found = splits(loops, (0.9, 0.05, 0.05), seed)
    sides = defaultdict(set)
    for loop, part in zip(loops, found["grouped"], strict=True):
        sides[loop.uploader].add(part)
    assert all(len(parts) == 1 for parts in sides.values())
    for part in ("validation", "test"):  # one uploader has given 300 loops
        made = Counter(loop.uploader for loop, its in zip(loops, found["grouped"], strict=True) if its == part)
        assert made.most_common(1)[0][1] <= 0.1 * 0.05 * len(loops)
    for name in ("paper", "stratified", "grouped"):
        counts = Counter(found[name])
        assert counts["test"] == pytest.approx(0.05 * len(loops), rel=0.03 if name != "grouped" else 0.15), name
    for name, tolerance in (("stratified", 1.5), ("grouped", 4)):
        for role in ROLES:
            by_part = Counter(part for loop, part in zip(loops, found[name], strict=True) if role in loop.roles)
            for part, share in zip(PARTS, (0.9, 0.05, 0.05), strict=True):
                assert abs(by_part[part] - share * by_part.total()) <= max(tolerance, 0.15 * share * by_part.total())


@pytest.mark.parametrize("shares", [(0.3, 0.3, 0.4), (0.3, 0.1, 0.6)])
def test_large_uploaders_are_learned_from_even_where_train_is_small(shares: tuple[float, ...]) -> None:
    names = [name for name in "abc" for _ in range(300)] + [str(i) for i in range(4000)]
    loops = [Loop(str(i), "", frozenset({"fx"}), uploader=name) for i, name in enumerate(names)]
    assert set(splits(loops, shares, 0)["grouped"][:900]) == {"train"}


def test_loops_that_come_with_a_part_keep_it(tmp_path: Path) -> None:
    text = "path,roles,part\n" + "".join(f"{i}.wav,fx,{'test' if i < 30 else ''}\n" for i in range(100))
    loops = labels.read(write(tmp_path, text)).loops
    found = splits(loops, (0.8, 0.1, 0.1), 0)
    for parts in found.values():
        assert set(parts[:30]) == {"test"}
        assert Counter(parts[30:]) == {"train": 62, "validation": 8}, "whoever marks a test part has no other"
    assert splits(loops[30:], (0.8, 0.1, 0.1), 0)["paper"].count("test") == 7
    assert splits(loops[:30], (0.8, 0.1, 0.1), 0) == {name: ["test"] * 30 for name in found}


def test_loops_that_are_dealt_follow_their_uploaders_that_are_not() -> None:
    loops = [
        Loop(str(i), "", frozenset({"fx"}), uploader=str(i % 10), part="test" if i in (3, 13) else None)
        for i in range(100)
    ]
    found = splits(loops, (0.8, 0.1, 0.1), 0)
    assert {found["grouped"][i] for i in range(3, 100, 10)} == {"test"}
    assert len({found["paper"][i] for i in range(3, 100, 10)}) > 1
    assert carried(loops) == (8, 0)
    torn = [*loops, Loop("100", "", frozenset({"fx"}), uploader="3", part="train")]
    assert {splits(torn, (0.8, 0.1, 0.1), 0)["grouped"][i] for i in range(23, 100, 10)} == {"train"}
    assert carried(torn) == (0, 1)
    held_out = [*loops, Loop("100", "", frozenset({"fx"}), uploader="3", part="validation")]
    assert {splits(held_out, (0.8, 0.1, 0.1), 0)["grouped"][i] for i in range(23, 100, 10)} == {"train"}
    assert carried(held_out) == (0, 1), "on two sides, though neither is train"


def test_splits_are_seeded_and_do_not_depend_on_order() -> None:
    loops = fsld_like(count=300)
    first = splits(loops, (0.8, 0.1, 0.1), 3)
    again = splits(loops[::-1], (0.8, 0.1, 0.1), 3)
    other = splits(loops, (0.8, 0.1, 0.1), 4)
    for name, parts in first.items():
        assert again[name][::-1] == parts
        assert other[name] != parts


def test_few_uploaders_are_held_out_all_the_same() -> None:
    loops = [Loop(str(i), "", frozenset({"fx"}), uploader=str(i % 12)) for i in range(120)]
    assert Counter(splits(loops, (0.8, 0.1, 0.1), 0)["grouped"]) == {"train": 100, "validation": 10, "test": 10}


def test_without_uploaders_packs_stay_together() -> None:
    loops = [Loop(str(i), "", frozenset({"fx"}), pack=str(i % 10)) for i in range(100)]
    parts = splits(loops, (0.8, 0.1, 0.1), 0)["grouped"]
    assert all(len({parts[i] for i in range(pack, 100, 10)}) == 1 for pack in range(10))
    assert Counter(parts) == {"train": 80, "validation": 10, "test": 10}


def test_uploaders_of_marked_loops_leave_room_for_others_in_held_out_parts() -> None:
    """They are small, and would suffice, were they not all of the marked part."""
    small = [Loop(f"s{i}", "", frozenset({"fx"}), str(i // 6), part="test" if i % 6 == 0 else None) for i in range(120)]
    large = [Loop(f"l{i}", "", frozenset({"fx"}), f"large {i // 40}") for i in range(880)]
    counts = Counter(splits([*small, *large], (0.9, 0.05, 0.05), 0)["grouped"])
    assert counts["test"] == 120
    assert 40 <= counts["validation"] <= 80


def test_a_pack_of_one_uploader_is_that_ones_where_only_some_loops_say_so() -> None:
    given = [("me", "x"), (None, "x"), ("you", "y"), ("me", "y"), (None, "y"), (None, None), ("me", None)]
    loops = [Loop(str(i), "", frozenset({"fx"}), uploader, pack) for i, (uploader, pack) in enumerate(given)]
    found = [loop.uploader for loop in with_uploaders(loops)]
    assert found == ["me", "me", "you", "me", None, None, "me"]
