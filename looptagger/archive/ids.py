"""Ids that an output's manifest holds already: a listed row with one of them is the same clip again, or a mistake."""

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from looptagger.errors import UserError

Digests = NDArray[np.bytes_]
"""16-byte digests of ids: 10 million of them are 160 MB, where the strings would be gigabytes."""


def digests(texts: pa.ChunkedArray | pa.Array, size: int = 16) -> Digests:
    """A digest of so many bytes of each text."""
    joined = b"".join(hashlib.blake2b(text.encode(), digest_size=size).digest() for text in texts.to_pylist())
    return np.frombuffer(joined, f"S{size}")


class Known:
    """Ids, and what they stand for, in 25 bytes each."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        """Take in tables with `id` and `uri`."""
        found = [(digests(table.column("id")), digests(table.column("uri"), 8)) for table in tables]
        ids = np.concatenate([np.empty(0, "S16"), *(each for each, _ in found)])
        uris = np.concatenate([np.empty(0, "S8"), *(each for _, each in found)])
        order = np.argsort(ids)
        self.ids, self.uris, self.met = ids[order], uris[order], np.zeros(len(ids), bool)

    def new(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of a listing whose ids are not known. Raises UserError for a known one that comes otherwise."""
        if not len(self.ids):
            return batch
        ids = digests(batch.column("id"))
        place = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        is_known = self.ids[place] == ids
        self._check(batch.filter(pa.array(is_known)), place[is_known])
        return batch.filter(pa.array(~is_known))

    def _check(self, again: pa.RecordBatch, place: NDArray[np.int64]) -> None:
        """Refuse rows of known ids that name another file, or that come twice: one of the two would have no tags."""
        others = np.flatnonzero(self.uris[place] != digests(again.column("uri"), 8))
        if len(others):
            row = again.slice(int(others[0]), 1).to_pylist()[0]
            raise UserError(
                f"the id {row['id']!r} stands for another file in this output than {row['uri']}; give ids that differ, "
                "choose another output, or add --overwrite to start anew."
            )
        first = np.unique(place, return_index=True)[1]
        twice = np.flatnonzero(self.met[place] | ~np.isin(np.arange(len(place)), first))
        if len(twice):
            text = again.column("id")[int(twice[0])].as_py()
            raise UserError(f"the id {text!r} comes twice; name each clip once, or give ids that differ.")
        self.met[place] = True
