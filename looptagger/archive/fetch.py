"""Rows with their files open, a few at a time, the next ones fetched meanwhile."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import pyarrow as pa

from looptagger.archive.opening import Unread, open_files
from looptagger.archive.storage import scheme
from looptagger.config import Limits, Storage

Opened = tuple[pa.Table, list[BinaryIO | Unread]]


def opened(rows: pa.Table, most: int, storage: Storage, limits: Limits) -> Iterator[Opened]:
    """Groups of at most so many rows with their files open; remote files of the next group are fetched meanwhile."""
    groups = list(_groups(rows, most))
    with ThreadPoolExecutor(1) as pool:
        fetch = [pool.submit(open_files, uris, storage, limits) for _, uris in groups[:1]]
        for number, (group, _) in enumerate(groups):
            files = fetch.pop().result()
            fetch = [pool.submit(open_files, uris, storage, limits) for _, uris in groups[number + 1 :][:1]]
            yield group, files


def _groups(rows: pa.Table, most: int) -> Iterator[tuple[pa.Table, list[str]]]:
    """Rows in order, so many at the most, all of one scheme."""
    uris = rows.column("uri").to_pylist()
    start = 0
    while start < len(uris):
        stop = start + 1
        while stop < min(len(uris), start + most) and scheme(uris[stop]) == scheme(uris[start]):
            stop += 1
        yield rows.slice(start, stop - start), uris[start:stop]
        start = stop
