"""What files of strangers cannot do: run code, reach other places, take the machine."""

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from looptagger.archive import lock, manifest, output, preview, tags
from looptagger.archive.manifest import ManifestFile, Shard
from looptagger.archive.sources import open_sources
from looptagger.archive.storage import Folder
from looptagger.config import Storage, Tag
from looptagger.errors import UserError, fault, one_line
from looptagger.learn import resuming, table
from looptagger.model import checkpoint, published
from looptagger.roles import ROLES
from looptagger.settings import load


class Evil:
    """Leaves a folder behind where it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.sign),)


def pickled(schema: pa.Schema, name: str) -> pa.Schema:
    """A schema one of whose columns says that it is Ray Data's, of pickled objects."""
    said = {"ARROW:extension:name": "ray.data.arrow_pickled_object", "ARROW:extension:metadata": ""}
    return schema.set(schema.get_field_index(name), pa.field(name, pa.large_binary(), False, said))


def test_objects_in_a_table_are_not_unpickled(tmp_path: Path) -> None:
    import looptagger.cluster.session  # noqa: F401 (with it comes Ray Data, which would unpickle them)

    evil = pickle.dumps(Evil(tmp_path / "sign"))
    loop = {"id": [evil], "waveform": [[1]], **{role: [True] for role in ROLES}, "duration_s": [1.0]}
    loop |= {name: ["train"] for name in ("uploader", "pack", "licence", "paper", "stratified", "grouped")}
    pq.write_table(pa.table(loop, schema=pickled(table.SCHEMA, "id")), tmp_path / "loops-00000.parquet")
    with pytest.raises(UserError, match="loops-00000.parquet: has other columns than a prepared data set"):
        table.read(Folder(str(tmp_path)), "loops-00000.parquet")
    rows = pa.schema([pa.field(name, pa.string()) for name in ("id", "uri", "more")])
    (tmp_path / "_run" / "manifest").mkdir(parents=True)
    file = tmp_path / "_run" / "manifest" / "000000.parquet"
    pq.write_table(pa.table({"id": ["a"], "uri": ["/a"], "more": [evil]}, schema=pickled(rows, "more")), file)
    found = manifest.read(Folder(str(tmp_path)), Shard("_run/manifest/000000.parquet", 0, 1, 0))
    assert found.to_pylist()[0]["more"] == evil
    assert not (tmp_path / "sign").exists()


@pytest.mark.parametrize("name", ["_run", "chunks", "_run/manifest", "_run/lock.json"])
def test_an_output_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    if name == "_run/lock.json":
        elsewhere.write_text("precious")
    else:
        elsewhere.mkdir()
        (elsewhere / "lock.json").write_text("precious")
    (tmp_path / "out" / name).symlink_to(elsewhere)
    with pytest.raises(UserError, match="is a link to another place|cannot be written: Too many levels"):
        lock.held(Folder(str(tmp_path / "out"))).__enter__()
    kept = elsewhere if elsewhere.is_file() else elsewhere / "lock.json"
    assert kept.read_text() == "precious"


def test_a_pipe_is_no_lock_and_no_model(tmp_path: Path) -> None:
    (tmp_path / "_run").mkdir()
    os.mkfifo(tmp_path / "_run" / "lock.json")
    with pytest.raises(UserError, match="cannot be written: the lock is no file"):
        lock.held(Folder(str(tmp_path))).__enter__()
    with pytest.raises(UserError, match="lock.json: is no file"):
        lock.holder(Folder(str(tmp_path)))
    (tmp_path / "_run" / "dataset.json").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="dataset.json: is no file"):
        output.load(Folder(str(tmp_path)))
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="no file, or over"):
        checkpoint.resolve(str(tmp_path))


def test_a_link_in_the_place_of_a_file_to_be_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / f".r.html.{os.getpid()}.tmp").symlink_to(tmp_path / "victim")
    Folder(str(tmp_path)).write("r.html", b"ours")
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "r.html").is_symlink()


def test_records_name_their_own_files_only() -> None:
    for name in ("../../.profile", "_run/manifest/../../../x/000000.parquet", "/etc/passwd"):
        with pytest.raises(ValidationError):
            ManifestFile(name=name, rows=1, shard_rows=1)
    one = {"name": "_run/manifest/000000.parquet", "rows": 65_536, "shard_rows": 1}
    with pytest.raises(ValidationError):
        ManifestFile(**one | {"rows": 10**12})  # type: ignore[arg-type]
    record = {"identity": {}, "sources": []}
    assert output.Record.model_validate(record | {"files": [one]}).rows == 65_536
    many = [one | {"name": f"_run/manifest/{number:06d}.parquet"} for number in range(2_000)]
    for files in ([one, one], many):
        with pytest.raises(ValidationError, match="twice|too many"):
            output.Record.model_validate(record | {"files": files})
    about = {"source": "", "rule": "", "sample_rate": 1, "digest": "", "dealt": {}, "parts": ["loops-00000.parquet"]}
    about |= {"annotated": 0, "dropped": {}, "shares": (1, 0, 0), "seed": 0, "counts": {}, "licences": {}, "twins": {}}
    assert table.Dataset.model_validate(about)
    with pytest.raises(ValidationError):
        table.Dataset.model_validate(about | {"parts": ["../../.profile"]})


