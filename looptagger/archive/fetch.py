"""Rows with what is made of their files, a few at a time, the next ones fetched meanwhile."""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count, groupby, islice
from typing import BinaryIO, TypeVar

import pyarrow as pa

from looptagger.archive.opening import delay_s, open_files, unread, whole
from looptagger.archive.several import several
from looptagger.archive.storage import scheme
from looptagger.config import Limits, Storage
from looptagger.errors import ClipFailed, Unreachable

T = TypeVar("T")
Begin = Callable[[int, float], None]
"""Told of each row before its file is read: its number, and how many seconds it may take longer than others."""
Lost = Iterable[tuple[int, str]]
"""Rows that are not to be read, and why: each cost a process its life."""


def read(
    rows: pa.Table, most: int, storage: Storage, limits: Limits, work: Callable[[BinaryIO], T], begin: Begin, lost: Lost
) -> Iterator[tuple[pa.Table, list[T | ClipFailed], list[float]]]:
    """At most so many rows, what `work` makes of each one's file, or why it cannot, and the seconds that took.

    Raises Unreachable where the store, and not a file, is at fault.
    """
    reasons, numbers = dict(lost), count()
    fetched = lambda group: (group[0], open_files(group[1], storage, limits))  # noqa: E731
    for group, files in several(fetched, _groups(rows, most), 2):  # these, and the next meanwhile
        found: list[T | ClipFailed] = []
        seconds = []
        for file, row in zip(files, numbers, strict=False):
            began = time.perf_counter()
            if row in reasons:
                found.append(ClipFailed("undecodable", reasons[row]))
            else:
                again = partial(begin, row, delay_s(file, storage))
                again()
                found.append(file if isinstance(file, ClipFailed) else made(file, work, storage, limits, again))
            seconds.append(time.perf_counter() - began)
        yield group, found, seconds


def made(
    file: BinaryIO, work: Callable[[BinaryIO], T], storage: Storage, limits: Limits, again: Callable[[], None]
) -> T | ClipFailed:
    """What `work` makes of a file; whatever is wrong with it costs this row alone. Raises Unreachable."""
    try:
        return whole(file, work, storage, again)
    except Unreachable:
        raise
    except ClipFailed as why:
        return why
    except MemoryError:
        return ClipFailed("too_large", f"decoding needs more than limits.max_memory = {limits.max_memory:,} bytes")
    except Exception as error:  # a file that could be opened but not read
        return unread(error)


def _groups(rows: pa.Table, most: int) -> Iterator[tuple[pa.Table, list[str]]]:
    """Rows in order, so many at the most, all of one scheme."""
    start = 0
    for _, same in groupby(rows.column("uri").to_pylist(), scheme):
        while uris := list(islice(same, most)):
            yield rows.slice(start, len(uris)), uris
            start += len(uris)
