"""Winograd's tiles, cut out of maps and put together again: loops that Numba compiles.

F(4x4, 3x3) has for each tile of 4x4 outputs the 6x6 inputs around it, and moves them by two small matrices: see
`winograd`. PyTorch's operators write every step of that to memory, which takes as long as the multiplications.
Maps are (h, w, c). A strip is whole rows of tiles, (rows, columns, 6, 6, c); `first` is the first one's number.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

try:
    import numba
except Exception:  # no Numba, one that does not know this NumPy, or a system that lets no program write machine code
    numba = None

Floats = NDArray[np.float32]
Function = TypeVar("Function", bound=Callable[..., Any])

TILE = 4
"""Outputs of a tile, along each axis."""
SEEN = TILE + 2
"""Inputs of a tile, along each axis."""
MAPS, LANES, TOGETHER = 6, 8, 8
"""Of `convolved`: its input maps, how many numbers a vector has for them, and tiles for which weights are fetched."""
ZERO, TWO, FOUR, FIVE, EIGHT = np.array([0, 2, 4, 5, 8], np.float32)
"""Numba takes plain numbers for 64 bits wide, and sums with them too."""


def are_quick() -> bool:
    """Whether Numba can compile the loops. Else they are Python's, a thousand times as slow."""
    return numba is not None and not numba.config.DISABLE_JIT


def machine_code(function: Function, **how: Any) -> Function:
    """The function as Numba compiles it, in which a product and a sum may be rounded once."""
    return numba.njit(function, nogil=True, fastmath={"contract"}, **how) if numba else function


def inlined(function: Function) -> Function:
    """A function to be compiled as a part of each loop that calls it: on their own arrays, loops become vectors."""
    return machine_code(function, inline="always")


class Loop:
    """A function that writes into arrays, compiled by its first call.

    Its machine code is kept beside this file or in the user's cache, for other processes.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function, self.__doc__ = function, function.__doc__
        self.code: Any = None

    def __call__(self, *arguments: Floats | int) -> None:
        """Run it."""
        try:
            self.code = self.code or machine_code(self.function, cache=True)
            self.code(*arguments)
        except Exception as error:
            if not getattr(self.code, "signatures", ()):  # there is no place for it, or what is there is damaged
                self.code = machine_code(self.function)
            elif isinstance(error, MemoryError):  # the loop's own
                raise
            self.code(*arguments)  # else it was made, and could not be written: the disk is full


@Loop
def spread(maps: Floats, first: int, strip: Floats) -> None:
    """Write the inputs of a strip's tiles, moved along both axes."""
    channels = maps.shape[2]
    seen = np.empty((SEEN, SEEN, channels), np.float32)
    once = np.empty((SEEN, SEEN, channels), np.float32)
    for row in range(strip.shape[0]):
        for column in range(strip.shape[1]):
            _cut(maps, first + row, column, seen, channels)
            _moved(seen, once, channels)
            _moved(once, strip[row, column], channels)


@Loop
def joined(strip: Floats, first: int, maps: Floats) -> None:
    """Write the ReLU of a convolution's outputs into maps."""
    height, width, channels = maps.shape
    once = np.empty((SEEN, TILE, channels), np.float32)
    found = np.empty((TILE, TILE, channels), np.float32)
    for row in range(strip.shape[0]):
        for column in range(strip.shape[1]):
            _outputs(strip[row, column], once, SEEN, channels)
            _outputs(once, found, TILE, channels)
            top, left = TILE * (first + row), TILE * column
            for i in range(min(TILE, height - top)):
                for j in range(min(TILE, width - left)):
                    for c in range(channels):
                        maps[top + i, left + j, c] = _larger(found[i, j, c], ZERO)


@Loop
def pooled(strip: Floats, first: int, maps: Floats, small: Floats) -> None:
    """Add maps to a convolution's outputs; write the ReLU of their 2x2 max pooling into small maps."""
    height, width, channels = maps.shape
    once = np.empty((SEEN, TILE, channels), np.float32)
    found = np.empty((TILE, TILE, channels), np.float32)
    for row in range(strip.shape[0]):
        for column in range(strip.shape[1]):
            _outputs(strip[row, column], once, SEEN, channels)
            _outputs(once, found, TILE, channels)
            top, left = TILE * (first + row), TILE * column
            for i in range(min(TILE, height - top)):
                for j in range(min(TILE, width - left)):
                    for c in range(channels):
                        found[i, j, c] += maps[top + i, left + j, c]
            _pooled(found, first + row, column, small, channels)


