"""The output as its own ledger: manifest, parts, writer, status and compaction, with made-up rows and no Ray."""

import csv
import errno
import fcntl
import io
import json
import multiprocessing
import os
import threading
from contextlib import nullcontext
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import ClientConnectionError

from looptagger.archive import (
    counts,
    growing,
    lock,
    manifest,
    output,
    patience,
    preview,
    retrying,
    status,
    tags,
    writer,
)  # fmt: skip
from looptagger.archive.compact import compact
from looptagger.archive.growing import Request
from looptagger.archive.output import Record, Work
from looptagger.archive.storage import Folder
from looptagger.archive.writer import CHUNK_SCORES, CHUNK_STARTS, PART, ROW, PartWriter
from looptagger.errors import Unreachable, UserError
from looptagger.roles import ROLES

IDENTITY = {"model": "m@1", "chunks": True, "embedding_size": 0}


def request(*sources: object, **how: Any) -> Request:
    return Request(IDENTITY, tuple(str(source) for source in sources), **({"shard_rows": 4} | how))


def prepare(folder: Folder, wanted: Request) -> Record:
    with lock.held(folder):
        return growing.prepare(folder, wanted)


def test_a_job_that_was_taken_over_while_it_listed_touches_nothing(tmp_path: Path) -> None:
    """Its successor has listed, too: what lies there is that one's."""
    folder = Folder(str(tmp_path / "out"))
    theirs = prepare(folder, request(write_manifest(tmp_path / "m.csv", range(9))))
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    def lost() -> None:
        raise UserError("another job took this one for dead")

    ours = replace(folder, check=lost)
    for how in ({"overwrite": True}, {"update": True}):
        with pytest.raises(UserError, match="took this one for dead"):
            growing.prepare(ours, request(write_manifest(tmp_path / "m.csv", range(12)), **how))
    folder.delete(["_run/dataset.json"])  # as where the successor has not stored its record yet
    with pytest.raises(UserError, match="took this one for dead"):
        growing.prepare(ours, request(tmp_path / "nowhere.csv"))
    after = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert after == {path: data for path, data in before.items() if path.name != "dataset.json"}
    assert theirs.rows == 9


def test_what_a_folder_holds_beside_audio_is_told(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav.asd", "c.asd", "d.rx2", "README", "._a.wav", ".b.wav", ".DS_Store"):
        (tmp_path / "loops" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "loops" / name).write_bytes(b"x")
    told: list[str] = []
    prepare(Folder(str(tmp_path / "out")), request(tmp_path / "loops", note=told.append))
    assert told == [
        "Passed over, as hidden or by their names no audio: 7 files (3 hidden, 2 .asd, 1 without ending, 1 .rx2)."
    ]


def write_manifest(path: Path, rows: range) -> Path:
    path.write_text("id,uri,bpm\n" + "".join(f"clip{i},/x/{i}.wav,{i}\n" for i in rows))
    return path


OWN = {(str(i), role): 7 * i % 10 / 32 + j / 512 for i in range(10) for j, role in enumerate(ROLES)}
"""So much higher is a role's score for ids that end so: all different, in no order, and exact in float32."""


def two_chunks(clip: str | None) -> list[float]:
    """The scores of a clip's two chunks: the roles of the first, then of the second."""
    return [int(clip[-1]) + i / 16 for i in range(12)] if clip else []


def tagged(folder: Folder, work: Work, bad: int | None = 3, score: float = 0.5) -> pa.Table:
    """What the pipeline would make of a work's rows; every id that ends in `bad` fails."""
    rows = manifest.read(folder, work.shard)
    places = list(work.only if work.only is not None else range(rows.num_rows))
    rows = rows.take(pa.array(places))
    ok = [bad is None or not clip.endswith(str(bad)) for clip in rows.column("id").to_pylist()]
    columns: dict[str, Any] = {name: rows.column(name) for name in rows.column_names}
    columns["status"] = ["ok" if good else "missing" for good in ok]
    columns["error"] = pa.array([None if good else "no such file" for good in ok], pa.string())
    for role in ROLES:
        scores = [score + OWN[clip[-1], role] for clip in columns["id"].to_pylist()]
        columns[role] = pa.array([each if good else None for each, good in zip(scores, ok, strict=True)], pa.float32())
    columns["roles"] = pa.array([["bass", "fx"] if good else None for good in ok], pa.list_(pa.string()))
    for name, kind in (("duration_s", pa.float64()), ("sample_rate", pa.int32()), ("channels", pa.int16())):
        columns[name] = pa.nulls(len(ok), kind)
    columns["codec"] = pa.nulls(len(ok), pa.string())
    heard = [clip if good else None for clip, good in zip(columns["id"].to_pylist(), ok, strict=True)]
    columns["n_chunks"] = pa.array([2 if good else 0 for good in ok], pa.int32())
    columns["model"] = ["m@1"] * len(ok)
    columns[CHUNK_STARTS] = pa.array([[0.0, 3.0] if good else None for good in ok], pa.list_(pa.float64()))
    columns[CHUNK_SCORES] = pa.array([two_chunks(clip) for clip in heard], pa.list_(pa.float32()))
    columns[PART] = [work.part] * len(ok)
    columns[ROW] = pa.array([work.offset + place for place in places], pa.int64())
    return pa.table(columns)


def tag(folder: Folder, record: Record, works: list[Work], **how: Any) -> None:
    writer = PartWriter(folder, works, output.output_schema(folder, record), chunks=True)
    for work in works:
        table = tagged(folder, work, **how)
        writer.add(table.slice(1))  # blocks come split and in any order
        writer.add(table.slice(0, 1))
    assert not writer.pending


def ids(folder: Folder) -> list[str]:
    return [row[0] for row in duckdb.sql(f"select id from '{folder.path}/*.parquet'").fetchall()]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "out"))


@pytest.fixture
def done(tmp_path: Path, folder: Folder) -> Record:
    """Ten clips, of which clip3 failed, in parts of four."""
    record = prepare(folder, request(write_manifest(tmp_path / "m.csv", range(10))))
    tag(folder, record, output.unfinished(folder, record))
    return record


