"""The tagging job's two steps, as functions over Arrow tables: rows -> decoded rows -> tagged rows. No Ray here.

A row is a clip all the way. Between the steps it carries its chunks as int16 bytes; whatever happens to a clip, its
row stays, with a status and a reason.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from looptagger.archive import tags
from looptagger.archive.fetch import opened
from looptagger.archive.storage import Unread, unread
from looptagger.archive.writer import CHUNK_SCORES, CHUNK_STARTS
from looptagger.audio.decode import Clip, Undecoded, decode
from looptagger.config import Audio, Tag
from looptagger.model.predictor import Floats, Predictor, segment_means
from looptagger.roles import ROLES

FETCH_ROWS = 16
"""Files opened at once: the next ones are fetched while these are decoded."""

HELD_CHUNKS = 2048
"""Chunks that such a group may hold, 200 MB: with a higher `max_chunks` fewer files are opened at once."""

PCM = "_pcm"

_DECODED = [tags.OWN.field(name) for name in ("error", "duration_s", "sample_rate", "channels", "codec", "n_chunks")]
_HEARD = [
    pa.field("status", pa.string()),
    *_DECODED,
    pa.field(PCM, pa.large_binary()),
    pa.field(CHUNK_STARTS, pa.list_(pa.float64())),
]


def decoded(rows: pa.Table, audio: Audio, tag: Tag) -> Iterator[pa.Table]:
    """Manifest rows with what decoding made of them, a few at a time: status, facts of the file, int16 chunks."""
    most = max(1, min(FETCH_ROWS, HELD_CHUNKS // tag.chunking.max_chunks))
    for group, files in opened(rows, most, tag.storage, tag.limits):
        heard = [_hear(file, audio, tag) for file in files]
        columns = [pa.array([row.get(field.name) for row in heard], field.type) for field in _HEARD]
        for field, column in zip(_HEARD, columns, strict=True):
            group = group.append_column(field, column)
        yield group


def _hear(file: BinaryIO | Unread, audio: Audio, tag: Tag) -> dict[str, Any]:
    """A clip's decoded columns, or its status and reason."""
    if isinstance(file, Unread):
        return {"status": file.status, "error": str(file), "n_chunks": 0}
    try:
        with file:
            return _columns(decode(file, audio, tag.chunking, tag.limits))
    except Undecoded as undecoded:
        return {"status": undecoded.status, "error": str(undecoded), "n_chunks": 0}
    except Exception as error:  # a file that could be opened but not read; whatever it is, it costs this clip alone
        return {"status": "unreadable", "error": str(unread(error)), "n_chunks": 0}


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


def tagged(table: pa.Table, predictor: Predictor, chunks: bool, embedding: bool) -> pa.Table:
    """Decoded rows with scores, roles and model in the place of their chunks."""
    heard = [blob.as_buffer() for blob in table.column(PCM) if blob.is_valid]
    counts = table.column("n_chunks").to_numpy()
    scored = counts > 0
    size = predictor.card.audio.chunk_samples
    scores, means, vectors = np.empty((0, 6), np.float32), np.empty((0, 6), np.float32), None
    if heard:
        pcm = np.concatenate([np.frombuffer(buffer, np.int16) for buffer in heard]).reshape(-1, size)
        scores, embeddings = predictor.chunk_scores(pcm)
        means = segment_means(scores, counts[scored])
        vectors = segment_means(embeddings, counts[scored]).astype(np.float16) if embedding else None
    result = table.drop_columns([PCM])
    for name, column in _score_columns(means, scored, predictor).items():
        result = result.append_column(name, column)
    if embedding:
        result = result.append_column("embedding", _vectors(vectors, scored, predictor.embedding_size))
    if chunks:
        result = result.append_column(CHUNK_SCORES, _nested(scores, counts))
    return result


def _score_columns(means: Floats, scored: np.ndarray, predictor: Predictor) -> dict[str, pa.Array]:
    full = np.zeros((len(scored), len(ROLES)), np.float32)
    full[scored] = means
    columns = {role: pa.array(full[:, i], pa.float32(), mask=~scored) for i, role in enumerate(ROLES)}
    roles = [predictor.roles(row) if on else None for row, on in zip(full, scored, strict=True)]
    columns["roles"] = pa.array(roles, pa.list_(pa.string()))
    columns["model"] = pa.array([predictor.model_id] * len(scored))
    return columns


def _vectors(vectors: np.ndarray | None, scored: np.ndarray, size: int) -> pa.Array:
    """Half floats (n_scored, size) as a fixed-size list column, null for clips without scores."""
    full = np.zeros((len(scored), size), np.float16)
    if vectors is not None:
        full[scored] = vectors
    return pa.FixedSizeListArray.from_arrays(pa.array(full.ravel()), size, mask=pa.array(~scored))


def _nested(scores: Floats, counts: np.ndarray) -> pa.Array:
    """Chunk scores (sum(counts), 6) as one flat list a clip."""
    offsets = np.concatenate([[0], np.cumsum(counts)]) * scores.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(scores.ravel()))