@Loop
def convolved(maps: Floats, weights: Floats, biases: Floats, small: Floats) -> None:
    """All of a block of one convolution, whose inputs are too few for a product of matrices to be quick.

    Maps are (h, w, 6), weights (6, 6, 6, c), of each place in a tile and each input, biases (c,).
    """
    channels = small.shape[2]
    seen = np.zeros((SEEN, SEEN, LANES), np.float32)
    once = np.empty((SEEN, SEEN, LANES), np.float32)
    moved = np.empty((TOGETHER, SEEN, SEEN, LANES), np.float32)
    products = np.empty((TOGETHER, SEEN, SEEN, channels), np.float32)
    half = np.empty((SEEN, TILE, channels), np.float32)
    found = np.empty((TILE, TILE, channels), np.float32)
    for row in range(-(-maps.shape[0] // TILE)):
        for left in range(0, -(-maps.shape[1] // TILE), TOGETHER):
            for k in range(TOGETHER):
                _cut(maps, row, left + k, seen, MAPS)
                _moved(seen, once, LANES)
                _moved(once, moved[k], LANES)
            for i in range(SEEN):
                for j in range(SEEN):
                    w = weights[i, j]
                    for k in range(TOGETHER):
                        x = moved[k, i, j]
                        x0, x1, x2, x3, x4, x5 = x[0], x[1], x[2], x[3], x[4], x[5]
                        for c in range(channels):
                            some = x0 * w[0, c] + x1 * w[1, c] + x2 * w[2, c]
                            products[k, i, j, c] = some + x3 * w[3, c] + x4 * w[4, c] + x5 * w[5, c]
            for k in range(TOGETHER):
                for c in range(channels):
                    products[k, 1, 1, c] += biases[c]
                _outputs(products[k], half, SEEN, channels)
                _outputs(half, found, TILE, channels)
                _pooled(found, row, left + k, small, channels)


@inlined
def _cut(maps: Floats, row: int, column: int, seen: Floats, channels: int) -> None:
    """Write a tile's inputs into `seen` (6, 6, c). Around the maps are zeros."""
    height, width, _ = maps.shape
    for i in range(SEEN):
        for j in range(SEEN):
            y, x = TILE * row + i - 1, TILE * column + j - 1
            inside = 0 <= y < height and 0 <= x < width
            for c in range(channels):
                seen[i, j, c] = maps[y, x, c] if inside else ZERO


@inlined
def _pooled(found: Floats, row: int, column: int, small: Floats, channels: int) -> None:
    """Write the ReLU of the 2x2 max pooling of a tile's outputs (4, 4, c) into small maps."""
    top, left = TILE // 2 * row, TILE // 2 * column
    for i in range(min(TILE // 2, small.shape[0] - top)):
        for j in range(min(TILE // 2, small.shape[1] - left)):
            for c in range(channels):
                upper = _larger(found[2 * i, 2 * j, c], found[2 * i, 2 * j + 1, c])
                lower = _larger(found[2 * i + 1, 2 * j, c], found[2 * i + 1, 2 * j + 1, c])
                small[top + i, left + j, c] = _larger(_larger(upper, lower), ZERO)


@inlined
def _moved(seen: Floats, across: Floats, channels: int) -> None:
    """A tile's inputs (6, 6, c) times Lavin and Gray's matrix B', transposed."""
    for j in range(SEEN):
        for c in range(channels):
            x0, x1, x2 = seen[0, j, c], seen[1, j, c], seen[2, j, c]
            x3, x4, x5 = seen[3, j, c], seen[4, j, c], seen[5, j, c]
            even, odd, near, far = x4 - FOUR * x2, x3 - FOUR * x1, x4 - x2, TWO * (x3 - x1)
            across[j, 0, c] = FOUR * x0 - FIVE * x2 + x4
            across[j, 1, c] = even + odd
            across[j, 2, c] = even - odd
            across[j, 3, c] = near + far
            across[j, 4, c] = near - far
            across[j, 5, c] = FOUR * x1 - FIVE * x3 + x5


@inlined
def _outputs(products: Floats, across: Floats, n: int, channels: int) -> None:
    """A tile's products (6, n, c) times Lavin and Gray's matrix A', transposed: (n, 4, c)."""
    for j in range(n):
        for c in range(channels):
            x0, x1, x2 = products[0, j, c], products[1, j, c], products[2, j, c]
            x3, x4, x5 = products[3, j, c], products[4, j, c], products[5, j, c]
            near, apart, far, wide = x1 + x2, x1 - x2, x3 + x4, x3 - x4
            across[j, 0, c] = x0 + near + far
            across[j, 1, c] = apart + TWO * wide
            across[j, 2, c] = near + FOUR * far
            across[j, 3, c] = apart + EIGHT * wide + x5


@inlined
def _larger(a: float, b: float) -> float:
    """The larger of two, or that which is no number."""
    return a if a > b or a != a else b