def test_parts_hold_every_row_once_in_one_schema(folder: Folder, done: Record) -> None:
    assert [part.name for part in output.parts(folder)[0]] == [tags.Part(i, i).name for i in range(3)]
    assert sorted(ids(folder)) == sorted(f"clip{i}" for i in range(10))
    schemas = {pq.read_schema(folder.at(part.name)).to_string() for part in output.parts(folder)[0]}
    assert len(schemas) == 1
    schema = pq.read_schema(folder.at("part-0000000.parquet"))
    assert schema.names == [*tags.CLIP_SCHEMA.names, "bpm"]
    assert not schema.field("id").nullable
    assert schema.field("roles").type == pa.list_(pa.string())
    assert status.verify(folder) == []


def test_chunk_parts(folder: Folder, done: Record) -> None:
    assert chunks(folder) == [row for i in range(10) if i != 3 for row in chunks_of(f"clip{i}")]


def chunks(folder: Folder) -> list[tuple[Any, ...]]:
    """All chunk rows of an output, clip by clip."""
    names = ", ".join(tags.CHUNK_SCHEMA.names)
    return duckdb.sql(f"select {names} from '{folder.path}/chunks/*.parquet' order by id, chunk").fetchall()


def chunks_of(clip: str) -> list[tuple[Any, ...]]:
    """The chunk rows that a clip is to have."""
    scores = two_chunks(clip)
    return [(clip, 0, 0.0, *scores[:6]), (clip, 1, 3.0, *scores[6:])]


def test_resume_takes_what_no_part_holds(folder: Folder, done: Record) -> None:
    folder.delete(["part-0000001.parquet"])
    works = output.unfinished(folder, done)
    assert [work.part for work in works] == ["part-0000001.parquet"]
    assert status.verify(folder)[0].startswith("shards 1 to 1")
    tag(folder, done, works)
    assert status.verify(folder) == []


def test_status_counts(folder: Folder, done: Record) -> None:
    found = status.status(folder)
    assert (found.total, found.done, found.failed, found.left, found.parts) == (10, 10, 1, 0, 3)
    assert found.by_status == {"ok": 9, "missing": 1}
    assert found.holder is None


def test_retry_replaces_failed_rows_in_place(folder: Folder, done: Record) -> None:
    works = output.to_retry(folder, done)
    assert [(work.part, work.only) for work in works] == [("part-0000000.parquet", (3,))]
    for _ in range(2):  # twice: an order that was lost would mix up rows
        tag(folder, done, works, bad=None, score=0.75)
    assert status.verify(folder) == []
    rows = duckdb.sql(f"select id, status, fx from '{folder.path}/part-0000000.parquet'").fetchall()
    assert rows[2:] == [("clip2", "ok", 0.5 + OWN["2", "fx"]), ("clip3", "ok", 0.75 + OWN["3", "fx"])]
    assert chunks(folder) == [row for i in range(10) for row in chunks_of(f"clip{i}")]


