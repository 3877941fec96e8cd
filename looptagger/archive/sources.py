"""What the user points at (files, folders, globs, prefixes, manifests) as streams of Arrow batches: id, uri, more."""

import glob
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from looptagger.archive import tables
from looptagger.archive.storage import filesystem, local_path, scheme
from looptagger.config import Storage
from looptagger.errors import UserError, one_line

BATCH_ROWS = 65_536

AUDIO_ENDINGS = frozenset(
    {
        *("wav", "wave", "bwf", "rf64", "w64", "aif", "aiff", "aifc", "caf", "au", "snd", "voc", "sf", "paf"),
        *("flac", "wv", "ape", "tta", "ogg", "oga", "opus", "spx", "mp3", "mp2", "mpga", "mpc", "ac3", "amr"),
        *("m4a", "m4b", "mp4", "aac", "3gp", "wma", "webm", "weba", "mka"),
    }
)
"""Endings taken from folders and prefixes. A file named outright is taken whatever its ending."""

LISTED = pa.schema([pa.field("id", pa.string()), pa.field("uri", pa.string())])


@dataclass
class Listing:
    """One source: its schema (id, uri, the caller's columns) and its rows, batch by batch."""

    name: str
    schema: pa.Schema
    batches: Callable[[], Iterator[pa.RecordBatch]]
    skipped: list[str] = field(default_factory=list)
    """Endings of the files passed over because they are not audio (one entry a file, up to a bound)."""


def open_sources(sources: Sequence[str], storage: Storage) -> list[Listing]:
    """The listings of what the user points at; a file that lies in a folder also given is taken once.

    Raises UserError for a source that is not there or cannot be read.
    """
    absolute = dict.fromkeys(source if "://" in source else os.path.abspath(source) for source in sources)
    plain = [source for source in absolute if not _covered(source, absolute, storage)]
    return [_open(name, storage) for source in plain for name in _manifests(source, storage)]


def _covered(source: str, others: Collection[str], storage: Storage) -> bool:
    """Whether another source is a folder above this one whose listing has it, too: not what a folder passes over."""
    depth = _depth(source, others)
    is_local = scheme(source) == "file"
    is_hidden = is_local and any(part.startswith(".") for part in source.split("/")[depth:])
    is_gone = is_local and not glob.has_magic(source) and not os.path.lexists(local_path(source))
    if not depth or is_hidden or is_gone or tables.is_manifest(source):
        return False
    return is_audio(source) or not _is_file(source, storage)


def _depth(path: str, folders: Collection[str]) -> int:
    """How many parts of a path are the nearest folder above it of some; 0 where none is."""
    parts = path.rstrip("/").split("/")
    return next((depth for depth in range(len(parts) - 1, 0, -1) if "/".join(parts[:depth]) in folders), 0)


def _is_file(source: str, storage: Storage) -> bool:
    if scheme(source) == "file":
        return os.path.isfile(local_path(source))
    fs = filesystem(source, storage, storage.anonymous)
    try:
        return bool(fs.info(fs._strip_protocol(source))["type"] == "file")
    except FileNotFoundError:
        return False
    except Exception as error:  # client libraries raise their own kinds
        raise unlisted(source, error) from None


def _manifests(source: str, storage: Storage) -> list[str]:
    """A glob of manifests as its matches; any other source as it is, also one whose name looks like a glob."""
    if not (tables.is_manifest(source) and glob.has_magic(source)) or _is_file(source, storage):
        return [source]
    fs = filesystem(source, storage, storage.anonymous)
    matches = sorted(fs.glob(source))
    if not matches:
        raise UserError(f"{source}: no manifest matches.")
    return [fs.unstrip_protocol(match) if scheme(source) != "file" else match for match in matches]


def _open(source: str, storage: Storage) -> Listing:
    if tables.is_manifest(source):
        return _manifest(source, storage)
    found = _local(source) if scheme(source) == "file" else _remote(source, storage)
    skipped: list[str] = []
    return Listing(source, LISTED, lambda: _batched(found(skipped)), skipped)


def _manifest(source: str, storage: Storage) -> Listing:
    fs = filesystem(source, storage, storage.anonymous)
    path = local_path(source) if scheme(source) == "file" else source
    reader = tables.open_table(fs, source, str(fs._strip_protocol(path)))
    return Listing(source, reader.schema, reader.batches)


def _batched(uris: Iterator[str]) -> Iterator[pa.RecordBatch]:
    while chunk := list(islice(uris, BATCH_ROWS)):
        column = pa.array(chunk, pa.string())
        yield pa.record_batch([column, column], schema=LISTED)


def is_audio(name: str) -> bool:
    """Whether a file's ending says audio, and it is not a hidden file such as macOS's `._` companions."""
    base = name.rsplit("/", 1)[-1]
    return not base.startswith(".") and base.rpartition(".")[2].lower() in AUDIO_ENDINGS


