"""An output begun, gone on with, added to, or begun anew: what a job asks for against what is there."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from looptagger.archive import counts, manifest, tags, user_manifests
from looptagger.archive.columns import Listing, joint_schema
from looptagger.archive.manifest import ManifestFile
from looptagger.archive.output import (
    REPORT,
    Record,
    chunked,
    load,
    parts,
    save,
    strangers,
    unfinished,
    vacate,
    withdraw,
)
from looptagger.archive.sources import mounts, open_sources
from looptagger.archive.storage import Folder
from looptagger.errors import UserError

MOST_NAMED = 5
"""So many are named of the files that were passed over."""


@dataclass(frozen=True)
class Request:
    """What a job is asked to put into an output."""

    identity: Mapping[str, Any]
    sources: tuple[str, ...]
    limit: int | None = None
    update: bool = False
    overwrite: bool = False
    shard_rows: int | None = None
    note: Callable[[str], None] = lambda text: None
    listed: Callable[[int], None] = lambda rows: None
    """Told of the manifest's rows as they are stored."""


def prepare(folder: Folder, request: Request) -> Record:
    """Make an output, or find it ready to go on, or add to it. The caller holds its lock.

    The command that replaces an output goes on with that, too, when it was stopped and is given again.
    Raises UserError when it holds something else, naming what differs, or when the sources cannot be listed; then
    nothing is changed, also of what was to be overwritten.
    """
    record = load(folder)
    if record is not None and request.overwrite and not _is_being_replaced(folder, record, request):
        return _replaced(folder, request)
    try:
        check(folder, record, request)
    except UserError:
        if record is None:
            vacate(folder)
        raise
    grows = record and record.limit is not None and (request.limit is None or request.limit > record.limit)
    return _extended(folder, request, record) if record is None or request.update or grows else record


def check(folder: Folder, record: Record | None, request: Request) -> None:
    """Refuse what is in a folder and does not go together with a request. Raises UserError that names it."""
    if record is None:
        _refuse_strangers(folder, ours=False)
        return
    _refuse_difference(folder, record, request)
    if not (request.update or set(request.sources) <= set(record.sources)):
        had, asked = " ".join(record.sources), " ".join(request.sources)
        if sum(work.rows for work in unfinished(folder, record)) == record.rows:
            raise UserError(
                f"{folder.uri}: was begun for {had} and has no tags yet; add --overwrite to tag {asked} instead, "
                "or --update to tag both."
            )
        raise UserError(
            f"{folder.uri}: holds the tags of {had}; add --update to take in {asked} too, or choose another output."
        )


def _extended(folder: Folder, request: Request, old: Record | None = None) -> Record:
    """List the sources and store a record with what is new in them, after the rest of a trial that was cut short."""
    before = old.files if old else ()
    if old and old.limit is not None and old.rows >= old.limit and old.sources != request.sources:
        before = _frozen(folder, replace(request, sources=old.sources), before).files
    limit = None if old and old.limit is None else request.limit  # what was begun without one is no trial
    record = _frozen(folder, replace(request, limit=limit), before)
    sources = tuple(dict.fromkeys((*(old.sources if old else ()), *request.sources)))
    there = tuple(dict.fromkeys((*(old.mounts if old else ()), *record.mounts)))
    about = {"sources": sources, "limit": limit, "mounts": there, "anew": request.overwrite}
    record = record.model_copy(update=about)
    save(folder, record)
    return record


def _is_being_replaced(folder: Folder, record: Record, request: Request) -> bool:
    """Whether an output is the same command's that was stopped."""
    asked = (dict(request.identity), request.sources, request.limit)
    is_same = record.anew and (record.identity, record.sources, record.limit) == asked
    return is_same and bool(unfinished(folder, record))


def _replaced(folder: Folder, request: Request) -> Record:
    """A new record in place of an old one, whose parts go. Cut off at any moment, one of the two is whole."""
    _refuse_strangers(folder, ours=True)
    record = _frozen(folder, request).model_copy(update={"anew": True})
    _clear_parts(folder)
    save(folder, record)
    withdraw(folder)
    return record


