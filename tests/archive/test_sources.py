import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import ClientPayloadError

from looptagger.archive import columns, disk, manifest, patterns, remote, s3, sources, text_manifests
from looptagger.archive.growing import Request, prepare
from looptagger.archive.opening import open_files
from looptagger.archive.paths import is_audio
from looptagger.archive.sources import open_sources
from looptagger.archive.storage import Folder
from looptagger.config import Limits, Storage
from looptagger.errors import UserError


def listed(*sources: object) -> list[dict[str, object]]:
    listings = open_sources([str(source) for source in sources], Storage())
    return [row for each in listings for batch in each.batches() for row in batch.to_pylist()]


def frozen(out: Path, *sources: Path) -> list[manifest.ManifestFile]:
    return manifest.freeze(Folder(str(out)), open_sources([str(source) for source in sources], Storage()))


def joint(*sources: Path) -> pa.Schema:
    return columns.joint_schema(each.schema for each in open_sources([str(source) for source in sources], Storage()))


def uris(*sources: object) -> list[str]:
    return [Path(str(row["uri"])).name for row in listed(*sources)]


def whole(*sources: object) -> list[object]:
    return [row["uri"] for row in listed(*sources)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.wav", "a.FLAC", "sub/c.ogg", "notes.txt", ".hidden.wav", "._mac.wav", ".git/x.wav", "odd.xyz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_a_folder_gives_its_audio_in_order_and_counts_the_rest(tree: Path) -> None:
    (listing,) = open_sources([str(tree)], Storage())
    rows = [row for batch in listing.batches() for row in batch.to_pylist()]
    assert [Path(row["uri"]).name for row in rows] == ["a.FLAC", "b.wav", "c.ogg"]
    assert all(row["id"] == row["uri"] and os.path.isabs(row["uri"]) for row in rows)
    assert listing.skipped == {".txt": 1, "hidden": 2, ".xyz": 1}


def test_files_are_taken_whatever_their_ending(tree: Path) -> None:
    assert uris(tree / "odd.xyz") == ["odd.xyz"]


def test_globs(tree: Path) -> None:
    assert uris(tree / "*.wav") == ["b.wav"]
    assert uris(tree / "**/*.ogg") == ["c.ogg"]
    assert uris(tree / "s*") == ["c.ogg"]
    (tree / "odd[1].wav").write_bytes(b"x")
    assert uris(tree / "odd[1].wav") == ["odd[1].wav"]


def test_overlapping_sources_are_taken_once(tree: Path) -> None:
    assert uris(tree, tree, tree / "sub", tree / "b.wav") == ["a.FLAC", "b.wav", "c.ogg"]


def test_linked_folders_are_followed_but_not_in_circles(tree: Path) -> None:
    (tree / "sub" / "up").symlink_to(tree)
    (tree / "zlink").symlink_to(tree / "sub")
    assert uris(tree) == ["a.FLAC", "b.wav", "c.ogg"]


def test_names_that_are_not_utf8_get_a_row(tree: Path) -> None:
    Path(os.fsdecode(os.fsencode(tree) + b"/caf\xe9.wav")).write_bytes(b"x")
    assert any(str(row["id"]).endswith("/caf%E9.wav") for row in listed(tree))


@pytest.mark.parametrize("source", ["nowhere", "no*.wav", "nope.csv", "gone/*.parquet"])
def test_sources_that_are_not_there_are_named(tmp_path: Path, source: str) -> None:
    with pytest.raises(UserError, match="no such|no manifest") as error:
        listed(tmp_path / source)
    assert source in str(error.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without permission")
def test_folders_without_permission_are_named() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        os.makedirs(f"{folder}/shut/below")
        os.chmod(f"{folder}/shut", 0o700)
        os.seteuid(65534)
        try:
            with pytest.raises(UserError, match="shut: cannot be listed: Permission denied"):
                listed(folder)
            with pytest.raises(UserError, match="shut/below: no permission"):
                listed(f"{folder}/shut/below")
        finally:
            os.seteuid(0)


ROWS = [{"id": "007", "uri": "/x/a.wav", "bpm": 120}, {"id": None, "uri": "b.wav", "bpm": None}]


def write_manifest(path: Path) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.suffix == ".csv":
        path.write_text("id,uri,bpm\n007,/x/a.wav,120\n,b.wav,\n")
    else:
        path.write_text("\n".join(map(json.dumps, ROWS)) + "\n")
    return path


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl", "ndjson"])
def test_manifests_of_each_kind(tmp_path: Path, ending: str) -> None:
    rows = listed(write_manifest(tmp_path / f"m.{ending}"))
    assert rows[0] == {"id": "007", "uri": "/x/a.wav", "bpm": 120}
    assert rows[1]["uri"] == f"{tmp_path}/b.wav"
    assert rows[1]["id"] == rows[1]["uri"]


LATE = [
    (120, 120.5, {120.0, 120.5}),
    (None, 7, {None, 7}),
    (None, 7.5, {None, 7.5}),
    (None, "x", {None, "x"}),
    ("0x1F", "q", {"0x1F", "q"}),
    ("2026-11-27", "soon", {"2026-11-27", "soon"}),
]


@pytest.mark.parametrize(("early", "late", "expected"), LATE)
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_late_row_may_widen_a_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, early: object, late: object, expected: set[object]
) -> None:
    monkeypatch.setattr(text_manifests, "JSON_BYTES", 1 << 20)
    rows = [{"uri": f"{number:040d}.wav", "bpm": early} for number in range(40_000)] + [{"uri": "z.wav", "bpm": late}]
    path = tmp_path / f"m.{ending}"
    if ending == "csv":
        text = "uri,bpm\n" + "\n".join(f"{row['uri']},{'' if row['bpm'] is None else row['bpm']}" for row in rows)
    else:  # a key that is null may as well be absent
        text = "\n".join(json.dumps({key: value for key, value in row.items() if value is not None}) for row in rows)
    path.write_text(text + "\n")
    found = listed(path)
    assert len(found) == len(rows)
    assert {None if row["bpm"] == "" else row["bpm"] for row in found} == expected  # an empty field of text is ""
    assert found[-1]["uri"] == f"{tmp_path}/z.wav"


def test_long_lines_of_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_manifests, "JSON_BYTES", 1 << 20)
    rows = [{"uri": "a.wav", "about": "x" * (3 << 20)}, {"uri": "b.wav", "about": "y"}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert uris(tmp_path / "m.jsonl") == ["a.wav", "b.wav"]
    monkeypatch.setattr(text_manifests, "LINE_BYTES", 1 << 20)
    with pytest.raises(UserError, match="m.jsonl: cannot be read as a manifest: a line is longer than 1 MB"):
        uris(tmp_path / "m.jsonl")


def test_a_pattern_of_manifests_may_mean_folders_of_them(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    for name in ("a.jsonl", "b.jsonl/part-0.jsonl", "b.jsonl/_SUCCESS", "b.jsonl/_temporary/0/part-1.jsonl", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"uri": f"{name}.wav"}))
        store.pipe_file(f"/lists/{name}", json.dumps({"uri": f"{name}.wav"}).encode())
    for place in (tmp_path, "memory://lists"):
        assert uris(f"{place}/*.jsonl") == ["a.jsonl.wav", "part-0.jsonl.wav"]
        assert uris(f"{place}/b.jsonl") == ["part-0.jsonl.wav"]


