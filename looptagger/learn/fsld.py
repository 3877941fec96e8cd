"""The Freesound Loop Dataset as it lies on disk: audio, metadata, and the annotators' answers.

Ramires et al., "The Freesound Loop Dataset and Annotation Tool" (ISMIR 2020), Zenodo record 3967852.
"""

import csv
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from looptagger.archive.disk import uri_of
from looptagger.archive.paths import is_audio
from looptagger.errors import UserError
from looptagger.learn import labels
from looptagger.learn.loops import Collection, Drops, Loop, short_licence

TABLE_1: Final = {"percussion": 1626, "bass": 493, "chord": 350, "melody": 603, "fx": 845, "voice": 69}
"""Roles of the paper's 2,936 loops (Ching, Ramires, Yang 2020, Table 1)."""
TABLE_1_LOOPS: Final = 2936

FSLD_NAMES = {"percussion": "percussion", "bass": "bass", "chords": "chord", "melody": "melody", "fx": "fx"}
FSLD_NAMES["vocal"] = "voice"
"""The data set's names of the roles, and ours."""

CSV_NAME = "loop_annotation_data.csv"

RULES = {"union": "a role is set when any annotator set it", "intersection": "a role is set when all annotators set it"}


@dataclass(frozen=True)
class Answer:
    """What one annotator said of a loop."""

    loop: str
    roles: frozenset[str]
    is_dropped: bool
    """Marked as no loop (`discard`), or left for later."""


def find(folder: Path) -> tuple[Path, Path, Path | None]:
    """A copy of FSLD in, below or beside a folder: audio/wav, annotations (a folder or a CSV), metadata.json if there.

    Raises UserError that names the part not found.
    """
    audio, annotations = _find_audio(folder), _find_annotations(folder)
    if audio is None and annotations is None:
        raise UserError(f"{folder}: neither FSLD (audio/wav and annotations) nor a folder with {labels.NAMES[0]}.")
    if audio is None:
        raise UserError(f"{folder}: no audio/wav found in it; unpack FSL10K.zip there, or point at the folder above.")
    if annotations is None:
        raise UserError(
            f"{folder}: no annotations/*/sound-*.json and no {CSV_NAME} found; unpack annotations.zip beside FSL10K."
        )
    metadata = audio.parent.parent / "metadata.json"
    return audio, annotations, metadata if metadata.is_file() else None


def _below(folder: Path) -> Iterator[Path]:
    """The folder and those up to two levels below it, the nearest first."""
    yield folder
    yield from sorted(folder.glob("*/"))
    yield from sorted(folder.glob("*/*/"))


def _find_audio(folder: Path) -> Path | None:
    return next((wav for near in _below(folder) if os.path.isdir(wav := near / "audio" / "wav")), None)


def _find_annotations(folder: Path) -> Path | None:
    """The annotators' own files where there are any, else the CSV compiled from them; also beside FSL10K."""
    nears = [path for near in (*_below(folder), folder.absolute().parent) for path in (near / "annotations", near)]
    by_annotator = (path for path in nears if path.name == "annotations" and next(path.glob("*/sound-*.json"), None))
    compiled = (path / CSV_NAME for path in nears if os.path.isfile(path / CSV_NAME))
    return next(by_annotator, None) or next(compiled, None)


def read(folder: Path, merge: Literal["union", "intersection"]) -> Collection:
    """The loops of a copy of FSLD with their merged roles. Raises UserError for one that lacks a part.

    The rule, as no published one exists: a loop that any annotator discarded or left for later is dropped; a role is
    set when any annotator set it (`union`) or all did (`intersection`); a loop without a role is dropped.
    """
    (audio, annotations, metadata), drops = find(folder), Drops()
    by_loop = defaultdict(list)
    for answer in (_csv_answers if annotations.is_file() else _json_answers)(annotations, drops):
        by_loop[answer.loop].append(answer)
    broken = drops.counts["unreadable annotation"]
    if not by_loop:
        raise UserError(f"{annotations}: none of its {broken:,} annotations can be read; unpack it again.")
    loops = list(_merged(by_loop, merge, drops))
    if not loops:
        raise UserError(f"{annotations}: no loop is left that has a role ({RULES[merge]}).")
    files = _audio_files(audio, drops)
    loops = drops.kept(loops, "no audio", lambda loop: loop.id in files)
    if not loops:
        raise UserError(f"{audio}: holds the audio of none of the annotated loops; unpack FSL10K.zip again.")
    rule = f"loops discarded or left for later by any annotator are dropped; {RULES[merge]}"
    return Collection(str(folder), rule, len(by_loop), _described(loops, files, metadata), drops)


