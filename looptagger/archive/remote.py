"""What lies on stores: the keys below a prefix, or of a pattern, as they are listed."""

import glob
import html
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial, reduce
from itertools import count
from typing import Any
from urllib.parse import urldefrag, urljoin

from fsspec.asyn import AsyncFileSystem

from looptagger.archive import paths, patterns, s3
from looptagger.archive.disk import Found, Kept
from looptagger.archive.storage import filesystem, scheme
from looptagger.config import Storage
from looptagger.errors import UserError, one_line

Listed = Callable[[str, bool, str], Iterator[tuple[str, bool]]]
"""Of a folder: the keys in it, or all below it, whose names begin so; and whether each is a folder."""


def find(source: str, storage: Storage, kept: Kept = paths.kept) -> Found:
    """The file that a URI names, or what is `kept` of those below it or of a pattern.

    Raises UserError where its store does not answer.
    """
    fs = filesystem(source, storage, storage.anonymous)
    path = str(fs._strip_protocol(source))
    prefix = "" if "://" in path else f"{scheme(source)}://"  # http's paths are whole
    is_s3 = scheme(source) in s3.SCHEMES
    if is_s3 and (not path or glob.has_magic(path.partition("/")[0])):
        raise UserError(f"{source}: names no bucket; give one, s3://bucket/..., without * or ? in its name.")
    try:
        is_pattern = glob.has_magic(path) and not fs.exists(path)
        if not is_pattern and _is_file(fs, path):
            return lambda _: iter([prefix + path])
    except Exception as error:  # client libraries raise their own kinds
        raise unlisted(source, error) from None
    top, parts = patterns.split(path) if is_pattern else (path, [])

    def keys(skipped: Counter[str]) -> Iterator[str]:
        listed = partial(_s3, fs, storage, count()) if is_s3 else partial(_any, fs, set())
        try:
            yield from (prefix + key for key in _below(listed, top, parts, patterns.begin(parts), skipped))
        except UserError:
            raise
        except Exception as error:
            raise unlisted(source, error) from None

    return lambda skipped: kept(keys(skipped), skipped)


def _is_file(fs: Any, path: str) -> bool:
    """Whether it is one file. One that is there and may not be looked at is told by its name: its row says why."""
    try:
        about = fs.info(path)
    except FileNotFoundError:
        return False
    except PermissionError:
        return paths.is_audio(path)
    return bool(about["type"] == "file" and about.get("mimetype") != "text/html")  # http's folders


def unlisted(source: str, error: Exception) -> UserError:
    """The sentence for a remote source that cannot be listed."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"{source}: no such bucket or prefix; check the name.")
    return UserError(f"{source}: cannot be listed: {one_line(error)}; check the credentials and the endpoint.")


def _below(
    listed: Listed, folder: str, parts: Sequence[str], places: patterns.Places, skipped: Counter[str]
) -> Iterator[str]:
    """A folder's files that match. Of a plain prefix, hidden ones are counted."""
    for key, is_folder in listed(folder, patterns.is_deep(places, parts), patterns.head(places, parts)):
        names = key[len(folder) :].strip("/").split("/")
        reached = reduce(lambda at, name: patterns.after(at, name, parts), names, places)
        if is_folder and reached:
            yield from _below(listed, key, parts, reached, skipped)
        elif not is_folder and len(parts) in reached:
            yield key
        elif not (parts or is_folder):
            skipped["hidden"] += 1


def _s3(
    fs: Any, storage: Storage, asked: Iterator[int], folder: str, deep: bool, head: str
) -> Iterator[tuple[str, bool]]:
    """A prefix's keys; a store that has answered is waited for."""
    return s3.keys(fs, storage, folder, deep, head, patient=next(asked) > 0)


def _any(fs: Any, seen: set[str], folder: str, deep: bool, head: str) -> Iterator[tuple[str, bool]]:
    """A folder's entries by name, or all keys below where the store lists them at once; none that was `seen`.

    fsspec's own walk, by which others find them, leaves out folders that cannot be listed, without a word. A web page
    is a folder of its links, which may lead to itself, elsewhere, or to the same by another scheme.
    """
    if deep and getattr(type(fs), "_find", AsyncFileSystem._find) is not AsyncFileSystem._find:
        yield from ((key, False) for key in sorted(fs.find(folder)))
        return
    try:
        entries = _links(fs, folder) if folder.startswith(WEB) else fs.ls(folder, detail=True)
    except FileNotFoundError:
        if seen:
            return  # a dead link, or a folder that has gone since it was named
        raise
    top, bare = folder.rstrip("/"), _bare(folder)
    found = {_bare(each["name"]): each["type"] == "directory" for each in entries}
    for name in sorted(found):
        if name not in seen and name.startswith(f"{bare}/" if bare else ""):
            if found[name] or folder.startswith(WEB):  # where files are named by several pages; there may be millions
                seen.add(name)
            yield f"{top}{name[len(bare) :]}{'/' * (found[name] and '://' in top)}", found[name]


LINK = re.compile(r"""<a(?=\s)[^<>]*?(?<=\s)href\s*=\s*["']([^"'<>]+)""", re.I)
"""In a time that grows as a page does. fsspec's own takes minutes of one of some kilobytes, if it is made for that."""
WEB = ("http://", "https://")


def _links(fs: Any, page: str) -> list[dict[str, str]]:
    """What a web page links to by <a href="...">, as entries: those that end in a slash are folders."""
    base = page.rstrip("/") + "/"
    text = fs.cat_file(page).decode(errors="replace")
    found = set()
    for link in LINK.findall(text):
        with suppress(ValueError):  # no address, as https://[domain]/
            found.add(urldefrag(urljoin(base, html.unescape(link))).url)
    return [{"name": each, "type": "directory" if each.endswith("/") else "file"} for each in found]


def _bare(name: str) -> str:
    """A name without its scheme and slashes around it."""
    return (name.partition("://")[2] or name).strip("/")
