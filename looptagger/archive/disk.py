"""Files on this machine's disks: those below folders, linked ones too but no folder twice, and those of a pattern."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from urllib.parse import quote

from looptagger.archive import paths, patterns
from looptagger.archive.storage import local_path
from looptagger.errors import UserError

Found = Callable[[Counter[str]], Iterator[str]]
"""The URIs of a source; what is passed over is counted."""

KERNELS = ("/proc", "/sys", "/dev", "/run")


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
        return lambda skipped: paths.kept(map(uri_of, _listed([path])), skipped)
    if os.path.lexists(path):
        return lambda _: iter([uri_of(os.fsencode(path))])
    if "**" in path.split("/") and next(_matching(path), None):
        return lambda skipped: paths.kept(map(uri_of, _matching(path)), skipped)
    matches = sorted(glob.glob(path)) if glob.has_magic(path) and "**" not in path.split("/") else []
    if not matches:
        raise UserError(f"{source}: no such file or folder; check the path.")
    return lambda skipped: paths.kept(map(uri_of, _listed(matches)), skipped)


def uri_of(path: bytes) -> str:
    """An absolute path as text; one that is not UTF-8 becomes a file:// URI with %-escapes, so that it has a row."""
    try:
        return path.decode()
    except UnicodeDecodeError:
        return "file://" + quote(path)


def mounts() -> list[str]:
    """Where disks are mounted now, on Linux; the root, and what is the kernel's own, left out."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            places = [line.split(" ")[4].replace("\\040", " ") for line in file]
    except OSError:
        return []
    return sorted({each for each in places if each != "/" and not each.startswith(KERNELS) and os.path.isdir(each)})


def refuse_links(place: str) -> None:
    """Refuse a folder of ours that is a link, or holds links to folders. Raises UserError."""
    try:
        with os.scandir(place) as entries:
            linked = [entry.path for entry in entries if entry.is_symlink() and entry.is_dir()]
    except OSError:  # not there yet, or said later
        linked = []
    if os.path.islink(place) or linked:
        one = (linked or [place])[0]
        raise UserError(f"{one}: is a link to another place; take it away, or choose another output.")


def _listed(tops: Iterable[str]) -> Iterator[bytes]:
    """Folders' files, and files, in name order. Linked folders are followed, but no folder is listed twice."""
    roots: set[bytes] = set()
    for top in map(os.fsencode, tops):
        real = os.path.realpath(top).rstrip(b"/")
        if not os.path.isdir(top):
            yield top
        elif real not in roots and not _is_within(real, roots):
            roots.add(real)
            yield from _below(top, real, roots)


def _entries(folder: bytes) -> list[tuple[bytes, bool, bool]]:
    """What is in a folder, by name: whether it is a folder, whether a link. As tuples, a third of the memory."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, _is_folder(entry), entry.is_symlink()) for entry in entries]
    except OSError as error:
        if isinstance(error, FileNotFoundError) and holds_anything(os.path.dirname(folder)):
            return []  # gone since its name was read, as passing folders go; with all beside it, a disk has gone
        gone = "went away while it was listed; mount its disk, and run the same command again"
        denied = f"cannot be listed: {error.strerror}; give read permission"
        why = gone if isinstance(error, FileNotFoundError) else denied
        raise UserError(f"{os.fsdecode(folder)}: {why}.") from None
    return sorted(each for each in found if each[0] != b"lost+found")  # a disk's own, that only root may list


def holds_anything(folder: bytes) -> bool:
    """Whether a folder is there and not empty."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def _below(folder: bytes, real: bytes, roots: set[bytes]) -> Iterator[bytes]:
    """A folder's files. `roots`: the real paths that are listed with all below them, the tops' and links' targets."""
    at = [(folder, real, iter(_entries(folder)))]  # no recursion: Python's ends at a thousand folders
    while at:
        folder, real, entries = at[-1]
        name, is_folder, is_link = next(entries, (b"", False, False))
        path = os.path.join(folder, name)
        if not name:
            at.pop()
        elif not is_folder:
            yield path
        elif not name.startswith(b"."):
            target = os.path.realpath(path) if is_link else real + b"/" + name
            if target in roots or (is_link and _is_within(target, roots)):
                continue
            if is_link:
                roots.add(target)
            at.append((path, target, iter(_entries(path))))


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


def _matching(pattern: str) -> Iterator[bytes]:
    """The files of a pattern with `**`. Python's own glob goes round and round in folders that link to each other."""
    fixed, parts = patterns.split(pattern)
    top = os.fsencode(fixed or "/")
    if os.path.isdir(top):
        yield from _matched(top, parts)


def _matched(top: bytes, parts: Sequence[str]) -> Iterator[bytes]:
    """The files below a folder that match. No folder is listed twice at the same places of the pattern."""
    begun = (os.path.realpath(top), patterns.begin(parts))
    at, seen = [(top, *begun, iter(_entries(top)))], {begun}
    while at:
        folder, real, places, entries = at[-1]
        name, is_folder, is_link = next(entries, (b"", False, False))
        path, after = os.path.join(folder, name), patterns.after(places, os.fsdecode(name), parts)
        if not name:
            at.pop()
        elif is_folder and after:
            target = os.path.realpath(path) if is_link else os.path.join(real, name)
            if (target, after) not in seen:
                seen.add((target, after))
                at.append((path, target, after, iter(_entries(path))))
        elif len(parts) in after and not is_folder:
            yield path
