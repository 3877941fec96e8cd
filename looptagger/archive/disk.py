"""Files on this machine's disks: those below folders, linked ones too, and those of a pattern; each once."""

import glob
import heapq
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from urllib.parse import quote

from looptagger.archive import paths, patterns
from looptagger.archive.storage import local_path
from looptagger.errors import UserError

Found = Callable[[Counter[str]], Iterator[str]]
"""The URIs of a source; what is passed over is counted."""
Kept = Callable[[Iterator[str], Counter[str]], Iterator[str]]
"""Those of some URIs that are wanted; the others may be counted."""

KERNELS = ("/proc", "/sys", "/dev", "/run")


def find(source: str, kept: Kept = paths.kept) -> Found:
    """What is `kept` of the files that a path or pattern stands for. Raises UserError where nothing is there."""
    path = os.fsdecode(os.path.abspath(local_path(source)))
    try:
        os.stat(path)
    except PermissionError:
        raise UserError(f"{source}: no permission to read it; ask its owner for read permission.") from None
    except OSError:
        pass  # not there, a dangling link, or a pattern: decided below
    is_folder = os.path.isdir(path)
    if not is_folder and os.path.lexists(path):
        return lambda _: iter([uri_of(os.fsencode(path))])
    fixed, parts = (path, []) if is_folder else patterns.split(path)
    top = os.fsencode(fixed or "/")
    if not os.path.isdir(top) or (parts and next(_files(top, parts), None) is None):
        raise UserError(f"{source}: no such file or folder; check the path.")
    return lambda skipped: kept(map(uri_of, _files(top, parts)), skipped)


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


def _files(top: bytes, parts: Sequence[str]) -> Iterator[bytes]:
    """The files below a folder that match; of a plain one, all. No folder twice at the same places of the pattern.

    Links to folders are followed when all else is through: what lies here keeps its own name, whatever leads to it.
    """
    links, roots = [(top, patterns.begin(parts))], dict[bytes, list[patterns.Places]]()
    while links:
        start, begun = heapq.heappop(links)  # the first by name
        root = os.path.realpath(start)
        waiting = [(start, root, begun)]
        while waiting:
            folder, real, places = waiting.pop()
            if _is_through(real, places, roots, parts):
                continue
            inner = list[tuple[bytes, bytes, patterns.Places]]()
            for name, is_folder, is_link in _named(folder, places, parts):
                path, after = os.path.join(folder, name), _after(places, name, parts, is_folder)
                if is_link and is_folder and after:
                    heapq.heappush(links, (path, after))
                elif is_folder and after:
                    inner.append((path, os.path.join(real, name), after))
                elif not is_folder and (not parts or len(parts) in after):
                    yield path
            waiting += reversed(inner)
        roots.setdefault(root.rstrip(b"/"), []).append(begun)


def _after(places: patterns.Places, name: bytes, parts: Sequence[str], is_folder: bool) -> patterns.Places:
    """Where a path has come to with one more name. Of a plain folder all files are taken; hidden ones are counted."""
    return patterns.after(places, os.fsdecode(name), parts) if parts or is_folder else places


def _is_through(
    real: bytes, places: patterns.Places, roots: Mapping[bytes, Sequence[patterns.Places]], parts: Sequence[str]
) -> bool:
    """Whether a folder was listed from one of the roots, whose real paths and places these are, at the same places.

    So what is remembered are the links, not the folders: there may be as many as clips.
    """
    names = real.split(b"/") if roots else []
    for depth in range(len(names), 0, -1):
        for begun in roots.get(b"/".join(names[:depth]), ()):
            if places == reduce(lambda at, name: _after(at, name, parts, True), names[depth:], begun):
                return True
    return False


def _named(folder: bytes, places: patterns.Places, parts: Sequence[str]) -> list[tuple[bytes, bool, bool]]:
    """What is in a folder that may match. What has only one name is looked up: the folder need not be listed."""
    wanted = [parts[place] for place in places if place < len(parts)]
    if len(places) > 1 or not wanted or glob.has_magic(wanted[0]):
        return _entries(folder)
    path = os.path.join(folder, name := os.fsencode(wanted[0]))
    return [(name, os.path.isdir(path), os.path.islink(path))] if os.path.lexists(path) else []


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


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where we may not look: a file that cannot be read, whose row says so
        return False
