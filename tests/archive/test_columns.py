"""What columns of a manifest become: as given, in one type for all rows, sources and updates."""

import json
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from looptagger.archive import columns, manifest
from looptagger.archive.growing import Request, prepare
from looptagger.archive.manifest import Shard
from looptagger.archive.sources import open_sources
from looptagger.archive.storage import Folder
from looptagger.config import Storage
from looptagger.errors import UserError


def listed(path: Path, text: str | None = None) -> list[dict[str, Any]]:
    """The rows of a manifest."""
    if text is not None:
        path.write_text(text)
    (listing,) = open_sources([str(path)], Storage())
    return [row for batch in listing.batches() for row in batch.to_pylist()]


def frozen(folder: Folder, path: Path, before: list[manifest.ManifestFile], text: str = "") -> list[dict[str, Any]]:
    """The rows that a manifest adds to an output, which then holds them."""
    if text:
        path.write_text(text)
    files = manifest.freeze(folder, open_sources([str(path)], Storage()), before=before)
    before += files
    return [row for file in files for row in manifest.read(folder, Shard(file.name, 0, file.rows, 0)).to_pylist()]


@pytest.mark.parametrize("longer", range(0, 31, 6))
def test_quoted_lines_stay_in_their_row(tmp_path: Path, longer: int) -> None:
    """Arrow reads blocks of a megabyte, which end anywhere: also inside a text that breaks a line."""
    text = "".join(f'/x/{i:06d}.wav,"aaaaaaaaaa\nbbb,ccc"\n' for i in range(60_000))
    rows = listed(tmp_path / "m.csv", f"uri,text\n{'/' * longer}{text}")
    assert len(rows) == 60_000
    assert {row["text"] for row in rows} == {"aaaaaaaaaa\nbbb,ccc"}


def test_whole_numbers_of_64_bits_keep_their_digits(tmp_path: Path) -> None:
    late = "".join(f"/{i}.wav,9007199254740993\n" for i in range(60_000))  # more than Arrow's first block
    for first in ("", late):
        rows = listed(tmp_path / "m.csv", f"uri,hash\n{first}/a.wav,9007199254740993\n/b.wav,18446744073709551615\n")
        assert [row["hash"] for row in rows][-2:] == [2**53 + 1, 2**64 - 1]
    assert [row["n"] for row in listed(tmp_path / "m.csv", "uri,n\n/a.wav,-5\n/b.wav,1.5\n/c.wav,1e3\n")] == [
        -5,
        1.5,
        1e3,
    ]


@pytest.mark.parametrize(
    ("ids", "kept"),
    [
        (["2024-01-05", "2024-01-06T10:00:00Z"], ["2024-01-05", "2024-01-06T10:00:00Z"]),
        ([9876543210987654321, 5], ["9876543210987654321", "5"]),
        ([None, "x"], ["/0.wav", "x"]),
        ([1.0, None, 3.0], ["1", "/1.wav", "3"]),  # as pandas writes whole numbers with gaps
    ],
)
def test_ids_of_json_lines_stay_as_written(tmp_path: Path, ids: list[Any], kept: list[str]) -> None:
    lines = [json.dumps({"id": each, "uri": f"/{i}.wav"}) for i, each in enumerate(ids)]
    assert [row["id"] for row in listed(tmp_path / "m.jsonl", "\n".join(lines))] == kept


def test_columns_that_one_source_requires_and_another_lacks(tmp_path: Path) -> None:
    required = pa.schema([pa.field("uri", pa.string(), nullable=False), pa.field("bpm", pa.int64(), nullable=False)])
    pq.write_table(pa.table({"uri": ["/a.wav"], "bpm": [90]}, schema=required), tmp_path / "one.parquet")
    (tmp_path / "other.csv").write_text("uri\n/b.wav\n")
    folder = Folder(str(tmp_path / "out"))
    files = manifest.freeze(folder, open_sources([f"{tmp_path}/one.parquet", f"{tmp_path}/other.csv"], Storage()))
    rows = [row for file in files for row in manifest.read(folder, Shard(file.name, 0, file.rows, 0)).to_pylist()]
    assert [row["bpm"] for row in rows] == [90, None]


def test_categories_and_dates_beside_text_are_text(tmp_path: Path) -> None:
    made = pa.array(["2024-01-05"]).cast(pa.date32())
    packs = pa.array(["breaks"]).dictionary_encode()
    pq.write_table(pa.table({"uri": ["/a.wav"], "pack": packs, "made": made}), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("uri,pack,made\n/b.wav,pads,spring\n")
    folder = Folder(str(tmp_path / "out"))
    files = manifest.freeze(folder, open_sources([f"{tmp_path}/a.parquet", f"{tmp_path}/b.csv"], Storage()))
    rows = [row for file in files for row in manifest.read(folder, Shard(file.name, 0, file.rows, 0)).to_pylist()]
    assert [(row["pack"], row["made"]) for row in rows] == [("breaks", "2024-01-05"), ("pads", "spring")]


def test_a_manifest_by_its_uri_with_escapes(tmp_path: Path) -> None:
    (tmp_path / "my man.csv").write_text("uri\na.wav\n")
    (listing,) = open_sources([f"file://{tmp_path}/my%20man.csv"], Storage())
    assert [row["uri"] for batch in listing.batches() for row in batch.to_pylist()] == [str(tmp_path / "a.wav")]


def test_ids_that_are_fractions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"m.jsonl: cannot be read as a manifest: .*1\.5"):
        listed(tmp_path / "m.jsonl", '{"id": 1.5, "uri": "/a.wav"}')


