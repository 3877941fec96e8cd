"""Essentia's features of a prepared data set: its files -> every core -> this process, which writes.

A file of loops gives a file of features, which appears whole or not at all: what is there is not computed again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import pyarrow as pa

from looptagger.archive.patience import patiently
from looptagger.archive.storage import Folder
from looptagger.archive.tags import write_part
from looptagger.cluster.cores import Computed
from looptagger.config import Audio
from looptagger.learn import table
from looptagger.learn.table import Dataset
from looptagger.paper import features

FILE = "file"
"""The passing column that says which file of loops a row is of."""
ALL_TEST = "all"
"""In place of a split: every loop is judged, none is learned from."""


@dataclass(frozen=True)
class Source:
    """A data set whose features are wanted, the split whose parts say what is heard of a loop, and their place."""

    data: Folder
    dataset: Dataset
    split: str
    sub: str

    def parts(self, rows: pa.Table) -> list[str]:
        """Each loop's part."""
        return ["test"] * rows.num_rows if self.split == ALL_TEST else rows.column(self.split).to_pylist()


def name_of(part: str) -> str:
    """The file of features that belongs to a file of loops."""
    return part.replace(table.STEM, "features-")


def left(source: Source, out: Folder) -> list[str]:
    """The data set's files whose features are not there."""
    there = set(out.names(source.sub))
    return [part for part in source.dataset.parts if name_of(part) not in there]


def extract(source: Source, out: Folder, computed: Computed, progress: Callable[[int, int], None]) -> None:
    """Compute and store what is left."""
    parts, total = left(source, out), len(source.dataset.parts)
    found = computed([pa.table({FILE: [part]}) for part in parts], _extract, in_order=False, source=source)
    for done, rows in enumerate(found, total - len(parts) + 1):
        name, kept = f"{source.sub}/{name_of(rows.column(FILE)[0].as_py())}", rows.drop_columns([FILE])
        patiently(partial(write_part, out, name, kept), out.storage)
        progress(done, total)


def _extract(files: pa.Table, source: Source) -> Iterator[pa.Table]:
    extractor = _extractor(source.dataset.sample_rate)
    for part in files.column(FILE).to_pylist():
        rows = table.read(source.data, part)
        found = features.extracted(rows, extractor, Audio(sample_rate=source.dataset.sample_rate), source.parts(rows))
        yield found.append_column(FILE, pa.array([part] * found.num_rows))


@cache
def _extractor(sample_rate: int) -> features.Extractor:
    """One a process: making Essentia's algorithms takes longer than running them on a chunk."""
    return features.Extractor(sample_rate)
