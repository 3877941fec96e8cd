"""A prepared data set as a source of Ray Data. Apart from training.py: the tasks that read need no torch."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from looptagger.archive.storage import Folder
from looptagger.cluster.session import adopt
from looptagger.learn import table


class PartSource(Datasource):
    """The training part of a split: each read task gives the rows that one file has of it."""

    def __init__(self, data: Folder, parts: Sequence[str], split: str, environment: dict[str, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._data, self._parts, self._split, self._environment = data, parts, split, environment

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown: the rows' audio is of any length."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task a file, whatever parallelism Ray suggests."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        where = (self._data, self._split, self._environment)
        return [ReadTask(partial(_read, name, *where), metadata, schema=table.SCHEMA) for name in self._parts]


def _read(name: str, data: Folder, split: str, environment: dict[str, str]) -> Iterator[pa.Table]:
    adopt(environment)
    yield table.in_part(table.read(data, name), split, "train")
