"""The tagging job's first step, over Arrow tables: manifest rows -> decoded rows. No Ray here, and no torch.

A row is a clip all the way. Between the steps it carries its chunks as int16 bytes; whatever happens to a clip, its
row stays, with a status and a reason.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any, BinaryIO

import pyarrow as pa

from looptagger.archive import tags
from looptagger.archive.fetch import opened
from looptagger.archive.opening import Unread, delay_s, unread, whole
from looptagger.archive.patience import StoreAway
from looptagger.archive.writer import CHUNK_STARTS, STOPPED
from looptagger.audio.decode import Clip, Undecoded, decode
from looptagger.config import Audio, Tag

FETCH_ROWS = 16
"""Files opened at once: the next ones are fetched while these are decoded."""

HELD_CHUNKS = 2048
"""Chunks that such a group may hold, 200 MB: with a higher `max_chunks` fewer files are opened at once."""

PCM, DECODE_S = "_pcm", "_decode_s"

_DECODED = [tags.OWN.field(name) for name in ("error", "duration_s", "sample_rate", "channels", "codec", "n_chunks")]
_HEARD = [
    pa.field("status", pa.string()),
    *_DECODED,
    pa.field(PCM, pa.large_binary()),
    pa.field(CHUNK_STARTS, pa.list_(pa.float64())),
    pa.field(DECODE_S, pa.float32()),
]


def decoded(
    rows: pa.Table,
    audio: Audio,
    tag: Tag,
    begin: Callable[[int, float], None] = lambda row, more_s: None,
    lost: Iterable[tuple[int, str]] = (),
) -> Iterator[pa.Table]:
    """Manifest rows with what decoding made of them, a few at a time: status, facts of the file, int16 chunks.

    `begin` is told of each row before it is decoded: its number, and how many seconds it may take longer than others.
    `lost` rows are not decoded, and have their reason already.
    """
    most = max(1, min(FETCH_ROWS, HELD_CHUNKS // tag.chunking.max_chunks))
    reasons, numbers = dict(lost), count()
    for group, files in opened(rows, most, tag.storage, tag.limits):
        heard = []
        for file, row in zip(files, numbers, strict=False):
            if row in reasons:
                heard.append(_failed("undecodable", reasons[row]))
            else:
                again = partial(begin, row, delay_s(file, tag.storage))
                again()
                began = time.perf_counter()
                row_heard = _hear(file, audio, tag, again)
                heard.append(row_heard | {DECODE_S: time.perf_counter() - began})
        yield _with(group, heard)


def stopped(rows: pa.Table, reason: str) -> pa.Table:
    """The first row with the status STOPPED: the job, not the clip, can't go on, and this says why."""
    return _with(rows.slice(0, 1), [_failed(STOPPED, reason) | {DECODE_S: 0.0}])


def _with(rows: pa.Table, heard: Sequence[Mapping[str, Any]]) -> pa.Table:
    columns = [pa.array([row.get(field.name) for row in heard], field.type) for field in _HEARD]
    for field, column in zip(_HEARD, columns, strict=True):
        rows = rows.append_column(field, column)
    return rows


def _hear(file: BinaryIO | Unread, audio: Audio, tag: Tag, again: Callable[[], None]) -> dict[str, Any]:
    """A clip's decoded columns, or its status and reason. Raises StoreAway."""
    if isinstance(file, Unread):
        return _failed(file.status, str(file))
    try:
        return _columns(whole(file, lambda each: decode(each, audio, tag.chunking, tag.limits), tag.storage, again))
    except StoreAway:
        raise
    except (Undecoded, Unread) as why:
        return _failed(why.status, str(why))
    except MemoryError:
        return _failed("too_large", f"decoding needs more than limits.max_memory = {tag.limits.max_memory:,} bytes")
    except Exception as error:  # a file that could be opened but not read; whatever it is, it costs this clip alone
        return _failed("unreadable", str(unread(error)))


def _failed(status: str, reason: str) -> dict[str, Any]:
    return {"status": status, "error": reason, "n_chunks": 0}


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