def test_a_pattern_of_manifests_goes_through_links_and_leaves_hidden_ones(tmp_path: Path) -> None:
    for month in ("feb-of-elsewhere", "in/jan"):
        (tmp_path / month).mkdir(parents=True)
        (tmp_path / month / "clips.csv").write_text(f"uri\n{month[-3:]}.wav\n")
        (tmp_path / month / "._clips.csv").write_bytes(b"\0\1 of a Mac")
    (tmp_path / "in" / "feb").symlink_to(tmp_path / "feb-of-elsewhere")
    assert uris(tmp_path / "in" / "*" / "clips.csv") == ["ere.wav", "jan.wav"]
    assert uris(tmp_path / "in" / "jan" / "*.csv") == ["jan.wav"]


def test_manifests_at_an_escaped_uri_are_found(tmp_path: Path) -> None:
    """A folder as Spark writes one, and a pattern."""
    folder = tmp_path / "two words" / "all.csv"
    folder.mkdir(parents=True)
    for name in "ab":
        (folder / f"{name}.csv").write_text(f"uri\n{name}.wav\n")
    for source in (folder, folder / "*.csv"):
        assert uris(f"file://{str(source).replace(' ', '%20')}") == uris(source) == ["a.wav", "b.wav"]


def test_a_slash_at_the_end_means_nothing(tmp_path: Path) -> None:
    assert sources.absolute("s3://bucket/all.parquet/") == "s3://bucket/all.parquet"
    assert sources.absolute("s3://") == "s3://", "no path here: it is refused for its bucket"
    assert sources.absolute("file:///") == "file:///"
    assert sources.absolute("/d/") == "/d"


