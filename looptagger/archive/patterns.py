"""Patterns part by part: where in one a path has come to, so that what cannot match is never listed."""

import glob
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from posixpath import splitext

Places = frozenset[int]
"""Where in a pattern's parts a path may have come to; past the last one, all that lies there is taken."""


def split(pattern: str) -> tuple[str, list[str]]:
    """The folder that a pattern begins with, and its parts from the first one on that is no plain name."""
    parts = pattern.split("/")
    fixed = next((n for n, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return "/".join(parts[:fixed]), parts[fixed:]


def begin(parts: Sequence[str]) -> Places:
    """The places of the folder that a pattern begins with."""
    return _onward({0}, parts)


def after(places: Places, name: str, parts: Sequence[str]) -> Places:
    """Where a path has come to with one more name; a hidden one must be named by a part that begins alike."""
    found = set()
    for place in places:
        wanted = "**" if place == len(parts) else parts[place]
        if name.startswith(".") and not wanted.startswith("."):
            continue
        if wanted == "**":
            found.add(place)
        elif fnmatchcase(name, wanted):
            found.add(place + 1)
    return _onward(found, parts)


def is_deep(places: Places, parts: Sequence[str]) -> bool:
    """Whether what lies below in folders is of interest, too: not where the last part is left, and names files."""
    return places != {len(parts) - 1} or not splitext(parts[-1])[1]


def head(places: Places, parts: Sequence[str]) -> str:
    """The letters that names must begin with there to match."""
    wanted = [parts[place] for place in places if place < len(parts)]
    return re.split(r"[*?\[]", wanted[0])[0] if len(places) == len(wanted) == 1 else ""


def _onward(places: set[int], parts: Sequence[str]) -> Places:
    """The places, and those after a `**`, which may stand for no folder at all."""
    for place in range(len(parts)):
        if place in places and parts[place] == "**":
            places.add(place + 1)
    return frozenset(places)
