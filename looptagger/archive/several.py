"""Files read several at once, ahead of need: on a store, each is two answers to wait for."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

READERS = 16
"""Read at once, and held at most."""

T = TypeVar("T")
R = TypeVar("R")


def several(read: Callable[[T], R], items: Iterable[T], most: int = READERS) -> Iterator[R]:
    """What `read` gives of each item, in order, `most` of them at once, in threads. Raises what it does."""
    with ThreadPoolExecutor(most) as pool:
        coming = deque[Future[R]]()
        try:
            for item in items:
                coming.append(pool.submit(read, item))
                if len(coming) >= most:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for each in coming:
                each.cancel()