def test_more_manifests_than_a_process_may_open_files(tmp_path: Path) -> None:
    for i in range(200):
        pq.write_table(pa.table({"uri": [f"/{i}.wav"]}), tmp_path / f"part-{i:03d}.parquet")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 50, before[1]))
    try:
        listings = open_sources([str(tmp_path / "*.parquet")], Storage())
        assert sum(batch.num_rows for each in listings for batch in each.batches()) == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_views_and_columns_of_nothing_are_stored_as_text(tmp_path: Path) -> None:
    views = pa.array(["one", "two"], pa.string_view())
    nested = pa.array([["a"], ["b"]], pa.list_(pa.string()))
    table = pa.table({"uri": ["/a.wav", "/b.wav"], "view": views, "words": nested, "none": pa.nulls(2)})
    pq.write_table(table, tmp_path / "m.parquet")
    folder = Folder(str(tmp_path / "out"))
    first = frozen(folder, tmp_path / "m.parquet", files := [])
    assert [(row["view"], row["words"], row["none"]) for row in first] == [("one", ["a"], None), ("two", ["b"], None)]
    assert manifest.schema(folder, files).types[2:] == [pa.string(), pa.list_(pa.string()), pa.string()]
    views = Request({"embedding_size": 0}, (str(tmp_path / "m.parquet"),), limit=1)
    prepare(trial := Folder(str(tmp_path / "trial")), views)
    assert prepare(trial, replace(views, limit=None)).rows == 2, "rows that are there are picked out"
    kinds = pa.schema({"a": pa.list_(pa.string_view()), "b": pa.struct({"c": pa.binary_view(), "d": pa.null()})})
    assert columns.as_stored(kinds).types == [pa.list_(pa.string()), pa.struct({"c": pa.binary(), "d": pa.string()})]


def test_an_update_of_an_output_that_holds_row_numbers_of_pandas() -> None:
    old = pa.schema({"id": pa.string(), "uri": pa.string(), "__index_level_0__": pa.int64()})
    assert columns.grown("out", old, old.remove(2)) == old


def test_a_quote_that_is_not_closed_is_said(tmp_path: Path) -> None:
    rows = "".join(f"/{i}.wav,x\n" for i in range(5_000))
    with pytest.raises(UserError, match="a value of 'text' has over 1,000 lines: is a quote not closed"):
        listed(tmp_path / "m.csv", f'uri,text\n/a.wav,"open\n{rows}')


def test_row_numbers_that_pandas_stores_are_left_out(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": ["/a.wav"], "__index_level_0__": [7]}), tmp_path / "m.parquet")
    assert listed(tmp_path / "m.parquet") == [{"id": "/a.wav", "uri": "/a.wav"}]


@pytest.mark.parametrize(
    ("had", "added", "comes"),
    [("120.5", "93", 93.0), ("", "hello", "hello"), ("hello", "", None), ("120", "", None), ("2", "3", 3)],
)
def test_what_is_added_takes_the_types_that_are_there(tmp_path: Path, had: str, added: str, comes: object) -> None:
    folder, path, files = Folder(str(tmp_path / "out")), tmp_path / "m.csv", list[manifest.ManifestFile]()
    frozen(folder, path, files, f"uri,note\n/a.wav,{had}\n")
    (row,) = frozen(folder, path, files, f"note,uri\n{added},/b.wav\n")
    assert row == {"id": "/b.wav", "uri": "/b.wav", "note": comes}


def test_a_number_too_large_for_a_half_or_a_float_is_named(tmp_path: Path) -> None:
    folder, files = Folder(str(tmp_path / "out")), list[manifest.ManifestFile]()
    for name, note in (("a", pa.array([1.5, float("inf")], pa.float32())), ("b", pa.array([1e300, 2.0]))):
        pq.write_table(
            pa.table({"uri": [f"/{name}{i}.wav" for i in range(2)], "note": note}), tmp_path / f"{name}.parquet"
        )
    frozen(folder, tmp_path / "a.parquet", files)
    with pytest.raises(UserError, match="in 'note', a number is too large for float"):
        frozen(folder, tmp_path / "b.parquet", files)


@pytest.mark.parametrize(
    ("had", "added", "says"),
    [
        ("120", "93.5", r"columns do not agree: in 'note', .*93.5.*; tag them into two outputs"),
        ("120", "fast", "out: holds int64 in 'note', which is string now; choose another output"),
        ("007a", "7", "out: holds string in 'note', which is int64 now"),
        ("2024", "2024-01-05 10:00:00", "holds int64 in 'note', which is timestamp"),
        ("true", "7", "holds bool in 'note', which is int64 now"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, had: str, added: str, says: str) -> None:
    folder, path, files = Folder(str(tmp_path / "out")), tmp_path / "m.csv", list[manifest.ManifestFile]()
    frozen(folder, path, files, f"uri,note\n/a.wav,{had}\n")
    with pytest.raises(UserError, match=says):
        frozen(folder, path, files, f"uri,note\n/b.wav,{added}\n")
