"""What the user points at (files, folders, globs, prefixes, manifests) as streams of Arrow batches: id, uri, more."""

import glob
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import islice

import pyarrow as pa

from looptagger.archive import disk, paths, remote, user_manifests
from looptagger.archive.columns import Listing
from looptagger.archive.storage import filesystem, local_path, scheme
from looptagger.config import Storage
from looptagger.errors import UserError

BATCH_ROWS = 65_536

LISTED = pa.schema([pa.field("id", pa.string()), pa.field("uri", pa.string())])


def absolute(source: str) -> str:
    """A source's name wherever the job runs. Raises UserError for none: mostly a shell's variable that is not set."""
    if not source:
        raise UserError("a source's name is empty; give a file, a folder, ... (`.` is this one).")
    head, found, rest = source.partition("://")
    return f"{head}://{rest.rstrip('/') or rest}" if found else os.path.abspath(source)


def roots(sources: Sequence[str]) -> tuple[str, ...]:
    """Local folders below which clips may go missing together: sources that are folders, or were, and mounted disks."""
    local = [source for source in sources if scheme(source) == "file"]
    plain = [source for source in local if not glob.has_magic(source) and not user_manifests.is_manifest(source)]
    files = [each for each in plain if paths.is_audio(each) or os.path.isfile(local_path(each))]
    return (*(each for each in plain if each not in files), *mounts(sources))


def mounts(sources: Sequence[str]) -> tuple[str, ...]:
    """The disks that are mounted now, where any source is local."""
    return tuple(disk.mounts()) if any(scheme(source) == "file" for source in sources) else ()


def open_sources(sources: Sequence[str], storage: Storage) -> list[Listing]:
    """The listings of what the user points at; a file that lies in a folder also given is taken once.

    Raises UserError for a source that is not there or cannot be read.
    """
    every = dict.fromkeys(map(absolute, sources))
    plain = [source for source in every if not _covered(source, every, storage)]
    return [_open(name, storage) for source in plain for name in _manifests(source, storage)]


def _covered(source: str, others: Collection[str], storage: Storage) -> bool:
    """Whether another source is a folder above this one whose listing has it, too: not what a folder passes over."""
    depth = paths.depth(source, others)
    is_local = scheme(source) == "file"
    is_hidden = any(part.startswith(".") for part in source.split("/")[depth:])
    is_gone = is_local and not glob.has_magic(source) and not os.path.lexists(local_path(source))
    if not depth or is_hidden or is_gone or user_manifests.is_manifest(source):
        return False
    return paths.is_audio(source) or not _is_file(source, storage)


def _is_file(source: str, storage: Storage) -> bool:
    if scheme(source) == "file":
        return os.path.isfile(local_path(source))
    fs = filesystem(source, storage, storage.anonymous)
    try:
        return bool(fs.info(fs._strip_protocol(source))["type"] == "file")
    except FileNotFoundError:
        return False
    except Exception as error:  # client libraries raise their own kinds
        raise remote.unlisted(source, error) from None


def _manifests(source: str, storage: Storage) -> list[str]:
    """A glob of manifests as its matches, a folder that is named as one, as Spark writes it, as the files in it.

    Any other source as it is, also one whose name looks like a glob.
    """
    if not user_manifests.is_manifest(source) or _is_file(source, storage):
        return [source]
    if scheme(source) == "file":
        source = os.fsdecode(local_path(source))
    fs = filesystem(source, storage, storage.anonymous)
    pattern = source
    if not glob.has_magic(source):
        if not fs.isdir(source):
            return [source]
        pattern = f"{source.rstrip('/')}/*{os.path.splitext(source)[1]}"
    is_local = scheme(source) == "file"
    found = disk.find(pattern, _written) if is_local else remote.find(pattern, storage, _written)
    matches = sorted(found(Counter()))
    if not matches:
        raise UserError(f"{source}: no manifest matches.")
    return matches if is_local else [fs.unstrip_protocol(fs._strip_protocol(each)) for each in matches]


def _written(uris: Iterator[str], _: Counter[str]) -> Iterator[str]:
    """The manifests among URIs, less those that Spark had begun when it was cut off."""
    return (uri for uri in uris if user_manifests.is_manifest(uri) and "/_temporary/" not in uri)


def _open(source: str, storage: Storage) -> Listing:
    if user_manifests.is_manifest(source):
        fs = filesystem(source, storage, storage.anonymous)
        path = os.fsdecode(local_path(source)) if scheme(source) == "file" else source
        return user_manifests.open_table(fs, source, str(fs._strip_protocol(path)))
    if user_manifests.UNREAD.search(source) and _is_file(source, storage):
        as_ = ", ".join(user_manifests.ENDINGS)
        raise UserError(f"{source}: manifests are read as {as_}; unpack it, or save it as one of these.")
    found = disk.find(source) if scheme(source) == "file" else remote.find(source, storage)
    skipped: Counter[str] = Counter()
    return Listing(LISTED, lambda: _batched(found(skipped)), skipped)


def _batched(uris: Iterator[str]) -> Iterator[pa.RecordBatch]:
    while chunk := list(islice(uris, BATCH_ROWS)):
        column = pa.array(chunk, pa.string())
        yield pa.record_batch([column, column], schema=LISTED)