def test_globs_of_manifests(tmp_path: Path) -> None:
    write_manifest(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("uri,bpm\nc.wav,3\n")
    assert uris(tmp_path / "*.csv") == ["a.wav", "b.wav", "c.wav"]
    (tmp_path / "all.parquet").mkdir()  # as Spark and Dask write
    for part in "ab":
        pq.write_table(pa.table({"uri": [f"/x/{part}.wav"]}), tmp_path / "all.parquet" / f"part-{part}.parquet")
    (tmp_path / "all.parquet" / "_SUCCESS").touch()
    assert uris(tmp_path / "all.parquet") == ["a.wav", "b.wav"]


def test_paths_as_java_writes_them(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("uri\nfile:/data/a.wav\nfile:b.wav\n")
    assert whole(tmp_path / "m.csv") == ["file:///data/a.wav", f"{tmp_path}/file:b.wav"]


def test_a_folder_that_vanishes_while_it_is_listed_has_nothing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = disk._entries

    def entries(folder: bytes) -> list[tuple[bytes, bool, bool]]:
        if folder.endswith(b"/sub"):
            shutil.rmtree(folder)
        return found(folder)

    monkeypatch.setattr(disk, "_entries", entries)
    assert uris(tree) == ["a.FLAC", "b.wav"]
    monkeypatch.setattr(disk, "holds_anything", lambda folder: False)
    (tree / "sub").mkdir()
    with pytest.raises(
        UserError, match="sub: went away while it was listed; mount its disk"
    ):  # one that is no longer mounted
        uris(tree)


def test_a_web_server_is_asked_again() -> None:
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if len(asked) == 1:
                self.send_error(503)
            else:
                self.send_response(200)
                self.send_header("Content-Length", "3")
                self.end_headers()
                self.wfile.write(b"abc")

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}/a.wav"
        (file,) = open_files([uri], Storage(patience_s=20), Limits())
        assert file.read() == b"abc"  # type: ignore[union-attr]
        server.shutdown()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.csv", "id,path\n1,a.wav\n", "needs a column `uri`; this one has id, path"),
        ("m.csv", "uri\na.wav\n,\n", "cannot be read"),
        ("m.csv", "uri,n\na.wav,1\n,2\n", "row 2 has no uri"),
        ("m.csv", "", "cannot be read"),
        ("m.csv", "uri,,\na.wav,,\n", "needs a name of its own; '' is not one"),
        ("m.csv", "uri,n,n\na.wav,1,2\n", "needs a name of its own; 'n' is not one"),
        ("m.jsonl", '{"uri": "a", "n": 1}\n{"uri": "b", "n": "x"}\n', "cannot be read"),
        ("m.csv", 'id,uri,t\n1,a.wav,x\n2,b.wav,"open\n3,c.wav,y\n4,d.wav,z\n', "is a quote not closed"),
        ("m.csv", 'id,uri,t\n1,a.wav,"12 inch\n2,b.wav,x\n3,c.wav,"7 inch\n4,d.wav,z\n', "is a quote not closed"),
        ("m.csv", 'id,uri,t\n1,a.wav,"12 inch\n2,b.wav,x\n3,c.wav,7 inch"\n4,d.wav,z\n', "lines has rows in it"),
        (
            "m.csv",
            'uri,t\n/My Loops/a 1.wav,"12 inch\n/My Loops/b 1.WAV,7 inch"\nd.wav,z\n',
            "line 3: .* has rows in it",
        ),
        ("m.csv", 'uri,t\nhttps://x/1,"12 inch\nhttps://x/2,7 inch"\nhttps://x/3,z\n', "lines has rows in it"),
        ("m.csv", 'uri,t\n"a.wav,x\nb.wav,y\nc.wav",z\nd.wav,z\n', "'uri' has several lines: is a quote not closed"),
        ("m.csv.gz", "packed", "unpack it, or save it as one of these"),
        ("m.csv", "uri,pack\na.wav,caf\udce9\n", "'pack' is not UTF-8; save the file as UTF-8"),
        ("m.tsv", "uri\na.wav\n", r"manifests are read as .parquet, .csv, .jsonl, .ndjson;"),
        ("m.parquet", "junk", "cannot be read"),
        ("m.jsonl", "not json\n", "cannot be read"),
        ("m.jsonl", '{"uri": 5}\n', None),
    ],
)
def test_manifests_that_are_wrong_are_named(tmp_path: Path, name: str, content: str, says: str | None) -> None:
    (tmp_path / name).write_text(content, errors="surrogateescape")
    if says is None:
        assert uris(tmp_path / name) == ["5"]
        return
    with pytest.raises(UserError, match=says) as error:
        listed(tmp_path / name)
    assert name in str(error.value)


