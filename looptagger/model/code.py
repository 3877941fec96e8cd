"""Short codes of embeddings, by which the nearest of ten million are found in less than a second.

SimHash (Charikar, 2002): a bit says on which side of a random plane an embedding lies; the more bits two codes share,
the smaller the angle between the two.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

WORDS = 4
"""Of 64 bits."""


@cache
def _planes(size: int) -> NDArray[np.float32]:
    """The same 256 planes on every machine and for ever: numpy keeps this old generator's numbers."""
    return np.random.RandomState(0).normal(size=(size, 64 * WORDS)).astype(np.float32)


def codes(embeddings: NDArray[np.floating]) -> NDArray[np.uint64]:
    """Embeddings (n, size) -> codes (n, 4). Less each one's mean: they come out of a ReLU, so all lie in one corner."""
    centred = embeddings.astype(np.float32) - embeddings.mean(axis=1, keepdims=True, dtype=np.float32)
    bits = np.packbits(centred @ _planes(embeddings.shape[1]) > 0, axis=1, bitorder="little")
    return bits.view("<u8").astype(np.uint64)