def _kept(uris: Iterator[str], skipped: list[str]) -> Iterator[str]:
    """The audio files among `uris`; of the others the endings are noted, so that a summary can name them."""
    for uri in uris:
        if is_audio(uri):
            yield uri
        elif len(skipped) < 1_000_000:
            skipped.append(os.path.splitext(uri)[1].lower())


Found = Callable[[list[str]], Iterator[str]]


def _local(source: str) -> Found:
    path = os.path.abspath(local_path(source))
    try:
        os.stat(path)
    except PermissionError:
        raise UserError(f"{source}: no permission to read it; ask its owner for read permission.") from None
    except OSError:
        pass  # not there, a dangling link, or a pattern: decided below
    if os.path.isdir(path):
        return lambda skipped: _kept(_walk(os.fsencode(path)), skipped)
    if os.path.lexists(path):
        return lambda _: iter([_uri(os.fsencode(path))])
    matches = sorted(glob.glob(os.fsdecode(path), recursive=True)) if glob.has_magic(path) else []
    if not matches:
        raise UserError(f"{source}: no such file or folder; check the path.")
    tops = _tops(matches, {match for match in matches if os.path.isdir(match)})
    return lambda skipped: (uri for match in tops for uri in _local_match(match, skipped))


def _tops(matches: Sequence[str], folders: Collection[str]) -> list[str]:
    """A glob's matches less those in a folder that matches, too: the folder's listing has them."""
    whole = {folder.rstrip("/") for folder in folders}
    return [match for match in matches if not _depth(match, whole)]


def _local_match(match: str, skipped: list[str]) -> Iterator[str]:
    path = os.fsencode(match)
    return _kept(_walk(path) if os.path.isdir(path) else iter([_uri(path)]), skipped)


def _uri(path: bytes) -> str:
    """An absolute path as text; one that is not UTF-8 becomes a file:// URI with %-escapes, so that it has a row."""
    try:
        return path.decode()
    except UnicodeDecodeError:
        return "file://" + quote(path)


def _walk(top: bytes, seen: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Files below a folder in name order. Linked folders are followed, but never into themselves."""
    try:
        info = os.stat(top)
        entries = sorted(os.scandir(top), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{os.fsdecode(top)}: cannot be listed: {error.strerror}; give read permission.") from None
    here = (info.st_dev, info.st_ino)
    if here in seen:
        return
    for entry in entries:
        if _is_folder(entry):
            if not entry.name.startswith(b"."):
                yield from _walk(entry.path, seen | {here})
        else:
            yield _uri(entry.path)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where we may not look: a file that cannot be read, whose row says so
        return False


def _remote(source: str, storage: Storage) -> Found:
    fs = filesystem(source, storage, storage.anonymous)
    path = str(fs._strip_protocol(source))
    prefix = "" if "://" in path else f"{scheme(source)}://"  # http's paths are whole
    keys = _s3_keys if scheme(source) in ("s3", "s3a") else lambda fs, top: iter(sorted(fs.find(top)))
    tops, folders = [path], {path}
    try:
        if glob.has_magic(path) and not fs.exists(path):
            kinds = {match: info["type"] for match, info in fs.glob(path, detail=True).items()}
            folders = {match for match, kind in kinds.items() if kind == "directory"}
            tops = _tops(sorted(kinds), folders)
        elif fs.isfile(path):
            return lambda _: iter([prefix + path])
    except Exception as error:
        raise unlisted(source, error) from None

    def each(skipped: list[str]) -> Iterator[str]:
        found = (key for top in tops for key in (keys(fs, top) if top in folders else (top,)))
        return _kept((prefix + key for key in _guarded(source, found)), skipped)

    return each


def _guarded(source: str, keys: Iterator[str]) -> Iterator[str]:
    try:
        yield from keys
    except UserError:
        raise
    except Exception as error:  # client libraries raise their own kinds
        raise unlisted(source, error) from None


def unlisted(source: str, error: Exception) -> UserError:
    """The sentence for a remote source that cannot be listed."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"{source}: no such bucket or prefix; check the name.")
    return UserError(f"{source}: cannot be listed: {one_line(error)}; check the credentials and the endpoint.")


def _s3_keys(fs: Any, path: str) -> Iterator[str]:
    """Keys below an S3 prefix in key order, a page of 1,000 at a time, so that millions cost no memory."""
    bucket, _, prefix = path.partition("/")
    more = {"Prefix": f"{prefix.rstrip('/')}/" if prefix else ""}
    while True:
        page = fs.call_s3("list_objects_v2", Bucket=bucket, **more)
        yield from (f"{bucket}/{entry['Key']}" for entry in page.get("Contents", ()) if entry["Key"][-1] != "/")
        if not page.get("IsTruncated"):
            return
        more["ContinuationToken"] = page["NextContinuationToken"]
