"""Files on this machine's disks: those below folders, linked ones too but no folder twice, and those of a pattern."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from urllib.parse import quote

from looptagger.archive import paths
from looptagger.archive.storage import local_path
from looptagger.errors import UserError

Found = Callable[[list[str]], Iterator[str]]
"""The URIs of a source; what is passed over is noted in the list."""


def find(source: str) -> Found:
    """The files that a path or pattern stands for. Raises UserError where nothing is there."""
    path = os.fsdecode(os.path.abspath(local_path(source)))
    try:
        os.stat(path)
    except PermissionError:
        raise UserError(f"{source}: no permission to read it; ask its owner for read permission.") from None
    except OSError:
        pass  # not there, a dangling link, or a pattern: decided below
    if os.path.isdir(path):
        return lambda skipped: paths.kept(_listed(path), skipped)
    if os.path.lexists(path):
        return lambda _: iter([_uri(os.fsencode(path))])
    if "**" in path.split("/") and next(_matching(path), None):
        return lambda skipped: paths.kept(map(_uri, _matching(path)), skipped)
    matches = sorted(glob.glob(path)) if glob.has_magic(path) else []
    if not matches:
        raise UserError(f"{source}: no such file or folder; check the path.")
    tops = paths.tops(matches, {match for match in matches if os.path.isdir(match)})
    return lambda skipped: paths.kept((uri for match in tops for uri in _listed(match)), skipped)


def _listed(path: str) -> Iterator[str]:
    """A folder's files, or a file itself, as URIs."""
    here = os.fsencode(path)
    return map(_uri, _walk(here) if os.path.isdir(here) else iter([here]))


def _uri(path: bytes) -> str:
    """An absolute path as text; one that is not UTF-8 becomes a file:// URI with %-escapes, so that it has a row."""
    try:
        return path.decode()
    except UnicodeDecodeError:
        return "file://" + quote(path)


def _matching(pattern: str) -> Iterator[bytes]:
    """The files of a pattern with `**`. Python's own glob goes round and round in folders that link to each other."""
    parts = pattern.split("/")
    fixed = next(n for n, part in enumerate(parts) if glob.has_magic(part))
    top = "/".join(parts[:fixed]) or "/"
    for path in _walk(os.fsencode(top)) if os.path.isdir(top) else ():
        if _fits(os.fsdecode(path).split("/")[fixed:], parts[fixed:]):
            yield path


def _fits(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path, or a folder that it lies in, matches a pattern part by part; `**` stands for any folders."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_fits(path[n:], pattern[1:]) for n in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _fits(path[1:], pattern[1:])


def _walk(top: bytes) -> Iterator[bytes]:
    """Files below a folder in name order. Linked folders are followed, but no folder is listed twice."""
    real = os.path.realpath(top).rstrip(b"/")
    return _below(top, real, {real})


def _below(folder: bytes, real: bytes, roots: set[bytes]) -> Iterator[bytes]:
    """A folder's files. `roots`: the real paths that are listed with all below them, the top's and links' targets."""
    try:
        with os.scandir(folder) as entries:  # sorted as tuples, a third of the entries' memory
            found = sorted((entry.name, _is_folder(entry), entry.is_symlink()) for entry in entries)
    except OSError as error:
        raise UserError(f"{os.fsdecode(folder)}: cannot be listed: {error.strerror}; give read permission.") from None
    for name, is_folder, is_link in found:
        path = os.path.join(folder, name)
        if not is_folder:
            yield path
        elif not name.startswith(b".") and name != b"lost+found":  # a disk's own, that only root may list
            target = os.path.realpath(path) if is_link else real + b"/" + name
            if target in roots or (is_link and _is_within(target, roots)):
                continue
            if is_link:
                roots.add(target)
            yield from _below(path, target, roots)


def _is_within(folder: bytes, roots: set[bytes]) -> bool:
    """Whether a folder is listed as a part of a root: hidden folders, and all in them, are passed over."""
    parts = folder.split(b"/")
    for depth in range(len(parts) - 1, 0, -1):
        if parts[depth].startswith(b"."):
            return False
        if b"/".join(parts[:depth]) in roots:
            return True
    return False


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where we may not look: a file that cannot be read, whose row says so
        return False