def _json_answers(folder: Path, drops: Drops) -> Iterator[Answer]:
    for path in sorted(folder.glob("*/sound-*.json")):
        loop = path.stem.removeprefix("sound-")
        try:
            found = json.loads(path.read_text(encoding="utf-8-sig"))
            roles = found.get("instrumentation")
            if not loop or not (isinstance(roles, dict) or _is_dropped(found)):
                raise ValueError
        except (OSError, ValueError, AttributeError, RecursionError):
            drops.add("unreadable annotation", f"{path.parent.name}/{path.name}")
            continue
        yield _answer(loop, roles if isinstance(roles, dict) else {}, found)  # who discards need not say roles


def _csv_answers(path: Path, drops: Drops) -> Iterator[Answer]:
    prefix = "instrumentation_"
    seen = set()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)  # a quote not closed would take the rows below
            missing = {"sound_id", *(prefix + name for name in FSLD_NAMES)} - set(rows.fieldnames or ())
            if missing:
                raise UserError(f"{path}: lacks the column {sorted(missing)[0]}; is it FSLD's compiled annotations?")
            for row in rows:
                loop, annotator = ((row.get(name) or "").strip() for name in ("sound_id", "annotator"))
                key = (loop, annotator or f"line {rows.line_num}")  # of unnamed ones, each stands
                if not key[0] or None in row.values():
                    drops.add("unreadable annotation", f"line {rows.line_num}")
                elif key in seen:
                    drops.add("repeated annotation", key[0])
                else:
                    seen.add(key)
                    yield _answer(key[0], {name: row[prefix + name] for name in FSLD_NAMES}, row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error}).") from None


def _answer(loop: str, roles: dict[str, Any], marks: dict[str, Any]) -> Answer:
    set_ = frozenset(ours for name, ours in FSLD_NAMES.items() if _is_true(roles.get(name)))
    return Answer(loop, set_, _is_dropped(marks))


def _is_dropped(marks: dict[str, Any]) -> bool:
    return _is_true(marks.get("discard")) or _is_true(marks.get("save_for_later"))


def _is_true(value: Any) -> bool:
    return value == 1 or (isinstance(value, str) and value.strip().lower() in ("true", "1", "1.0", "yes"))


def _merged(by_loop: dict[str, list[Answer]], merge: str, drops: Drops) -> Iterator[Loop]:
    """One loop for each id that is kept, in the order of ids, still without audio and metadata."""
    for loop, said in sorted(by_loop.items()):
        if any(answer.is_dropped for answer in said):
            drops.add("discarded or left for later", loop)
            continue
        sets = [answer.roles for answer in said]
        roles = frozenset.union(*sets) if merge == "union" else frozenset.intersection(*sets)
        if roles:
            yield Loop(loop, "", roles)
        else:
            drops.add("no role", loop)


def _audio_files(folder: Path, drops: Drops) -> dict[str, Path]:
    """Audio by id, the text before the first `_`; of two files of one id the first by name is taken."""
    files: dict[str, Path] = {}
    for name in sorted(os.listdir(folder)):
        loop = name.partition("_")[0].partition(".")[0]
        if not is_audio(name):
            continue
        if loop in files:
            drops.add("second audio file of an id", name)
        else:
            files[loop] = folder / name
    return files


def _described(loops: Iterable[Loop], files: dict[str, Path], metadata: Path | None) -> list[Loop]:
    """The loops with their files, uploaders, packs and licences.

    The uploader is the user's number in the file's name, else the number that others of that name have, else the name,
    else what stands in the number's place.
    """
    records = {loop: record for loop, record in _records(metadata).items() if isinstance(record, dict)}
    named = {loop: _text(record.get("username")) for loop, record in records.items()}
    texts = {loop: path.name.partition("_")[2].partition(".")[0] for loop, path in files.items()}
    numbers = {loop: found[0] for loop, text in texts.items() if (found := re.match(r"\d+(?=-|$)", text))}
    known = {named.get(loop): number for loop, number in numbers.items()}
    described = []
    for loop in loops:
        record, path, name = records.get(loop.id, {}), files[loop.id], named.get(loop.id)
        told = texts[loop.id]
        user = numbers.get(loop.id) or known.get(name or "", name) or (None if told.startswith("_") else told)
        pack = record.get("pack_name")
        licence = short_licence(_text(record.get("license")))
        uri = uri_of(os.fsencode(path.absolute()))
        described.append(Loop(loop.id, uri, loop.roles, _text(user), _text(pack), licence))
    return described


def _text(value: Any) -> str | None:
    """Text as Parquet can hold it: JSON's may have half of a character of two."""
    return str(value).encode(errors="replace").decode() if isinstance(value, str | int) and value != "" else None


def _records(metadata: Path | None) -> dict[str, Any]:
    if metadata is None:
        return {}
    try:
        records = json.loads(metadata.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{metadata}: is not whole JSON; unpack FSL10K.zip again.") from None
    return records if isinstance(records, dict) else {}
