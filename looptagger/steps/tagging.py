"""The tagging job's second step, over Arrow tables: decoded rows -> tagged rows. No Ray here."""

import numpy as np
import pyarrow as pa

from looptagger.archive.tags import CODE
from looptagger.archive.writer import CHUNK_SCORES
from looptagger.model.code import codes
from looptagger.model.predictor import Floats, Predictor, segment_means
from looptagger.roles import ROLES
from looptagger.steps.decoding import PCM


def tagged(table: pa.Table, predictor: Predictor, chunks: bool, embedding: bool) -> pa.Table:
    """Decoded rows with scores, roles and model in the place of their chunks."""
    counts = table.column("n_chunks").to_numpy()
    scored = counts > 0
    buffers = [np.frombuffer(blob.as_buffer(), np.int16) for blob in table.column(PCM) if blob.is_valid]
    pcm = np.concatenate([np.empty(0, np.int16), *buffers]).reshape(-1, predictor.card.audio.chunk_samples)
    scores, embeddings = predictor.chunk_scores(pcm)
    result = table.drop_columns([PCM])
    for name, column in _score_columns(segment_means(scores, counts[scored]), scored, predictor).items():
        result = result.append_column(name, column)
    if embedding:
        found = np.zeros((len(scored), predictor.embedding_size), np.float16)
        found[scored] = segment_means(embeddings, counts[scored])
        result = result.append_column("embedding", _lists(found, scored))
        for name, words in zip(CODE, codes(found).T, strict=True):
            result = result.append_column(name, pa.array(words, mask=~scored))
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


def _lists(rows: np.ndarray, scored: np.ndarray) -> pa.Array:
    """Rows (n, size) as a fixed-size list column, null for clips without scores."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1], mask=pa.array(~scored))


def _nested(scores: Floats, counts: np.ndarray) -> pa.Array:
    """Chunk scores (sum(counts), 6) as one flat list a clip."""
    offsets = np.concatenate([[0], np.cumsum(counts)]) * scores.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(scores.ravel()))
