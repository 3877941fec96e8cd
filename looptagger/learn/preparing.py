"""From labelled loops to rows of the training table: decode, keep or drop with a reason, count."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from looptagger.archive.disk import uri_of
from looptagger.archive.fetch import Begin, Lost, read
from looptagger.archive.patience import patiently
from looptagger.archive.storage import Folder, local_path, scheme
from looptagger.archive.tags import regrouped
from looptagger.audio.decode import Clip, decode_whole
from looptagger.config import SPLITS, Audio, Prepare
from looptagger.errors import ClipFailed, UserError
from looptagger.learn import fsld, labels, table
from looptagger.learn.loops import Collection, Loop, family, with_licences, with_uploaders
from looptagger.learn.splits import PARTS, splits
from looptagger.roles import ROLES

FETCH_ROWS = 8
"""Loops decoded at once: at 600 s each, the most there can be by default, 150 MB."""

REASONS = {"missing": "no audio", "too_large": "too large or long"}
"""What the printed table calls the statuses of files; the others keep their names."""

NOTHING = np.empty(0, np.int16)

ROWS = pa.schema(
    [pa.field("uri", pa.string()), *(field for field in table.SCHEMA if field.name not in ("waveform", "duration_s"))]
)


def collect(source: str, settings: Prepare, labels_file: str | None = None) -> Collection:
    """The labelled loops that a source names: FSLD, a labels file, or a folder with one. Raises UserError."""
    if scheme(source) != "file":
        raise UserError(f"{source}: give a local folder or labels file; the paths in a labels file may be s3:// ones.")
    place = Path(os.fsdecode(local_path(source)))
    if not os.path.exists(place):
        raise UserError(f"{source}: no such file or folder; check the path.")
    file = Path(labels_file) if labels_file else labels.find(place)
    if file is not None:
        if settings.merge != Prepare().merge:
            raise UserError(f"{file}: says each loop's roles once; leave out --merge, which is for FSLD's annotators.")
        found = labels.read(file, place if place.is_dir() else None)
    else:
        found = fsld.read(place, settings.merge)
    found = with_licences(replace(found, loops=with_uploaders(found.loops)), settings.licences)
    if not found.loops:
        raise UserError(f"{source}: no loop is left: {counted(found)}.")
    return found


def counted(collection: Collection) -> str:
    """What was dropped, in words."""
    return ", ".join(f"{count:,} {reason}" for reason, count in collection.drops.counts.items()) or "nothing dropped"


def to_rows(loops: Sequence[Loop], settings: Prepare) -> pa.Table:
    """Loops with their splits as a table in a seeded random order, still without audio."""
    parts = splits(loops, settings.shares, settings.seed)
    names = ("id", "uri", "uploader", "pack", "licence")
    columns: dict[str, Any] = {name: [getattr(loop, name) for loop in loops] for name in names}
    columns |= {role: [role in loop.roles for loop in loops] for role in ROLES}
    found = pa.table({**columns, **parts}, schema=ROWS).sort_by("id")
    return found.take(pa.array(np.random.default_rng(settings.seed).permutation(len(loops))))


def prepared(
    rows: pa.Table, settings: Prepare, begin: Begin = lambda row, more_s: None, lost: Lost = ()
) -> Iterator[pa.Table]:
    """Rows with `waveform`, `duration_s` and `drop`: the reason why a loop cannot be used, or null."""
    audio, limits = Audio(sample_rate=settings.sample_rate), settings.limits
    work = lambda file: decode_whole(file, audio, limits, settings.silence_db)  # noqa: E731
    tabled = partial(_tabled, settings)
    return starmap(tabled, read(rows, FETCH_ROWS, settings.storage, limits, work, begin, lost))  # which keeps no group


def _tabled(settings: Prepare, rows: pa.Table, clips: Sequence[Clip | ClipFailed], _: Sequence[float]) -> pa.Table:
    waveforms, seconds, reasons = zip(*(_judged(clip, settings) for clip in clips), strict=True)
    rows = rows.append_column("waveform", pa.array(waveforms, table.SCHEMA.field("waveform").type))
    rows = rows.append_column("duration_s", pa.array(seconds, pa.float64()))
    return rows.append_column("drop", pa.array(reasons, pa.string()))


def _judged(clip: Clip | ClipFailed, settings: Prepare) -> tuple[Any, float, str | None]:
    """Waveform, seconds and no reason, or a reason."""
    if isinstance(clip, ClipFailed):
        return NOTHING, 0.0, REASONS.get(clip.status, clip.status)
    if clip.duration_s < settings.min_s:
        return NOTHING, clip.duration_s, f"shorter than {settings.min_s:g} s"
    return clip.pcm[0], clip.duration_s, None


def twins(audio: Sequence[str], parts: Sequence[str]) -> int:
    """How many loops sound, sample by sample, as one of another part, by each loop's audio's digest and part."""
    sides = Counter(each for each, _ in set(zip(audio, parts, strict=True)))
    return sum(sides[each] > 1 for each in audio)


def _counted(rows: pa.Table) -> dict[str, int]:
    """How many loops there are, and how many of each role."""
    return {"loops": rows.num_rows} | {role: pc.sum(rows.column(role)).as_py() or 0 for role in ROLES}


def store(blocks: Iterable[pa.Table], folder: Folder, collection: Collection, settings: Prepare) -> table.Dataset:
    """Store prepared rows in parts as they come, and then the description, which makes the table one.

    Those with a reason are counted as dropped. Raises UserError where all are.
    """
    lines, kept = list[str](), list[pa.Table]()

    def usable() -> Iterator[pa.Table]:
        for rows in blocks:
            for loop, reason in zip(rows.column("id").to_pylist(), rows.column("drop").to_pylist(), strict=True):
                if reason:
                    collection.drops.add(reason, loop)
            some = rows.filter(pc.is_null(rows.column("drop"))).select(table.SCHEMA.names).cast(table.SCHEMA)
            lines.extend(table.digest_lines(some))
            yield some

    for number, rows in enumerate(regrouped(usable(), table.PART_ROWS)):
        if not number:  # what was there goes only now that there is something in its place
            patiently(lambda: folder.delete([table.NAME, *filter(table.is_part, folder.names())]), folder.storage)
        rows = rows.combine_chunks()
        table.write_part(folder, number, rows)
        kept.append(rows.drop_columns(["waveform"]))
    if not kept:
        raise UserError(f"{collection.source}: none of the loops can be used: {counted(collection)}.")
    names = tuple(map(table.part_name, range(len(kept))))
    found = _described(pa.concat_tables(kept), lines, names, collection, settings)
    patiently(lambda: folder.write(table.NAME, json.dumps(found.model_dump(), indent=1).encode()), folder.storage)
    return found


def _described(
    rows: pa.Table, lines: Sequence[str], names: tuple[str, ...], collection: Collection, settings: Prepare
) -> table.Dataset:
    """The description of a table: its rows without their audio, their digests, its files."""
    audio, ids = [line.rpartition(" ")[2] for line in lines], rows.column("id").to_pylist()
    parts = {split: rows.column(split).to_pylist() for split in SPLITS}
    dealt = {split: [f"{part} {loop}" for part, loop in zip(of, ids, strict=True)] for split, of in parts.items()}
    return table.Dataset(
        source=uri_of(os.fsencode(os.path.abspath(collection.source))),
        rule=collection.rule,
        sample_rate=settings.sample_rate,
        digest=table.digest(lines),
        dealt={split: table.digest(each) for split, each in dealt.items()},
        parts=names,
        annotated=collection.annotated,
        dropped=dict(collection.drops.counts),
        shares=settings.shares,
        seed=settings.seed,
        counts={s: {part: _counted(table.in_part(rows, s, part)) for part in PARTS} for s in SPLITS},
        licences=dict(Counter(map(family, rows.column("licence").to_pylist()))),
        twins={split: twins(audio, of) for split, of in parts.items()},
        sample=tuple(sorted({each[:16] for each in audio})[: table.SAMPLE]),
    )
