"""How the benchmarks time: pieces of work in turn, as ratios."""

import statistics
import time
from collections.abc import Callable, Sequence

ROUNDS = 5


def seconds(work: Callable[[], object]) -> float:
    """How long a piece of work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def paired(ours: Callable[[], object], theirs: Callable[[], object]) -> list[float]:
    """Speed of `ours` over `theirs`, measured in turn after a round of warming up."""
    ours(), theirs()
    return [seconds(theirs) / seconds(ours) for _ in range(ROUNDS)]


def spread(ratios: Sequence[float]) -> str:
    """A ratio's median and range."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
