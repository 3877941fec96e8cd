"""The tagging job's first step, over Arrow tables: manifest rows -> decoded rows. No Ray here, and no torch.

A row is a clip all the way. Between the steps it carries its chunks as int16 bytes; whatever happens to a clip, its
row stays, with a status and a reason.
"""

from collections.abc import Iterator, Sequence
from itertools import starmap
from typing import Any

import pyarrow as pa

from looptagger.archive import fetch, tags
from looptagger.archive.fetch import Begin, Lost
from looptagger.archive.writer import CHUNK_STARTS
from looptagger.audio.decode import Clip, decode
from looptagger.config import Audio, Tag
from looptagger.errors import ClipFailed

FETCH_ROWS = 16
"""Files of a group: the next group is fetched while one is decoded."""

HELD_CHUNKS = 2048
"""Chunks that a group may hold, 200 MB: with a higher `max_chunks` it has fewer files."""

PCM, DECODE_S = "_pcm", "_decode_s"
"""Columns that travel with the rows and are not written: a clip's chunks, and the seconds that it took to decode."""

_FACTS = [
    pa.field("status", pa.string()),  # in the output, a dictionary: the writer casts it
    *(tags.CLIP_SCHEMA.field(name) for name in ("error", "duration_s", "sample_rate", "channels", "codec", "n_chunks")),
    pa.field(PCM, pa.large_binary()),
    pa.field(CHUNK_STARTS, pa.list_(pa.float64())),
    pa.field(DECODE_S, pa.float32()),
]


def decoded(
    rows: pa.Table, audio: Audio, tag: Tag, begin: Begin = lambda row, more_s: None, lost: Lost = ()
) -> Iterator[pa.Table]:
    """Manifest rows with what decoding made of them, a few at a time: status, facts of the file, int16 chunks.

    Called by its name in the helper process (`steps.isolated`), whose `begin` and `lost` are: see `archive.fetch`.
    """
    most = max(1, min(FETCH_ROWS, HELD_CHUNKS // tag.chunking.max_chunks))
    work = lambda file: _columns(decode(file, audio, tag.chunking, tag.limits))  # noqa: E731
    groups = fetch.read(rows, most, tag.storage, tag.limits, work, begin, lost)
    return starmap(_tabled, groups)  # a loop's variables would keep the last group's chunks beside the next one's


def stopped(rows: pa.Table, reason: str) -> pa.Table:
    """The first row with the status STOPPED: the job, not the clip, can't go on, and this says why."""
    return _tabled(rows.slice(0, 1), [ClipFailed(tags.STOPPED, reason)], [0.0])


def _tabled(rows: pa.Table, clips: Sequence[dict[str, Any] | ClipFailed], seconds: Sequence[float]) -> pa.Table:
    facts = [
        (_failed(clip) if isinstance(clip, ClipFailed) else clip) | {DECODE_S: each_s}
        for clip, each_s in zip(clips, seconds, strict=True)
    ]
    for field in _FACTS:
        rows = rows.append_column(field, pa.array([row.get(field.name) for row in facts], field.type))
    return rows


def _failed(why: ClipFailed) -> dict[str, Any]:
    return {"status": why.status, "error": str(why), "n_chunks": 0}


def _columns(clip: Clip) -> dict[str, Any]:
    return {
        "status": "ok",
        "duration_s": clip.duration_s,
        "sample_rate": clip.sample_rate,
        "channels": clip.channels,
        "codec": clip.codec,
        "n_chunks": len(clip.pcm),
        PCM: clip.pcm.tobytes(),
        CHUNK_STARTS: clip.start_s,
    }
