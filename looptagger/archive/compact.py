"""Many small parts into few large ones, in place and in the manifest's order."""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from looptagger.archive import counts, output, tags
from looptagger.archive.several import several
from looptagger.archive.storage import Folder

ROWS = 1_000_000
BYTES = 256 << 20
"""A compacted part stays under both, roughly: a size that query engines like and memory bears."""


def compact(folder: Folder) -> tuple[int, int]:
    """Join neighbouring parts; the number of parts before and after. The caller holds the output's lock.

    A joined part's name covers those it replaces, so that a run cut off between its writing and their deletion
    leaves nothing in doubt: the next run deletes them. For that moment a reader of OUT sees their rows twice.
    """
    output.tidy(folder)
    live, _ = output.parts(folder)
    subs = (f"{tags.CHUNKS}/", "") if output.require(folder).identity["chunks"] else ("",)
    groups = _groups(folder, live, subs)
    kept, joint = counts.load(folder), dict[str, Counter[str]]()
    folder.delete([counts.NAME])
    for group in groups:
        joined = tags.Part(group[0].first, group[-1].last)
        if len(group) > 1:
            found = {sub: _joined(folder, sub, group) for sub in subs}
            for sub, data in found.items():  # the part after its chunks: it is what says that they are done
                folder.write(sub + joined.name, data)
            found.clear()
            for sub in reversed(subs):
                folder.delete([sub + part.name for part in group])
        if all(part.name in kept for part in group):
            joint[joined.name] = sum((kept[part.name] for part in group), Counter[str]())
    counts.store(folder, joint)
    return len(live), len(groups)


def _groups(folder: Folder, live: Sequence[tags.Part], subs: Sequence[str]) -> list[list[tags.Part]]:
    """Runs of neighbouring parts that together stay under the bounds; of their chunks, the bytes count."""
    groups: list[list[tags.Part]] = []
    rows = size = 0
    measured = several(lambda part: [_measured(folder, sub + part.name) for sub in subs], live)
    for part, found in zip(live, measured, strict=True):
        more_rows, more_size = found[-1][0], max(size for _, size in found)
        follows = bool(groups) and part.first == groups[-1][-1].last + 1
        if follows and rows + more_rows <= ROWS and size + more_size <= BYTES:
            groups[-1].append(part)
            rows, size = rows + more_rows, size + more_size
        else:
            groups.append([part])
            rows, size = more_rows, more_size
    return groups


def _joined(folder: Folder, sub: str, parts: Sequence[tags.Part]) -> pa.Buffer:
    """The rows of some parts as the bytes of one. Raises UserError where one is gone."""
    names = [sub + part.name for part in parts]
    schema = _read(folder, names[0]).schema
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, **tags.encoding(schema)) as writer:
        tables = several(lambda name: _read(folder, name).cast(schema), names, output.readers(parts))
        for group in tags.regrouped(tables, tags.group_rows(schema)):
            writer.write_table(group)
    return sink.getvalue()


def _read(folder: Folder, name: str) -> pa.Table:
    with tags.present(folder, name):
        return tags.read_part(folder, name)


def _measured(folder: Folder, name: str) -> tuple[int, int]:
    with tags.present(folder, name), tags.opened(folder, name) as file:
        return pq.read_metadata(file).num_rows, file.size