def test_ids_that_are_uuids(tmp_path: Path) -> None:
    columns = "uuid '00000000-0000-0000-0000-0000000000ff' as id, 'a.wav' as uri, uuid() as pack"
    duckdb.sql(f"copy (select {columns}) to '{tmp_path}/m.parquet'")
    frozen(tmp_path / "out", tmp_path / "m.parquet")
    assert [row["id"] for row in listed(tmp_path / "m.parquet")] == ["00000000-0000-0000-0000-0000000000ff"]


def test_a_manifest_in_a_folder_that_is_not_utf8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    (folder / "m.csv").write_text("uri\na.wav\n/x/b.wav\n")
    assert whole(folder / "m.csv") == [f"file://{tmp_path}/caf%E9/a.wav", "/x/b.wav"]


def test_a_key_has_no_dots_in_it() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe("/b/manifests/m.csv", b"uri\n../loops/a.wav\n./b..wav\n../../../c.wav\nc//d.wav\ns3://b/x/../d.wav\n")
    assert whole("memory://b/manifests/m.csv") == [
        "memory://b/loops/a.wav",
        "memory://b/manifests/b..wav",
        "memory://b/c.wav",
        "memory://b/manifests/c//d.wav",
        "s3://b/x/../d.wav",
    ]


@pytest.mark.parametrize(
    "text",
    ["Recorded at home.\n24bit/48kHz, stereo", "Thanks to:\nwww.example.com, and others", "Well...\nok...,then"],
)
def test_a_text_of_several_lines_is_no_row_for_its_commas(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.csv").write_text(f'uri,about\na.wav,"{text}"\nb.wav,"x" y\n/clips/3,"{text}"\n')
    assert [row["about"] for row in listed(tmp_path / "m.csv")] == [text, "x y", text]


def test_a_text_of_several_lines_at_the_end_is_one(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text('uri,about\n"b.wav","two ""lines""\nof text"\n')
    assert [row["about"] for row in listed(tmp_path / "m.csv")] == ['two "lines"\nof text']


def test_a_store_that_fails_while_a_manifest_is_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.csv").write_text("uri\na.wav\n")
    (listing,) = open_sources([str(tmp_path / "m.csv")], Storage())

    def away(*_: object, **__: object) -> None:
        raise ClientPayloadError("not completed")

    monkeypatch.setattr(pa.csv, "open_csv", away)
    with pytest.raises(UserError, match="m.csv: cannot be read as a manifest: not completed"):
        list(listing.batches())


def test_columns_of_several_sources_are_joined_or_refused(tmp_path: Path) -> None:
    one, two, three = (tmp_path / f"{name}.jsonl" for name in "abc")
    one.write_text('{"uri": "a", "bpm": 1}\n')
    two.write_text('{"uri": "b", "key": "c#"}\n')
    three.write_text('{"uri": "c", "bpm": "fast"}\n')
    assert joint(one, two).names == ["id", "uri", "bpm", "key"]
    two.write_text('{"uri": "b", "bpm": 1.5}\n')
    assert joint(one, two).field("bpm").type == pa.float64()
    with pytest.raises(UserError, match="columns do not agree"):
        joint(one, three)
    one.write_text('{"uri": "a", "bpm": 9007199254740993}\n')
    with pytest.raises(UserError, match="columns do not agree"):
        frozen(tmp_path / "out", one, two)
    pq.write_table(pa.table({"uri": ["a"], "key": ["c"]}), tmp_path / "d.parquet")
    pq.write_table(pa.table({"uri": ["b"], "key": [b"c"]}), tmp_path / "e.parquet")
    with pytest.raises(UserError, match="key is text in one and bytes in another"):
        joint(tmp_path / "d.parquet", tmp_path / "e.parquet")


def test_endings() -> None:
    assert is_audio("x/Y.W64")
    assert not is_audio("x.wav/readme")
    assert not is_audio("/mnt/voc")


def test_what_a_folder_passes_over_is_taken_where_it_is_named_too(tree: Path) -> None:
    """A manifest, a file of another ending, a hidden folder: their clips have no row otherwise."""
    manifest = tree / "more.csv"
    manifest.write_text("uri\n/elsewhere/z.wav\n")
    (tree / "take[1].dat").write_bytes(b"x")
    more = [tree / name for name in ("odd.xyz", "take[1].dat", ".git", "sub", "b.wav", "*.wav")]
    assert sorted(uris(tree, manifest, *more)) == [
        "a.FLAC", "b.wav", "c.ogg", "odd.xyz", "take[1].dat", "x.wav", "z.wav",
    ]  # fmt: skip


def test_a_named_file_that_is_not_there_is_said_though_its_folder_is_given(tree: Path) -> None:
    with pytest.raises(UserError, match="typo.wav: no such file"):
        uris(tree, tree / "typo.wav")


def test_text_of_a_manifest_that_is_not_utf8_is_said(tmp_path: Path) -> None:
    bad = pa.array([b"\xff.wav"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"uri": bad}), tmp_path / "m.parquet")
    with pytest.raises(UserError, match="m.parquet: cannot be read.*UTF8"):
        listed(tmp_path / "m.parquet")


def test_a_glob_takes_what_is_in_a_folder_that_matches_once(tree: Path) -> None:
    assert sorted(uris(tree / "**")) == ["a.FLAC", "b.wav", "c.ogg"]
    store = fsspec.filesystem("memory")
    for name in ("a.wav", "sub/x.wav", "sub/deep/y.wav", "sub-1.wav", ".old/a.wav", "sub/.b/c/d.wav", "sub/._x.wav"):
        store.pipe_file(f"/bk/{name}", b"x")
    assert uris("memory://bk/.old") == ["a.wav"]
    for pattern in ("memory://bk/*", "memory://bk/**", "memory://bk"):  # as on a disk, nothing hidden
        assert sorted(uris(pattern)) == ["a.wav", "sub-1.wav", "x.wav", "y.wav"]
    (listing,) = open_sources(["memory://bk"], Storage())
    assert list(listing.batches()) == list(listing.batches()) != []  # as often as one likes
    assert listing.skipped == {"hidden": 2 * 1}  # files


def test_a_manifest_whose_name_looks_like_a_glob_is_itself(tmp_path: Path) -> None:
    for name, uri in (("list[1].csv", "/right.wav"), ("list1.csv", "/wrong.wav")):
        (tmp_path / name).write_text(f"uri\n{uri}\n")
    assert uris(tmp_path / "list[1].csv") == ["right.wav"]


def test_a_link_to_itself_is_a_clip_that_cannot_be_read(tree: Path) -> None:
    (tree / "loop.wav").symlink_to("loop.wav")
    assert uris(tree) == ["a.FLAC", "b.wav", "loop.wav", "c.ogg"]


def test_an_address_on_the_web_stays_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"x")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.wav"
        assert [row["uri"] for row in listed(address)] == [address]
        folder = address.removesuffix("/a.wav")  # which answers with a page
        assert [row["uri"] for row in listed(folder)] == [address]
        server.shutdown()


