"""Many small parts into few large ones, in place and in the manifest's order."""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from looptagger.archive import counts, output, tags
from looptagger.archive.several import several
from looptagger.archive.storage import Folder
from looptagger.archive.writer import Check

ROWS = 1_000_000
BYTES = 256 << 20
"""A compacted part stays under both, roughly: a size that query engines like and memory bears."""


def compact(folder: Folder, check: Check = lambda: None) -> tuple[int, int]:
    """Join neighbouring parts; the number of parts before and after. The caller holds the output's lock.

    `check` raises where it is no longer the caller's: see lock.held.

    A joined part's name covers those it replaces, so that a run cut off between its writing and their deletion
    leaves nothing in doubt: the next run deletes them. For that moment a reader of OUT sees their rows twice.
    """
    output.tidy(folder)
    finish(folder, check)
    live, _ = output.parts(folder)
    subs = (f"{output.CHUNKS}/", "") if output.require(folder).identity["chunks"] else ("",)
    groups = _groups(folder, live, subs)
    kept, joint = counts.load(folder), dict[str, Counter[str]]()
    check()
    folder.delete([counts.NAME])
    for group in groups:
        joined = tags.Part(group[0].first, group[-1].last)
        if len(group) > 1:
            for sub in subs:
                _join(folder, sub, group, joined.name, check)
        if all(part.name in kept for part in group):
            joint[joined.name] = sum((kept[part.name] for part in group), Counter[str]())
    check()
    counts.store(folder, joint)
    return len(live), len(groups)


def finish(folder: Folder, check: Check = lambda: None) -> None:
    """Join the parts whose chunk parts a compaction had joined when it was cut off, so that each has its own again."""
    live = output.parts(folder)[0]
    names = {part.name for part in live}
    for joined in [each for each in output.parts(folder, output.CHUNKS)[0] if each.name not in names]:
        group = [part for part in live if joined.first <= part.first and part.last <= joined.last]
        shards = sum(part.last - part.first + 1 for part in group)
        if shards == joined.last - joined.first + 1:  # else its name would say that what is missing is there
            check()
            folder.delete([counts.NAME])
            _join(folder, "", group, joined.name, check)


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


def _join(folder: Folder, sub: str, parts: Sequence[tags.Part], joined: str, check: Check) -> None:
    """Write the rows of some parts as one, then delete those. Raises UserError where one is gone."""
    names = [sub + part.name for part in parts]
    schema = _read(folder, names[0]).schema
    sink, group = pa.BufferOutputStream(), tags.group_rows(schema)
    with pq.ParquetWriter(sink, schema, **tags.encoding(schema)) as writer:
        waiting = schema.empty_table()
        for table in several(lambda name: _read(folder, name).cast(schema), names, output.readers(parts)):
            waiting = pa.concat_tables([waiting, table])
            if whole := waiting.num_rows // group * group:
                writer.write_table(waiting.slice(0, whole), row_group_size=group)
                waiting = waiting.slice(whole)
        if waiting.num_rows:
            writer.write_table(waiting)
    check()  # reading may have taken minutes
    folder.write(sub + joined, sink.getvalue())
    check()
    folder.delete(names)


def _read(folder: Folder, name: str) -> pa.Table:
    with tags.present(folder, name):
        return tags.read_part(folder, name)


def _measured(folder: Folder, name: str) -> tuple[int, int]:
    with tags.present(folder, name), tags.opened(folder, name) as file:
        return pq.read_metadata(file).num_rows, folder.fs.size(folder.at(name))