def test_a_part_s_name_that_counts_to_a_billion_costs_nothing(tmp_path: Path) -> None:
    file = ManifestFile(name="_run/manifest/000000.parquet", rows=3, shard_rows=1)
    (tmp_path / "part-0000001-9999999999.parquet").touch()
    record = output.Record(identity={}, sources=(), files=(file,))
    assert [work.part for work in output.unfinished(Folder(str(tmp_path)), record)] == ["part-0000000.parquet"]


DEEP = "[" * 99_999 + "]" * 99_999


@pytest.mark.parametrize(
    "line",
    [
        f'{{"uri":"a","b":{DEEP}}}',
        f'{{"uri":"a","text":"{"}" * 99_999}","b":{DEEP}}}',
        f'{{"uri":"a","text":"\\"{"}" * 99_999}","more":"\\\\","b":{DEEP}}}',
        '{"a":' * 999 + "1" + "}" * 999,
    ],
    ids=["bare", "after a text", "after quotes", "groups"],
)
def test_values_in_values_in_values(line: str, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(line)
    with pytest.raises(UserError, match="m.jsonl: cannot be read as a manifest: a line has values over 100 deep"):
        open_sources([str(tmp_path / "m.jsonl")], Storage())
    many = {"uri": "a.wav", "beats": [{"at": n} for n in range(999)], "note": '":[' * 120 + "}]" * 99}
    (tmp_path / "m.jsonl").write_text(json.dumps(many))
    assert len(list(open_sources([str(tmp_path / "m.jsonl")], Storage())[0].batches())) == 1
    (tmp_path / "_run").mkdir()
    (tmp_path / "_run" / "dataset.json").write_text("[" * 99_999)
    with pytest.raises(UserError, match="not a record of this looptagger"):
        output.load(Folder(str(tmp_path)))


def test_a_spreadsheet_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ['=HYPERLINK("http://evil")', "@SUM(1)", "+1", "-1", "plain-1"]
    row = {"status": "ok", "roles": [], "n_chunks": 1, "model": "m"}
    rows = pa.Table.from_pylist([row | {"id": each, "uri": each} for each in ids], schema=tags.CLIP_SCHEMA)
    monkeypatch.setattr(output, "require", lambda folder: SimpleNamespace(files=()))
    monkeypatch.setattr(manifest, "schema", lambda folder, files: pa.schema([rows.schema.field("id")]))
    monkeypatch.setattr(output, "rows", lambda folder, names: iter([rows.select(names)]))
    preview.write_csv(Folder(str(tmp_path)), file := io.BytesIO())
    begun = [line.split(",")[0] for line in file.getvalue().decode().splitlines()[1:]]
    assert [each.strip('"')[0] for each in begun] == ["'", "'", "'", "'", "p"]


def test_what_fsspec_calls_local_is_looked_at_as_files_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the path itself, or file:// before it"):
        open_sources([f"local://{tmp_path}"], Storage())


def test_merge_keys_are_not_read(tmp_path: Path) -> None:
    for key in ("<<", "!!merge x"):
        (tmp_path / "bomb.yaml").write_text(f"a: &a {{b: 1}}\nc: {{{key}: [*a, *a]}}\n")
        with pytest.raises(UserError, match="bomb.yaml: not YAML .merge keys"):
            load(Tag, tmp_path / "bomb.yaml")
    (tmp_path / "fine.yaml").write_text("chunking: {hop_s: 1.5}  # see <<notes>>\n")
    assert load(Tag, tmp_path / "fine.yaml").chunking.hop_s == 1.5


def test_a_checkpoint_that_hides_its_compression_is_refused(tmp_path: Path) -> None:
    """Python's zipfile stumbles over a directory entry that torch's reader does not look at."""
    torch.save({"w": torch.zeros(100_000)}, plain := io.BytesIO())
    with zipfile.ZipFile(plain) as parts, zipfile.ZipFile(small := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as packed:
        for number, part in enumerate(parts.infolist()):
            about = zipfile.ZipInfo(part.filename)
            about.extra = b"ZZ\x08\x00" + b"Z" * 8 if number == 0 else b""
            packed.writestr(about, parts.read(part), zipfile.ZIP_DEFLATED)
    content = bytearray(small.getvalue())
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UserError, match="is compressed"):
        published.read(tmp_path / "w.pth")
    struct.pack_into("<H", content, content.rfind(b"ZZ\x08\x00") + 2, 60_000)
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UserError, match="a damaged file"):
        published.read(tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(plain.getvalue())
    assert published.read(tmp_path / "w.pth")["w"].shape == (100_000,)
    (tmp_path / "_run").mkdir()
    (tmp_path / resuming.STATE).write_bytes(small.getvalue())
    with pytest.raises(UserError, match="not understood; start the run anew"):
        resuming.load(Folder(str(tmp_path)))


def test_secrets_are_hidden_wherever_they_stand() -> None:
    said = "Authorization: Bearer abc.def aws_secret_access_key=wJalr AWS_SESSION_TOKEN=IQo http://me:pw@host/x"
    for secret in ("abc.def", "wJalr", "IQo", "pw"):
        assert secret not in one_line(said)
    assert len(one_line("x" * 1_000_000)) == 300, "and not after an hour"
    try:
        raise ValueError("at http://me:hunter2@host/")
    except ValueError as error:
        log = Path(fault(error).split("report it with ")[1].split(";")[0])
    kept = log.read_text()
    log.unlink()
    assert "Traceback" in kept
    assert "hunter2" not in kept