def test_folders_among_an_outputs_sources_are_told_from_files(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [str(tree), f"{tree}/*.wav", f"{tree}/list.csv", "/gone/loops", "/gone/loop.wav", "s3://bucket/loops"]
    monkeypatch.setattr(disk, "mounts", lambda: ["/data/disk1"])
    assert sources.roots(names) == (str(tree), "/gone/loops", "/data/disk1")
    assert sources.roots(["s3://bucket/loops"]) == ()
    record = prepare(Folder(str(tree / "out")), Request({"embedding_size": 0}, (f"{tree}/*.wav",)))
    assert record.mounts == ("/data/disk1",), "not there after a restart, its clips are not missing"
    monkeypatch.setattr(disk, "mounts", lambda: ["/data/disk2"])
    (tree / "new.wav").write_bytes(b"x")
    record = prepare(Folder(str(tree / "out")), Request({"embedding_size": 0}, (f"{tree}/*.wav",), update=True))
    assert record.mounts == ("/data/disk1", "/data/disk2")
    assert disk.holds_anything(os.fsencode(tree))
    (tree / "empty").mkdir()
    assert not disk.holds_anything(os.fsencode(tree / "empty"))
    assert not disk.holds_anything(b"/gone/loops")


def test_a_store_that_does_not_list_all_of_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec's own walk and glob leave out a folder that cannot be listed."""
    store = fsspec.filesystem("memory")
    for name in ("a/x.wav", "b/x.wav", "c/x.wav"):
        store.pipe_file(f"/partly/{name}", b"x")
    listed_there = type(store).ls

    def ls(self: object, path: str, *args: object, **how: object) -> object:
        if path.rstrip("/").endswith("/b"):
            raise PermissionError("AccessDenied")
        return listed_there(self, path, *args, **how)

    assert len(uris("memory://partly/*/x.wav")) == 3
    with pytest.raises(UserError, match="buck.*names no bucket"):
        uris("s3://buck*/x.wav")
    monkeypatch.setattr(type(store), "ls", ls)
    for source in ("memory://partly/*/x.wav", "memory://partly/**/*.wav", "memory://partly"):
        with pytest.raises(UserError, match="partly.*: cannot be listed: AccessDenied"):
            uris(source)
    assert uris("memory://partly/[ac]/x.wav") == ["x.wav", "x.wav"]


class Keys:
    """As much of S3 as lists keys, two a page: SeaweedFS has none with an empty name in them."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def call_s3(self, _: str, **asked: str) -> dict[str, object]:
        prefix = asked["Prefix"]
        below = [key.removeprefix(prefix) for key in self.keys if key.startswith(prefix)]
        folders = sorted({key.partition("/")[0] for key in below if "/" in key}) if "Delimiter" in asked else []
        files = [key for key in below if "Delimiter" not in asked or "/" not in key]
        every = [*((name, "CommonPrefixes") for name in folders), *((key, "Contents") for key in files if key)]
        start = int(asked.get("ContinuationToken", 0))
        return {
            "Contents": [{"Key": prefix + key} for key, kind in every[start : start + 2] if kind == "Contents"],
            "CommonPrefixes": [
                {"Prefix": f"{prefix}{key}/"} for key, kind in every[start : start + 2] if kind == "CommonPrefixes"
            ],
            "IsTruncated": start + 2 < len(every),
            "NextContinuationToken": str(start + 2),
        }


def test_a_web_page_is_a_folder_of_what_it_links_to_below_it(tmp_path: Path) -> None:
    """Once each, whatever else it links to: itself, what is above, what is gone, the same by another scheme."""
    pages = {
        "d": (
            "/d/",
            "../",
            "/",
            "sub/",
            "sub/b.wav",
            "gone/",
            "https://{host}/d/c.wav",
            "a.wav",
            "#top",
            "?a&amp;b",
            "//[x",
        ),
        "d/sub": ("b.wav",),
    }
    for folder in pages:
        (tmp_path / folder).mkdir()
    for name in ("d/a.wav", "d/c.wav", "d/sub/b.wav", "above.wav"):
        (tmp_path / name).write_bytes(b"x")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        for folder, links in pages.items():
            page = "".join(f'<A data-href="#"\nhref = "{link.format(host=host)}">{link}</A>' for link in links)
            page += "<a" + " " * 100_000  # on which fsspec's own way would not come back
            (tmp_path / folder / "index.html").write_text(page)
        found = [f"http://{host}/d/{name}" for name in ("a.wav", "c.wav", "sub/b.wav")]
        assert whole(f"http://{host}/d/") == found
        assert whole(f"http://{host}/d/**/[bc].wav") == found[1:]
        with pytest.raises(UserError, match="nothing: no such"):
            whole(f"http://{host}/nothing/")
        server.shutdown()


def test_stores_that_list_all_at_once_are_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    store = fsspec.filesystem("memory")
    for name in ("a/x.wav", "a/.b/y.wav", "c.wav"):
        store.pipe_file(f"/flat/{name}", b"x")
    keys = list(store.find("/flat"))
    monkeypatch.setattr(type(store), "_find", "its own", raising=False)
    monkeypatch.setattr(type(store), "find", lambda store, folder: keys)
    monkeypatch.setattr(type(store), "ls", None)
    (listing,) = open_sources(["memory://flat"], Storage())
    assert [row["id"] for batch in listing.batches() for row in batch.to_pylist()] == [
        "memory:///flat/a/x.wav",
        "memory:///flat/c.wav",
    ]
    assert listing.skipped == {"hidden": 1}


def test_an_object_that_may_not_be_looked_at_is_a_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    store = fsspec.filesystem("memory")
    store.pipe_file("/shut/b.wav", b"x")

    def info(store: object, path: str, **_: object) -> None:
        raise PermissionError("Forbidden")

    monkeypatch.setattr(type(store), "info", info)
    assert whole("memory://shut/a.wav") == ["memory:///shut/a.wav"]
    assert whole("memory://shut") == ["memory:///shut/b.wav"], "a prefix that may be listed is"


def test_patterns_ask_for_as_few_keys_as_they_can() -> None:
    asked: list[tuple[str, bool]] = []

    def listed(folder: str, deep: bool, head: str) -> Iterator[tuple[str, bool]]:
        asked.append((f"{folder}/{head}", deep))
        yield from ((f"k/{name}", False) for name in ("drums/x.wav", "drama/y.mp3") if deep)
        yield from (((f"{folder}/drums/", True), (f"{folder}/dry.wav", False)) if not deep else ())

    for pattern, found, first in (
        ("dr*/*.wav", ["k/drums/x.wav"], ("k/dr", True)),  # a request for each folder may be a million
        ("dr*.wav", ["k/dry.wav"], ("k/dr", False)),  # and what is below folders ten
        ("**/*.mp3", ["k/drama/y.mp3"], ("k/", True)),
    ):
        asked.clear()
        parts = pattern.split("/")
        assert list(remote._below(listed, "k", parts, patterns.begin(parts), Counter())) == found
        assert asked == [first]


@pytest.mark.parametrize("away", ["", "x.wav/"], ids=["at first", "later"])
def test_a_store_that_has_answered_is_waited_for(away: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("looptagger.archive.patience.time.sleep", lambda _: None)
    store = Keys("x.wav/1.wav")
    ask, times = store.call_s3, Counter[str]()

    def call_s3(of: str, **asked: str) -> dict[str, object]:
        times[asked["Prefix"]] += 1
        if asked["Prefix"] == away and times[away] == 1:
            raise ClientPayloadError("not completed")
        return ask(of, **asked)

    monkeypatch.setattr(store, "call_s3", call_s3)
    listed = partial(remote._s3, store, Storage(), count())
    found = remote._below(listed, "k", ["*.wav"], patterns.begin(["*.wav"]), Counter())
    if not away:
        with pytest.raises(ClientPayloadError):
            list(found)
    else:
        assert list(found) == ["k/x.wav/1.wav"]


def test_keys_with_empty_names_are_listed_once() -> None:
    listed = partial(s3.keys, Keys("a/", "a//b.wav", "a/b.wav", "b.wav"), Storage())
    for pattern, found in (
        ("*/*.wav", ["k/a/b.wav"]),
        ("*/*/*.wav", ["k/a//b.wav"]),
        ("a/", ["k/a//b.wav", "k/a/b.wav"]),
    ):
        parts = pattern.rstrip("/").split("/")
        assert sorted(remote._below(listed, "k", parts, patterns.begin(parts), Counter())) == found


def test_folders_may_be_nested_deeply(tmp_path: Path) -> None:
    deepest = tmp_path
    for _ in range(1_100):
        deepest /= "d"
        deepest.mkdir()
    (deepest / "a.wav").write_bytes(b"x")
    try:
        assert uris(tmp_path) == uris(tmp_path / "**" / "*.wav") == ["a.wav"]
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # Python's own way is recursive


def test_whole_numbers_of_64_bits_in_one_of_two_manifests(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"uri,hash\n/a.wav,{2**64 - 59}\n")
    (tmp_path / "b.csv").write_text("uri,hash\n/b.wav,7\n")
    folder = Folder(str(tmp_path / "out"))
    listings = open_sources([str(tmp_path / "a.csv"), str(tmp_path / "b.csv")], Storage())
    (file,) = manifest.freeze(folder, listings)
    (shard,) = manifest.shards([file])
    assert manifest.read(folder, shard)["hash"].to_pylist() == [2**64 - 59, 7]


def test_whole_numbers_of_json_keep_their_digits(tmp_path: Path) -> None:
    lines = (
        {"uri": "/a.wav", "hash": 2**64 - 59, "x": 1.5, "y": 1},
        {"uri": "/b.wav", "hash": 7, "x": 2**63, "y": 2.0},
    )
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    first, second = listed(tmp_path / "m.jsonl")
    assert (first["hash"], second["hash"]) == (2**64 - 59, 7)
    assert (first["x"], second["x"], second["y"]) == (1.5, 2.0**63, 2.0)
