"""Each worker's share of a prepared data set, and what of it stays in memory."""

from pathlib import Path

import pytest

from looptagger.archive.storage import Folder
from looptagger.errors import UserError
from looptagger.learn import share, table
from looptagger.learn.share import Share
from tests.learn.tree import separable, store

EVERYTHING = 1 << 40
Data = tuple[Folder, table.Dataset]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    monkeypatch.setattr(table, "PART_ROWS", 4)
    return store(separable(tmp_path / "tree", 8).write("json"), tmp_path / "table", shares=(0.6, 0.2, 0.2))


def shares(data: Data, world: int, keep_bytes: int = EVERYTHING) -> list[Share]:
    folder, found = data
    assert len(found.parts) > 4
    return [Share(folder, found.parts, "stratified", keep_bytes, rank, world) for rank in range(world)]


def trained(one: Share, epoch: int = 0) -> list[int]:
    return [loop.key for loop in one.train([0, epoch])]


def validated(one: Share) -> list[str]:
    return [name for rows in one.validation() for name in rows.column("id").to_pylist()]


@pytest.mark.parametrize("coarse", [1, 1000])
def test_workers_share_every_loop_and_none_twice(data: Data, coarse: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "COARSE", coarse)
    parts = [trained(one) for one in shares(data, 3)]
    counts = data[1].counts["stratified"]
    assert sum(map(len, parts)) == len({key for keys in parts for key in keys}) == counts["train"]["loops"]
    assert max(map(len, parts)) - min(map(len, parts)) <= (3 if coarse > 1 else 12)
    names = [name for one in shares(data, 3) for name in validated(one)]
    assert len(names) == len(set(names)) == counts["validation"]["loops"]


def test_epochs_have_the_same_loops_in_another_order_which_comes_again(data: Data) -> None:
    (one,), (other,) = shares(data, 1), shares(data, 1, keep_bytes=0)
    first, second = trained(one, 0), trained(one, 1)
    assert first != second
    assert sorted(first) == sorted(second)
    assert (trained(other, 1), trained(other, 0)) == (second, first)


@pytest.mark.parametrize(("keep_bytes", "again"), [(EVERYTHING, False), (0, True)])
def test_what_is_kept_is_not_read_again(
    data: Data, keep_bytes: int, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = shares(data, 1, keep_bytes)
    trained(one)
    seen: list[str] = []
    read = table.read
    monkeypatch.setattr(table, "read", lambda folder, name: (seen.append(name), read(folder, name))[1])
    trained(one)
    validated(one)
    assert len(data[1].parts) < len(seen) if again else not seen


def test_no_more_is_kept_than_allowed(data: Data) -> None:
    (whole,) = shares(data, 1)
    trained(whole)
    size = {part: sum(map(share._size, kept.values())) for part, kept in whole.kept.items()}
    (half,) = shares(data, 1, sum(size.values()) // 2)
    keys = trained(half), trained(half)
    assert sorted(keys[0]) == sorted(keys[1]) == sorted(trained(whole))
    kept = {part: sum(map(share._size, some.values())) for part, some in half.kept.items()}
    assert 0 < kept["train"] < size["train"]
    assert sum(kept.values()) <= sum(size.values()) // 2
    assert validated(half) == validated(whole)


@pytest.mark.parametrize(("said", "kept"), [("8192\n", 1024), ("max\n", share.KEEP), (None, share.KEEP)])
def test_a_container_may_have_less_memory_than_its_machine(
    said: str | None, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    if said:
        limit.write_text(said)
    monkeypatch.setattr(share, "CONTAINER_LIMITS", (limit,))
    monkeypatch.setattr(share, "_machine_memory", lambda: 1 << 40)
    assert share.default_keep(2) == kept


def test_storage_that_is_away_is_no_missing_file(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(data[0].fs, "open", away)
    with pytest.raises(UserError, match="cannot be reached: no route to host"):
        table.read(data[0], data[1].parts[0])


def test_an_epoch_can_end_early_and_a_broken_file_is_named(data: Data) -> None:
    (one,) = shares(data, 1)
    next(iter(one.train([0, 0])))
    name = data[1].parts[2]
    (Path(data[0].path) / name).write_bytes(b"PAR1")
    with pytest.raises(UserError, match=rf"{name}: is missing, or cannot be read whole"):
        trained(one)
