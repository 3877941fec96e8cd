"""A folder of one's own loops with a labels file: CSV or TSV with `path` and `roles`, perhaps more."""

import csv
import os
from pathlib import Path
from typing import Any

from looptagger.archive.disk import uri_of
from looptagger.errors import UserError
from looptagger.learn.loops import Collection, Drops, Loop, short_licence
from looptagger.learn.splits import PARTS
from looptagger.roles import ROLES

NAMES = ("labels.csv", "labels.tsv")
ENDINGS = (".csv", ".tsv")


def find(source: Path) -> Path | None:
    """The labels file that a source is, or that lies in it."""
    if source.suffix.lower() in ENDINGS:
        return source
    return next((source / name for name in NAMES if (source / name).is_file()), None)


def read(file: Path, folder: Path | None = None) -> Collection:
    """The loops of a labels file; relative paths count from `folder`, by default the file's own.

    Columns: path, roles (`bass;melody`; also separated by `,`, `|` or blanks), and if there: id (by default the path),
    uploader, pack, licence, part (train, validation, test; empty: to be dealt). Raises UserError that names the file,
    the line and what is wrong, also where a file comes twice.
    """
    base = (folder or file.parent).absolute()
    drops = Drops()
    loops: dict[str, Loop] = {}
    places: set[str] = set()
    for line, row in _rows(file):
        where = f"{file}: line {line}"
        loop = _loop(row, base, where)
        place = loop.uri if "://" in loop.uri else os.path.normpath(loop.uri)
        if loop.id in loops:
            raise UserError(f"{where}: the id {loop.id!r} comes twice; ids must be unique.")
        if place in places:  # a split would put one file on two sides
            raise UserError(f"{where}: the file {row['path']!r} comes twice; give it one row.")
        loops[loop.id] = loop
        places.add(place)
    if not loops:
        raise UserError(f"{file}: holds no rows; give each loop a row with its path and roles.")
    kept = drops.kept(loops.values(), "no role", lambda loop: bool(loop.roles))
    return Collection(str(file), "roles as in the labels file", len(loops), kept, drops)


def _rows(file: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows, each with the line of the file that it ends in."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            comma = "\t" if file.suffix.lower() == ".tsv" else ","
            rows = csv.DictReader(opened, delimiter=comma, restval="", strict=True)
            columns = [name.strip().lower() for name in rows.fieldnames or ()]
            rows.fieldnames = columns
            for needed in ("path", "roles"):
                if needed not in columns:
                    have = ", ".join(columns) or "none"
                    raise UserError(f"{file}: a labels file needs a column `{needed}`; this one has {have}.")
            if twice := [name for name in columns if name and columns.count(name) > 1]:
                raise UserError(f"{file}: the column {twice[0]!r} comes twice; keep one.")
            return [(rows.line_num, row) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read as a labels file ({getattr(error, 'strerror', error)}).") from None


def _loop(row: dict[Any, str], base: Path, where: str) -> Loop:
    if None in row:
        raise UserError(f"{where} has more fields than the header; part roles with `;`, or put them in quotes.")
    path = row["path"].strip()
    if not path:
        raise UserError(f"{where} has no path; fill it in or drop the row.")
    roles = frozenset("".join(" " if letter in ",;|" else letter for letter in row["roles"].lower()).split())
    unknown = sorted(roles - set(ROLES))
    if unknown:
        raise UserError(f"{where}: unknown role {unknown[0]!r}; the roles are {', '.join(ROLES)}.")
    uri = path if "://" in path else uri_of(os.fsencode(base / path))
    uploader, pack = (row.get(name, "").strip() or None for name in ("uploader", "pack"))
    licence = short_licence((row.get("licence") or row.get("license") or "").strip())
    part = row.get("part", "").strip().lower() or None
    if part not in (None, *PARTS):
        raise UserError(f"{where}: unknown part {part!r}; the parts are {', '.join(PARTS)}.")
    return Loop(row.get("id", "").strip() or path, uri, roles, uploader, pack, licence, part)