def test_another_try_of_many_is_kept_bit_by_bit(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that was compacted may have half a million clips to try again."""
    monkeypatch.setattr(writer, "MERGED_ROWS", 2)
    record = prepare(folder, request(write_manifest(tmp_path / "m.csv", range(50))))
    tag(folder, record, output.unfinished(folder, record))
    compact(folder)
    works = output.to_retry(folder, record)
    assert (len(works), len({work.part for work in works})) == (5, 1)
    again = PartWriter(folder, works, output.output_schema(folder, record), chunks=True)
    rows = pa.concat_tables([tagged(folder, work, bad=None) for work in works])
    for piece in (rows.slice(0, 1), rows.slice(1, 2), rows.slice(0, 2)):  # the last one is delivered twice
        again.add(piece)
    assert again.left == 2
    again.keeper.save()
    assert status.status(folder).by_status == {"ok": 48, "missing": 2}
    works = output.to_retry(folder, record)
    assert len(works) == 2
    again = PartWriter(folder, works, output.output_schema(folder, record), chunks=True)
    for work in works:
        again.add(tagged(folder, work, bad=None))
    again.keeper.save()
    assert status.status(folder).by_status == {"ok": 50}
    assert status.verify(folder) == []


def test_a_task_delivered_twice_gives_rows_once(folder: Folder, tmp_path: Path) -> None:
    record = prepare(folder, request(write_manifest(tmp_path / "m.csv", range(4))))
    works = output.unfinished(folder, record)
    writer = PartWriter(folder, works, output.output_schema(folder, record), chunks=True)
    table = tagged(folder, works[0])
    for piece in (table.slice(0, 3), table.slice(0, 3), table.slice(3), table):
        writer.add(piece)
    assert writer.left == 0
    assert status.verify(folder) == []


def test_compaction_keeps_rows_order_and_ledger(folder: Folder, done: Record) -> None:
    before = ids(folder)
    assert compact(folder) == (3, 1)
    assert ids(folder) == before
    assert status.verify(folder) == []
    assert output.unfinished(folder, done) == []
    assert compact(folder) == (1, 1)
    works = output.to_retry(folder, done)
    assert [(work.part, work.only, work.offset) for work in works] == [("part-0000000-0000002.parquet", (3,), 0)]
    tag(folder, done, works, bad=None)
    assert status.status(folder).failed == 0
    assert status.verify(folder) == []


def test_compaction_fills_row_groups(folder: Folder, done: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "GROUP_ROWS", 3)
    before = ids(folder)
    compact(folder)
    assert ids(folder) == before
    found = pq.read_metadata(folder.at("part-0000000-0000002.parquet"))
    assert [found.row_group(number).num_rows for number in range(found.num_row_groups)] == [3, 3, 3, 1]


def test_a_stray_file_where_chunks_would_be_is_none(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "out"))
    wanted = replace(request(write_manifest(tmp_path / "m.csv", range(9))), identity={**IDENTITY, "chunks": False})
    record = prepare(folder, wanted)
    writer = PartWriter(folder, output.unfinished(folder, record), output.output_schema(folder, record), chunks=False)
    for work in writer.works:
        writer.add(tagged(folder, work, None))
    writer.keeper.save()
    folder.write("chunks/.DS_Store", b"a file manager's")
    assert compact(folder) == (3, 1)
    assert status.verify(folder) == []


def test_compaction_does_not_bridge_what_is_missing(folder: Folder, done: Record) -> None:
    folder.delete(["part-0000001.parquet"])
    assert compact(folder) == (2, 2)


def test_a_compaction_cut_off_before_its_deletions_is_mended(folder: Folder, done: Record) -> None:
    kept = {name: folder.read(name) for name in ("part-0000001.parquet", "chunks/part-0000001.parquet")}
    compact(folder)
    for name, data in kept.items():
        folder.write(name, data or b"")
    folder.write(".part-0000009.parquet.77.tmp", b"half")
    folder.write(".mine.1.tmp", b"another program's")
    assert "left over" in status.verify(folder)[0]
    assert status.status(folder).done == 10
    output.tidy(folder)
    assert status.verify(folder) == []
    assert sorted(os.listdir(folder.path)) == [".mine.1.tmp", "_run", "chunks", "part-0000000-0000002.parquet"]


@pytest.mark.parametrize("again", [False, True], ids=["is tidied up", "loses a part, which comes anew"])
@pytest.mark.parametrize("changes", range(1, 11))
def test_a_compaction_cut_off_at_any_moment(folder: Folder, done: Record, changes: int, again: bool) -> None:
    """Of counts, chunks and parts, two are written or three deleted in turn. Each part has its chunks all along."""
    rows, left = ids(folder), iter(range(changes))

    def cut() -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) if changes < 10 else nullcontext():
        compact(replace(folder, check=cut))
    parts = output.parts(folder)[0]
    assert {*parts} <= output.chunked(folder)
    if again:
        folder.delete([parts[0].name])
    for _ in range(2):
        output.tidy(folder)
        tag(folder, done, output.unfinished(folder, done))
        assert status.verify(folder) == []
        assert sorted(ids(folder)) == sorted(rows)
        assert {part.name for part in output.parts(folder)[0]} == {*folder.names("chunks")}


def test_retried_clips_cut_off_between_chunks_and_part_are_mended(
    folder: Folder, done: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = output.to_retry(folder, done)
    write = tags.write_part

    def cut(folder: Folder, name: str, rows: pa.Table) -> None:
        if not name.startswith("chunks/"):
            raise KeyboardInterrupt
        write(folder, name, rows)

    monkeypatch.setattr(tags, "write_part", cut)
    with pytest.raises(KeyboardInterrupt):
        tag(folder, done, works, bad=None)
    monkeypatch.setattr(tags, "write_part", write)
    (problem,) = status.verify(folder)  # one that mends itself: nobody is told to delete anything
    assert problem.endswith(".parquet: a retry was cut off here; the next `looptagger tag` mends it")
    output.tidy(folder)
    assert status.verify(folder) == []
    tag(folder, done, output.to_retry(folder, done), bad=None)
    assert status.verify(folder) == []
    assert not folder.read(retrying.NAME)


def test_a_part_by_another_name_of_its_own_is_a_stranger(folder: Folder, done: Record) -> None:
    for name in ("part-00000001.parquet", "part-0000001-0000001.parquet", "part-0000002-0000001.parquet"):
        os.link(folder.at("part-0000001.parquet"), folder.at(name))
    output.tidy(folder)
    assert len(output.parts(folder)[0]) == 3
    assert len([problem for problem in status.verify(folder) if "is no part" in problem]) == 3


def test_parts_that_overlap_and_parts_of_another_model_are_found(folder: Folder, done: Record) -> None:
    first, second, third = (part.name for part in output.parts(folder)[0])
    rows = {name: tags.read_part(folder, name) for name in (first, second, third)}
    other = rows[third].set_column(
        rows[third].schema.get_field_index("model"),
        rows[third].schema.field("model"),
        pa.array(["m@2"] * rows[third].num_rows).dictionary_encode(),
    )
    tags.write_part(folder, third, other)
    assert [problem.split(";")[0] for problem in status.verify(folder)] == [f"{third}: was made with m@2, not with m@1"]
    tags.write_part(folder, third, rows[third])
    for sub in ("", "chunks/"):
        pieces = [tags.read_part(folder, sub + name) for name in (first, second, third)]
        tags.write_part(folder, sub + tags.Part(0, 1).name, pa.concat_tables(pieces[:2]))
        tags.write_part(folder, sub + tags.Part(1, 2).name, pa.concat_tables(pieces[1:]))
        folder.delete([sub + name for name in (first, second, third)])
    (problem,) = status.verify(folder)
    assert problem.startswith(f"{tags.Part(1, 2).name}: holds shards that the part before it has, too")


@pytest.mark.parametrize(
    "last",
    ["_measured", "_read", "write", "delete"],
    ids=["measures", "reads", "has joined", "has deleted"],
)
def test_a_compaction_that_is_taken_over_touches_nothing_more(
    folder: Folder, done: Record, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Each step takes minutes on a store: the output may be another job's by the next one."""
    import looptagger.archive.compact as module

    place: Any = module if last.startswith("_") else Folder
    name = {"write": "_write_local", "delete": "_delete"}.get(last, last)
    lost, late = threading.Event(), list[Any]()

    def step(*of: Any) -> Any:
        found = work(*of)
        lost.set()
        return found

    def check() -> None:
        if lost.is_set():
            raise UserError("another job took this one for dead")

    ours = replace(folder, check=check)
    for changing, of in ((Folder, "_write_local"), (ours.fs, "rm_file")):
        then = getattr(changing, of)
        monkeypatch.setattr(
            changing, of, lambda *of, then=then: (late.append(of) if lost.is_set() else 0, then(*of))[1]
        )
    work = getattr(place, name)
    monkeypatch.setattr(place, name, step)
    with pytest.raises(UserError, match="took this one for dead"):
        compact(ours)
    assert late == []


def test_an_overwrite_that_is_taken_over_deletes_no_more(
    folder: Folder, done: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(range(2))

    def check() -> None:
        if next(left, None) is None:
            raise UserError("another job took this one for dead")

    before = len(folder.names())
    with pytest.raises(UserError, match="took this one for dead"):
        growing._clear_parts(replace(folder, check=check))
    assert len(folder.names()) == before - 1


def test_chunks_that_a_cut_off_overwrite_left_joined_do_not_hide_new_ones(folder: Folder, done: Record) -> None:
    compact(folder)
    folder.delete([name for name in folder.names() if name.startswith("part-")])  # and then the machine went down
    output.tidy(folder)
    tag(folder, done, output.unfinished(folder, done), bad=None)
    output.tidy(folder)
    assert folder.names("chunks") == [name for name in folder.names() if name.startswith("part-")]
    assert status.verify(folder) == []


def test_an_outage_is_no_fault_of_the_parts(folder: Folder, done: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.filesystem("memory").put(folder.path, "/away", recursive=True)
    store = Folder("memory://away")
    assert status.verify(store) == []

    def away(*_: object, **__: object) -> None:
        raise OSError(errno.EBUSY, "SlowDown")

    monkeypatch.setattr(status.tags.pq, "read_table", away)
    with pytest.raises(Unreachable, match="part-0000000.parquet: cannot be reached"):
        status.verify(store)
    assert len(status.verify(folder)) == 3  # on a disk, what cannot be read is these parts' own
    monkeypatch.setattr(manifest.pq, "read_schema", away)
    with pytest.raises(Unreachable, match="manifest/000000.parquet: cannot be reached"):
        output.output_schema(store, done)


def test_rows_are_put_into_their_places_slice_by_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "TAKEN_ROWS", 3)
    old, new = pa.table({"x": [f"old {i}" for i in range(10)]}), pa.table({"x": ["a", "b", "c"]})
    found = writer._replaced(old, new, np.array([9, 0, 4]))["x"].to_pylist()
    assert found == ["b", *(f"old {i}" for i in (1, 2, 3)), "c", *(f"old {i}" for i in (5, 6, 7, 8)), "a"]


def test_chunks_of_no_part_go_also_where_another_part_has_none(folder: Folder, done: Record) -> None:
    compact(folder)
    (joined,) = folder.names("chunks")
    data = folder.read(f"chunks/{joined}") or b""
    folder.delete([joined])
    tag(folder, done, output.unfinished(folder, done))
    folder.delete(["part-0000002.parquet", "chunks/part-0000001.parquet"])
    folder.write(f"chunks/{tags.Part(7, 9).name}", data)
    output.tidy(folder)
    assert output.chunked(folder) == {tags.Part(0, 0), tags.Part(0, 2)}, "part 1's own may be in the latter"
    assert any(f"chunks/{tags.Part(1, 1).name}: is gone" in problem for problem in status.verify(folder))


def test_an_output_in_anothers_chunks_is_left_alone(tmp_path: Path) -> None:
    manifest_ = write_manifest(tmp_path / "m.csv", range(9))
    inner, outer = Folder(str(tmp_path / "out" / "chunks")), Folder(str(tmp_path / "out"))
    record = prepare(inner, request(manifest_))
    tag(inner, record, output.unfinished(inner, record))
    plain = replace(request(manifest_), identity={**IDENTITY, "chunks": False})
    for wanted in (request(manifest_), plain):
        with pytest.raises(UserError, match="holds chunks/part-0000000.parquet, which is no output of ours"):
            prepare(outer, wanted)
    assert status.verify(inner) == []


def test_many_small_batches_are_regrouped() -> None:
    tables = [pa.table({"x": pa.array([i] * (i % 3), pa.int64())}) for i in range(20)]
    found = list(tags.regrouped(iter(tables), 6))
    assert [table.num_rows for table in found] == [6, 6, 6, 1]
    assert pa.concat_tables(found) == pa.concat_tables(tables)
    assert [table.num_rows for table in tags.regrouped([pa.table({"x": range(14)})], 6)] == [6, 6, 2]
    assert list(tags.regrouped([pa.table({"x": [1]}).slice(1)], 6)) == []


def test_chunks_of_no_part_stay_where_a_part_has_none(folder: Folder, done: Record) -> None:
    """As where somebody has put parts back that were there before they were joined: theirs are among those."""
    kept = {name: folder.read(name) or b"" for name in folder.names() if name.startswith("part-")}
    compact(folder)
    (joined,) = folder.names("chunks")
    folder.delete([joined])
    for name, data in kept.items():
        folder.write(name, data)
    output.tidy(folder)
    assert folder.names("chunks") == [joined]
    absent, *_, strange = sorted(status.verify(folder), key=lambda problem: "of no part" in problem)
    assert "part-0000000.parquet: is gone; delete the part of that name" in absent
    assert strange.startswith(f"chunks/{joined}: is of no part")
    folder.delete(kept)
    output.tidy(folder)
    tag(folder, done, output.unfinished(folder, done))
    assert status.verify(folder) == []


def pq_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def test_verify_finds_torn_and_foreign_parts(folder: Folder, done: Record) -> None:
    whole = folder.read("part-0000001.parquet") or b""
    folder.write("part-0000001.parquet", whole[:-30])
    assert "not a whole Parquet file" in status.verify(folder)[0]
    rows, found = pq.read_table(io.BytesIO(whole)), 0
    for place in range(8, len(whole) // 2, 40):  # a bit that a disk turned
        folder.write("part-0000001.parquet", whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        if problems := status.verify(folder):
            found += "part-0000001.parquet: not a whole Parquet file" in problems[0]
        else:  # in what tells of a page, not in what it holds
            assert tags.read_part(folder, "part-0000001.parquet") == rows, place
    assert found > 20
    folder.write("part-0000001.parquet", folder.read("part-0000000.parquet") or b"")
    assert "does not hold just its rows" in status.verify(folder)[0]
    pq.write_table(
        pq.read_table(folder.at("part-0000002.parquet")).drop_columns(["bpm"]), folder.at("part-0000001.parquet")
    )
    assert "another schema" in status.verify(folder)[0]
    folder.write("mine.parquet", whole)
    folder.write("chunks/part-1.parquet", whole)
    folder.write("._part-0000001.parquet", b"")
    for number in (7, 9):
        folder.write(f"part-000000{number}.parquet", whole)
    folder.delete(["part-0000000.parquet"])
    assert [problem.partition(":")[0] for problem in status.verify(folder)[-4:]] == [
        "part-0000007.parquet",
        "part-0000009.parquet",
        "shards 0 to 0 are not tagged yet; run the same `looptagger tag` command to go on",
        "chunks/part-0000000.parquet",
    ]
    assert [problem.partition(":")[0] for problem in status.verify(folder)[:2]] == [
        "mine.parquet",
        "chunks/part-1.parquet",
    ]


def test_parts_that_are_not_as_they_should_be_are_sentences(folder: Folder, done: Record) -> None:
    whole = folder.read("part-0000000.parquet") or b""
    folder.write("part-0000007.parquet", whole)
    assert "part-0000007.parquet: holds shards that the manifest has not" in status.verify(folder)[-1]
    folder.delete(["part-0000007.parquet"])
    works = output.to_retry(folder, done)
    folder.delete(["chunks/part-0000000.parquet"])
    with pytest.raises(UserError, match="part-0000000.parquet: is gone; delete the part of that name"):
        tag(folder, done, works, bad=None)
    folder.write("part-0000000.parquet", pq_bytes(pq.read_table(io.BytesIO(whole)).slice(1)))
    folder.delete([counts.NAME])
    with pytest.raises(UserError, match="part-0000000.parquet: does not hold just its rows"):
        output.to_retry(folder, done)


def test_a_run_s_record_that_is_cut_off_is_passed_over(folder: Folder, done: Record) -> None:
    before = status.status(folder).runs
    folder.write("_run/run-1.json", b'{"started": "20')
    folder.write("_run/run-2.json", b"[1]")
    assert status.status(folder).runs == before


def test_verify_looks_at_chunks_too(folder: Folder, done: Record) -> None:
    name = "chunks/part-0000001.parquet"
    whole = folder.read(name) or b""
    for wrong, says in (
        (b"junk", "not a whole Parquet file"),
        (folder.read("chunks/part-0000000.parquet") or b"", "does not hold just the chunks of its clips"),
        (folder.read("part-0000001.parquet") or b"", "another schema"),
    ):
        folder.write(name, wrong)
        (problem,) = status.verify(folder)
        assert name in problem
        assert says in problem
    folder.delete([name])
    assert status.verify(folder) == [f"{name}: {tags.ABSENT}"]
    with pytest.raises(UserError, match=f"{name}: is gone"):
        compact(folder)
    folder.write(name, pq_bytes(pq.read_table(io.BytesIO(whole)).slice(1)))
    assert "does not hold just the chunks" in status.verify(folder)[0]
    with lock.held(folder):
        assert "is writing there: what follows may be of this moment" in status.verify(folder)[0]
    folder.write(name, whole)
    assert status.verify(folder) == []


def test_update_adds_what_is_new(folder: Folder, done: Record, tmp_path: Path) -> None:
    more = write_manifest(tmp_path / "m.csv", range(5, 14))
    record = prepare(folder, request(more, update=True))
    assert record.rows == 14
    tag(folder, record, output.unfinished(folder, record))
    assert sorted(ids(folder)) == sorted(f"clip{i}" for i in range(14))
    assert status.verify(folder) == []
    assert prepare(folder, request(more, update=True)).rows == 14


def test_a_known_id_for_another_file_is_refused(folder: Folder, done: Record, tmp_path: Path) -> None:
    """Of two months' manifests that both count from 0, the second would be taken for the first again."""
    (tmp_path / "feb.csv").write_text("id,uri,bpm\nclip3,/feb/3.wav,1\n")
    refused(folder, request(tmp_path / "feb.csv", update=True), "the id 'clip3' stands for another file .* /feb/3.wav;")
    assert output.load(folder) == done
    (tmp_path / "twice.csv").write_text("id,uri,bpm\nclip3,/x/3.wav,1\nnew,/x/n.wav,1\nclip3,/x/3.wav,1\n")
    refused(folder, request(tmp_path / "twice.csv", update=True), "the id 'clip3' comes twice")
    (tmp_path / "new.csv").write_text("id,uri,bpm\nclip3,/x/3.wav,1\nn,/n,1\nm,/m,1\nn,/o,1\n")
    refused(folder, request(tmp_path / "new.csv", update=True), r"the id 'n' comes twice \(new rows 1 and 3\)")
    assert status.verify(folder) == []


def test_what_is_refused_whole_is_refused_after_a_trial(folder: Folder, tmp_path: Path) -> None:
    source = write_manifest(tmp_path / "m.csv", range(20))
    source.write_text(source.read_text() + "clip4,/x/other.wav,1\n")
    prepare(folder, request(source, limit=5))
    refused(folder, request(source), "the id 'clip4' stands for another file")


def test_a_limit_on_an_update_makes_no_trial(folder: Folder, done: Record, tmp_path: Path) -> None:
    source = write_manifest(tmp_path / "m.csv", range(12))
    assert prepare(folder, request(source, update=True, limit=3)).limit is None
    assert prepare(folder, request(source)).rows == 12, "all is listed, and without a limit the rest follows"


def test_a_manifest_file_that_is_missing_is_a_sentence(folder: Folder, done: Record) -> None:
    folder.delete([done.files[0].name])
    for fault in (lambda: output.output_schema(folder, done), lambda: status.verify(folder)):
        with pytest.raises(UserError, match=r"000000.parquet: is missing, or cannot be read whole; put it back"):
            fault()


def test_limit_then_the_rest(folder: Folder, tmp_path: Path) -> None:
    source = write_manifest(tmp_path / "m.csv", range(10))
    record = prepare(folder, request(source, limit=3))
    assert record.rows == 3
    tag(folder, record, output.unfinished(folder, record))
    assert prepare(folder, request(source, limit=2)).rows == 3
    assert prepare(folder, request(source, limit=6)).rows == 6
    record = prepare(folder, request(source))
    assert record.rows == 10
    tag(folder, record, output.unfinished(folder, record))
    assert sorted(ids(folder)) == sorted(f"clip{i}" for i in range(10))


def test_a_limit_on_a_larger_manifest_takes_its_first_shards(folder: Folder, tmp_path: Path) -> None:
    record = prepare(folder, request(write_manifest(tmp_path / "m.csv", range(10))))
    assert prepare(folder, request(tmp_path / "m.csv", limit=5)).rows == 10
    assert [work.shard.first for work in output.unfinished(folder, record)] == [0, 4, 8]


def test_overwrite_starts_anew_and_touches_nothing_else(folder: Folder, done: Record, tmp_path: Path) -> None:
    folder.write("mine.txt", b"keep")
    folder.write("_run/run-20261129T2200.json", b'{"clips": 10, "seconds": 1, "started": "then"}')
    assert status.status(folder).clips_per_s == 10
    other = Request({**IDENTITY, "model": "m@2"}, (str(write_manifest(tmp_path / "n.csv", range(2))),), overwrite=True)
    record = prepare(folder, other)
    assert record.rows == 2
    assert len(output.unfinished(folder, record)) == 1
    assert sorted(os.listdir(folder.path)) == ["_run", "chunks", "mine.txt"]
    assert status.runs(folder) == []


def test_overwrite_that_was_stopped_goes_on(folder: Folder, done: Record, tmp_path: Path) -> None:
    again = request(write_manifest(tmp_path / "n.csv", range(10)), overwrite=True)
    record = prepare(folder, again)
    tag(folder, record, output.unfinished(folder, record)[:2])
    assert prepare(folder, again) == record
    fresh = Folder(str(tmp_path / "fresh"))  # also where nothing was there
    begun = prepare(fresh, again)
    tag(fresh, begun, output.unfinished(fresh, begun)[:1])
    assert len(output.unfinished(fresh, prepare(fresh, again))) == 2
    assert len(output.unfinished(folder, record)) == 1
    assert prepare(folder, replace(again, limit=9)) != record, "another command starts anew"
    assert prepare(folder, replace(again, identity={**IDENTITY, "model": "m@2"})).identity["model"] == "m@2"
    record = prepare(folder, again)
    tag(folder, record, output.unfinished(folder, record))
    assert len(output.unfinished(folder, prepare(folder, again))) == 3, "so does the same one, where all was tagged"


def test_overwrite_keeps_the_old_output_until_the_new_sources_are_listed(
    folder: Folder, done: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ids(folder)
    refused(folder, request(tmp_path / "typo", overwrite=True), "no such file or folder")
    folder.write("mine.parquet", b"keep")
    refused(folder, request(tmp_path / "m.csv", overwrite=True), "holds mine.parquet, which is no output of ours")
    folder.delete(["mine.parquet"])
    assert output.load(folder) == done
    assert (ids(folder), status.verify(folder)) == (before, [])

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    other = request(write_manifest(tmp_path / "n.csv", range(3)), overwrite=True)
    with monkeypatch.context() as patched:
        patched.setattr(growing, "save", cut)  # the parts are gone, the new record is not there
        with pytest.raises(KeyboardInterrupt):
            prepare(folder, other)
    assert output.load(folder) == done
    output.tidy(folder)
    assert status.status(folder).left == done.rows
    record = prepare(folder, other)
    assert record.rows == 3
    assert {f"_run/manifest/{name}" for name in folder.names("_run/manifest")} == {file.name for file in record.files}
    for first in (3, 5):  # names that are taken are not taken again
        more = write_manifest(tmp_path / f"{first}.csv", range(first, first + 2))
        record = prepare(folder, request(more, update=True))
    assert len({file.name for file in record.files}) == 3
    tag(folder, record, output.unfinished(folder, record))
    assert status.verify(folder) == []


def test_an_update_that_fails_takes_back_its_own_files_only(folder: Folder, done: Record, tmp_path: Path) -> None:
    """A killed write leaves a temporary file, whose name comes before the others'."""
    folder.write("_run/manifest/.000000.parquet.7.tmp", b"half")
    refused(folder, request(tmp_path / "typo", update=True), "no such file or folder")
    assert status.verify(folder) == []
    folder.write("_run/manifest/.000000.parquet.7.tmp", b"half")
    folder.write("_run/.counts.json.7.tmp", b"half")
    output.tidy(folder)
    assert not [name for sub in ("_run", "_run/manifest") for name in folder.names(sub) if name.endswith(".tmp")]


def test_the_rest_of_a_trial_comes_with_what_is_added(folder: Folder, tmp_path: Path) -> None:
    first, more = write_manifest(tmp_path / "a.csv", range(10)), write_manifest(tmp_path / "b.csv", range(10, 14))
    assert prepare(folder, request(first, limit=3)).rows == 3
    record = prepare(folder, request(more, update=True))
    assert (record.rows, record.limit, record.sources) == (14, None, (str(first), str(more)))
    assert prepare(folder, request(first, more)).rows == 14


def test_what_is_added_to_a_trial_may_hold_its_clips(folder: Folder, tmp_path: Path) -> None:
    first, newer = write_manifest(tmp_path / "a.csv", range(10)), write_manifest(tmp_path / "b.csv", range(14))
    assert prepare(folder, request(first, limit=3)).rows == 3
    assert prepare(folder, request(newer, update=True)).rows == 14


def test_a_trial_that_cut_nothing_off_needs_its_sources_no_more(folder: Folder, tmp_path: Path) -> None:
    first, more = write_manifest(tmp_path / "a.csv", range(2)), write_manifest(tmp_path / "b.csv", range(10, 14))
    assert prepare(folder, request(first, limit=3)).rows == 2
    first.unlink()
    assert prepare(folder, request(more, update=True)).rows == 6


def test_a_trial_of_a_manifest_with_times_goes_on(folder: Folder, tmp_path: Path) -> None:
    """They are in seconds in CSV and JSON, in milliseconds when they come back from Parquet."""
    source = tmp_path / "m.csv"
    source.write_text("uri,created\n" + "".join(f"/{i}.wav,2024-01-02 03:04:0{i}\n" for i in range(6)))
    assert prepare(folder, request(source, limit=2)).rows == 2
    assert prepare(folder, request(source)).rows == 6
    assert prepare(folder, request(source, update=True)).rows == 6


def test_reading_begins_again_where_a_part_has_gone(
    folder: Folder, done: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = iter([True, True, False])
    read = tags.read_part

    def reading(*what: Any) -> pa.Table:
        if next(gone, False):
            raise FileNotFoundError
        return read(*what)

    monkeypatch.setattr(tags, "read_part", reading)
    assert preview.head(folder, 3).num_rows == 3
    gone = iter([True] * 1000)
    with pytest.raises(UserError, match="are being joined"):
        preview.head(folder, 3)


def test_large_parts_are_read_one_at_a_time(folder: Folder, done: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each can be a million rows: sixteen of them ahead, as of small ones, would not fit into a laptop's memory."""
    asked: list[str] = []
    read = tags.read_part
    monkeypatch.setattr(tags, "read_part", lambda folder, name, *more: asked.append(name) or read(folder, name, *more))
    first, *others = [part.name for part in output.parts(folder)[0]]
    assert preview.head(folder, 1).num_rows == 1
    assert len(asked) > 1
    os.rename(
        folder.at(others[-1]), folder.at(tags.Part(len(others), len(others) + 1).name)
    )  # as a joined one is named
    asked.clear()
    assert preview.head(folder, 1).num_rows == 1
    assert asked == [first]


def test_rows_are_shown_by_a_role_and_as_csv(folder: Folder, done: Record) -> None:
    every = preview.head(folder, 1000)
    rows = [row for row in every.to_pylist() if row["status"] == "ok"]
    best = [row["id"] for row in sorted(rows, key=lambda row: -row["fx"])]
    assert preview.head(folder, 4, "fx").column("id").to_pylist() == best[:4]
    assert best[:2] == ["clip7", "clip4"], "neither the first rows nor the last"
    file = io.BytesIO()
    preview.write_csv(folder, file)
    rows = list(csv.DictReader(io.StringIO(file.getvalue().decode())))
    assert [row["id"] for row in rows] == every.column("id").to_pylist()
    assert [float(row["fx"] or -1) for row in rows] == every.column("fx").fill_null(-1).to_pylist()
    roles = every.column("roles").to_pylist()
    assert [row["roles"] for row in rows] == ["" if each is None else " ".join(each) for each in roles]
    assert [row["status"] for row in rows] == every.column("status").to_pylist()
    for part in output.parts(folder)[0]:
        folder.delete([part.name])
    preview.write_csv(folder, empty := io.BytesIO())
    assert empty.getvalue() == file.getvalue().splitlines(keepends=True)[0]


def test_a_manifests_columns_are_in_the_csv(folder: Folder, tmp_path: Path) -> None:
    """Text is what it is there, too; lists and bytes are left out."""
    rows = [
        {
            "id": f"clip{i}",
            "uri": f"/x/{i}.wav",
            "=bpm": i / 2,
            "pack": pack,
            "word": pack,
            "many": [i],
            "md5": b"\xff",
            "day": date(2026, 11, 1 + i),
        }
        for i, pack in enumerate(["one", "=1+1", None])
    ]
    table = pa.Table.from_pylist(rows)
    table = table.set_column(4, "word", table.column("word").dictionary_encode())
    pq.write_table(table, tmp_path / "m.parquet")
    record = prepare(folder, request(tmp_path / "m.parquet"))
    preview.write_csv(folder, empty := io.BytesIO())
    tag(folder, record, output.unfinished(folder, record))
    preview.write_csv(folder, file := io.BytesIO())
    said = list(csv.DictReader(io.StringIO(file.getvalue().decode())))
    assert empty.getvalue() == file.getvalue().splitlines(keepends=True)[0]
    assert list(said[0]) == [*preview.PLAIN, "'=bpm", "pack", "word", "day"]
    assert [(row["'=bpm"], row["pack"], row["word"], row["day"]) for row in said] == [
        ("0", "one", "one", "2026-11-01"),
        ("0.5", "'=1+1", "'=1+1", "2026-11-02"),
        ("1", "", "", "2026-11-03"),
    ]


def refused(folder: Folder, wanted: Request, says: str) -> None:
    with pytest.raises(UserError, match=says):
        prepare(folder, wanted)


def test_another_run_is_refused_with_what_differs(folder: Folder, done: Record, tmp_path: Path) -> None:
    source = tmp_path / "m.csv"
    refused(folder, Request({**IDENTITY, "model": "m@2"}, (str(source),)), "made with model m@1, now it is m@2")
    refused(folder, request(write_manifest(tmp_path / "n.csv", range(2))), "holds the tags of .*m.csv; add --update")
    without_chunks = Request({**IDENTITY, "chunks": False}, (str(source),))
    refused(folder, without_chunks, "was made with --chunks; add it, choose another output, or add --overwrite")
    with_embeddings = Request({**IDENTITY, "embedding_size": 8}, (str(source),))
    refused(folder, with_embeddings, "was made without --embeddings; leave it out, choose another output,")
    assert status.verify(folder) == []


def test_refusals_leave_nothing_behind(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "twice.csv").write_text("id,uri\n1,/a\n2,/b\n1,/c\n")
    refused(folder, request(tmp_path / "twice.csv"), r"the id '1' comes twice \(rows 1 and 3\)")
    (tmp_path / "taken.csv").write_text("uri,bass\n/a,1\n")
    refused(folder, request(tmp_path / "taken.csv"), "column 'bass' has a name that looptagger uses")
    (tmp_path / "Taken.csv").write_text("uri,Bass\n/a,1\n")
    refused(folder, request(tmp_path / "Taken.csv"), "column 'Bass' has a name that looptagger uses")
    (tmp_path / "cased.csv").write_text("uri,BPM,bpm\n/a,1,1\n")
    refused(folder, request(tmp_path / "cased.csv"), "columns 'BPM' and 'bpm' are one to query engines; rename one")
    (tmp_path / "header.csv").write_text("id,uri\n")
    refused(folder, request(tmp_path / "header.csv"), "header.csv: the manifest has no rows")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.txt").write_text("x")
    refused(folder, request(tmp_path / "empty"), "no audio files found among the 1 files there")
    assert not os.path.exists(folder.path)


def test_folders_with_other_tables_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "sales.parquet")
    refused(Folder(str(tmp_path)), request(write_manifest(tmp_path / "m.csv", range(1))), "sales.parquet")
    assert sorted(os.listdir(tmp_path)) == ["m.csv", "sales.parquet"]  # nothing of ours is left there


def test_an_output_without_its_record_is_refused_and_kept(folder: Folder, done: Record, tmp_path: Path) -> None:
    record = folder.read(output.RECORD) or b""
    folder.delete([output.RECORD])
    refused(folder, request(tmp_path / "m.csv"), "no output of ours")
    folder.write(output.RECORD, record)
    assert status.verify(folder) == []


def test_a_strange_record_is_refused(folder: Folder) -> None:
    folder.write(output.RECORD, b'{"format": 7}')
    with pytest.raises(UserError, match="not a record of this looptagger"):
        output.load(folder)


def _hold(path: str, ready: Any, go: Any) -> None:
    with lock.held(Folder(path)):
        ready.set()
        go.wait()


def test_a_second_writer_is_refused_until_the_first_is_gone(folder: Folder) -> None:
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    first = context.Process(target=_hold, args=(folder.path, ready, go))
    first.start()
    assert ready.wait(60)
    with pytest.raises(UserError, match=f"process {first.pid} on .* is writing there"), lock.held(folder):
        pass
    assert str(first.pid) in (lock.holder(folder) or "")
    first.kill()
    first.join()
    assert lock.holder(folder) is None
    with lock.held(folder):
        pass


def test_who_asks_for_the_holder_does_not_keep_a_job_out(folder: Folder) -> None:
    with lock.held(folder):
        pass
    with open(folder.at(lock.NAME), "rb") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        done = threading.Timer(lock.ASKED_S, lambda: fcntl.flock(asking, fcntl.LOCK_UN))
        done.start()
        with lock.held(folder):
            pass
        done.join()


def test_a_lock_whose_file_is_taken_away_is_asked_for_anew(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.flock

    def late(file: Any, how: int) -> None:
        real(file, how)
        if not how & fcntl.LOCK_SH and not taken:
            taken.append(os.unlink(folder.at(lock.NAME)))

    taken: list[None] = []
    monkeypatch.setattr(fcntl, "flock", late)
    with lock.held(folder):
        assert taken
        assert str(os.getpid()) in (lock.holder(folder) or "")


def test_an_output_that_took_the_place_of_another_is_left_alone(folder: Folder, tmp_path: Path) -> None:
    with lock.held(folder) as ours:
        ours.write("x", b"ours")
        os.rename(folder.at(lock.NAME), tmp_path / "lock")
        with pytest.raises(UserError, match="its lock was deleted, _run/lock.json; run the same command again"):
            ours.write("x", b"ours")
        os.rename(tmp_path / "lock", folder.at(lock.NAME))
        os.rename(folder.path, tmp_path / "old")
        with pytest.raises(UserError, match="is gone; put it back"):
            ours.write("x", b"ours")
        assert not Path(folder.path).exists()
        Path(folder.path).touch()
        ours.check()  # what is written says that it is a file
        Path(folder.path).unlink()
        moved = "was moved or deleted, and another is there by now; run the same command again"
        with lock.held(folder):
            for change in (lambda: ours.write("x", b"ours"), lambda: ours.delete([lock.NAME])):
                with pytest.raises(UserError, match=moved):
                    change()


@pytest.mark.parametrize("what", ["part", "manifest"])
def test_what_waited_for_the_store_is_not_written_to_anothers_output(
    what: str, folder: Folder, done: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    def check() -> None:
        if tries:
            raise UserError("another job took this one for dead")

    def away(self: Folder, name: str, data: bytes) -> None:
        tries.append(name)
        raise ClientConnectionError("the store is away")

    folder.delete([output.parts(folder)[0][0].name])
    ours = replace(folder, check=check)
    writer = PartWriter(ours, output.unfinished(folder, done), output.output_schema(folder, done), True)
    monkeypatch.setattr(Folder, "_write_local", away)
    monkeypatch.setattr(patience.time, "sleep", lambda _: None)
    anew = request(write_manifest(tmp_path / "new.csv", range(9)), overwrite=True)
    write = {
        "part": lambda: writer.add(tagged(folder, writer.works[0])),
        "manifest": lambda: growing.prepare(ours, anew),
    }
    with pytest.raises(UserError, match="took this one for dead"):
        write[what]()
    assert len(tries) == 1


def test_who_overwrites_and_is_taken_for_dead_stores_no_record(
    folder: Folder, done: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[bool] = []
    clear = growing._clear_parts
    monkeypatch.setattr(growing, "_clear_parts", lambda *all: gone.append(True) or clear(*all))

    def check() -> None:
        if gone and not output.parts(folder)[0]:
            raise UserError("another job took this one for dead")

    anew = request(write_manifest(tmp_path / "n.csv", range(9)), overwrite=True)
    with pytest.raises(UserError, match="took this one for dead"):
        growing.prepare(replace(folder, check=check), anew)
    assert output.load(folder) == done


def test_a_file_system_without_locks(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: Any, how: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match="this file system locks no files .*; mount it with flock"), lock.held(folder):
        pass
    assert lock.holder(folder) is None


def test_some_of_an_outputs_sources_go_on_with_all(folder: Folder, done: Record, tmp_path: Path) -> None:
    more = write_manifest(tmp_path / "more.csv", range(20, 23))
    both = prepare(folder, request(more, update=True))
    assert prepare(folder, request(more)) == both
    assert prepare(folder, request(*done.sources)) == both
    refused(folder, request(tmp_path / "another.csv"), "add --update")


def test_shard_sizes_and_slices(folder: Folder, tmp_path: Path) -> None:
    assert [manifest.default_shard_rows(n) for n in (1, 165, 1000, 10_000, 10_000_000)] == [8, 8, 8, 128, 1024]
    record = prepare(folder, request(write_manifest(tmp_path / "m.csv", range(70_000)), shard_rows=1000))
    assert [file.rows for file in record.files] == [65_536, 4_464]
    shards = manifest.shards(record.files)
    assert len(shards) == 66 + 5
    got = [clip for shard in shards for clip in manifest.read(folder, shard).column("id").to_pylist()]
    assert got == [f"clip{i}" for i in range(70_000)]
    assert [shard.first for shard in shards] == [0, *np.cumsum([shard.rows for shard in shards])[:-1]]
    folder.write(shards[-1].file, b"PAR1")
    for lose in (lambda: None, lambda: folder.delete([shards[-1].file])):
        lose()
        with pytest.raises(UserError, match=rf"{shards[-1].file}: is missing, or cannot be read whole; put it back"):
            manifest.read(folder, shards[-1])


def test_kept_counts_are_what_the_parts_say(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "out"))
    record = prepare(folder, request(write_manifest(tmp_path / "m.csv", range(20))))
    schema = output.output_schema(folder, record)

    def write(works: list[Work], bad: int | None) -> None:
        writer = PartWriter(folder, works, schema, chunks=True)
        for work in works:
            writer.add(tagged(folder, work, bad))
        writer.keeper.save()

    write(output.unfinished(folder, record), 3)
    assert counts.load(folder) == {
        part.name: counts.of(pq.read_table(folder.at(part.name))["status"]) for part in live(folder)
    }
    assert status.status(folder).by_status == {"ok": 18, "missing": 2}
    failed = output.to_retry(folder, record)
    assert [work.rows for work in failed] == [1, 1]
    PartWriter(folder, failed, schema, chunks=True)  # a job that is killed at once
    assert not {work.part for work in failed} & set(counts.load(folder))
    assert status.status(folder).by_status == {"ok": 18, "missing": 2}
    write(failed, None)
    assert status.status(folder).by_status == {"ok": 20}
    compact(folder)
    assert status.status(folder).by_status == {"ok": 20}
    for nonsense in (b"{", b"[1]", json.dumps({"part-0000000.parquet": 3}).encode()):
        folder.write(counts.NAME, nonsense)
        assert status.status(folder).by_status == {"ok": 20}


def live(folder: Folder) -> list[tags.Part]:
    return output.parts(folder)[0]