def _frozen(folder: Folder, request: Request, before: tuple[ManifestFile, ...] = ()) -> Record:
    """List the sources into manifest files that follow those `before`. Stores no record."""
    try:
        listings = open_sources(request.sources, folder.storage)
        tags.schema(joint_schema(listing.schema for listing in listings), request.identity["embedding_size"])
        files = manifest.freeze(
            folder,
            listings,
            limit=request.limit,
            shard_rows=request.shard_rows,
            before=before,
            written=request.listed,
        )
        if not files and not before:
            raise UserError(_nothing(request.sources, listings))
    except BaseException:
        withdraw(folder)
        raise
    if passed := _passed_over(listings):
        request.note(f"Passed over, as hidden or by their names no audio: {passed}.")
    return Record(
        identity=dict(request.identity),
        sources=request.sources,
        limit=request.limit,
        files=(*before, *files),
        mounts=mounts(request.sources),
    )


def _nothing(sources: Sequence[str], listings: Sequence[Listing]) -> str:
    if all(map(user_manifests.is_manifest, sources)):
        return f"{' '.join(sources)}: the manifest has no rows."
    skipped = sum(listing.skipped.total() for listing in listings)
    also = f" among the {skipped:,} files there" if skipped else ""
    return f"{' '.join(sources)}: no audio files found{also}; check the path, or name the files themselves."


def _passed_over(listings: Sequence[Listing]) -> str:
    """How many files were no audio by their names, and the commonest endings; nothing for none."""
    endings = sum((listing.skipped for listing in listings), Counter[str]())
    if not endings:
        return ""
    some = ", ".join(f"{count:,} {ending or 'without ending'}" for ending, count in endings.most_common(MOST_NAMED))
    more = ", ..." if len(endings) > MOST_NAMED else ""
    return f"{endings.total():,} file{'s' * (endings.total() > 1)} ({some}{more})"


def _refuse_strangers(folder: Folder, ours: bool) -> None:
    """Refuse Parquet files that are no parts, and parts where the output is not `ours`. Raises UserError."""
    there = strangers(folder)
    if not ours:
        there += [part.name for part in parts(folder)[0]]
        there += [f"{tags.CHUNKS}/{part.name}" for part in sorted(chunked(folder))]
    if there:
        raise UserError(f"{folder.uri}: holds {there[0]}, which is no output of ours; choose another output.")


def _refuse_difference(folder: Folder, record: Record, request: Request) -> None:
    for key in {**record.identity, **request.identity}:
        had, wanted = record.identity.get(key), request.identity.get(key)
        if had != wanted:
            raise UserError(
                f"{folder.uri}: was made {_difference(key, had, wanted)} choose another output, or add --overwrite to "
                "start anew."
            )


FLAGS = {"chunks": "--chunks", "embedding_size": "--embeddings"}


def _difference(key: str, had: Any, wanted: Any) -> str:
    """What an output was made with and is not asked for now, in the words of the flags and settings."""
    if key in FLAGS and not (had and wanted):
        return f"with {FLAGS[key]}; add it," if had else f"without {FLAGS[key]}; leave it out,"
    if isinstance(had, dict) and isinstance(wanted, dict):
        name = next(name for name in {**had, **wanted} if had.get(name) != wanted.get(name))
        return _difference(f"{key}.{name}", had.get(name), wanted.get(name))
    if key == "precision":
        return f"with compute.precision={had}; set it," if had else f"without compute.precision={wanted}; leave it out,"
    had, wanted = (each if isinstance(each, str) else json.dumps(each) for each in (had, wanted))
    return f"with {key} {had}, now it is {wanted};"


def _clear_parts(folder: Folder) -> None:
    """Delete an output's parts, chunk parts and the reports of its runs. Nothing else is touched."""
    names = [counts.NAME, *(f"_run/{name}" for name in folder.names("_run") if REPORT.fullmatch(name))]
    for prefix in ("", f"{tags.CHUNKS}/"):
        names += [prefix + name for name in folder.names(prefix.rstrip("/")) if tags.parse(name)]
    folder.delete(names)
