"""The training table: prepared loops as Parquet, one row a loop, with waveform, labels and split columns.

`DIR/loops-*.parquet` holds the rows in a shuffled order; `DIR/dataset.json`, written last, says what they are.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from looptagger.archive.patience import patiently
from looptagger.archive.storage import Folder
from looptagger.archive.tags import read_part
from looptagger.config import SPLITS, Settings
from looptagger.errors import Unreachable, UserError
from looptagger.learn.loops import Loop
from looptagger.roles import ROLES

NAME, STEM = "dataset.json", "loops-"
SAMPLE = 200
"""Digests in a data set's sample: 3 kB of a checkpoint."""
PART_ROWS = 64
"""Loops a part: some 20 MB of 10 s loops."""

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("waveform", pa.list_(pa.field("item", pa.int16(), nullable=False)), nullable=False),
        *[pa.field(role, pa.bool_(), nullable=False) for role in ROLES],
        pa.field("uploader", pa.string()),
        pa.field("pack", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("duration_s", pa.float64(), nullable=False),
        *[pa.field(split, pa.string(), nullable=False) for split in SPLITS],
    ]
)


class Dataset(Settings):
    """What DIR/dataset.json says of a prepared table."""

    format: Literal[1] = 1
    source: str
    rule: str
    sample_rate: int
    digest: str
    """SHA-256 over ids, labels and waveforms, whatever their order."""
    dealt: dict[str, str]
    """Split -> SHA-256 over ids and the part of each."""
    parts: tuple[Annotated[str, Field(pattern=rf"^{STEM}\d{{5,}}\.parquet$")], ...]
    annotated: int
    dropped: dict[str, int]
    shares: tuple[float, float, float]
    seed: int
    counts: dict[str, dict[str, dict[str, int]]]
    """Split -> part -> `loops` and each role -> how many."""
    licences: dict[str, int]
    twins: dict[str, int]
    """Split -> loops whose very audio is in another part of it, too."""
    sample: tuple[str, ...] = ()
    """Digests of some loops' audio, the smallest ones: of data sets that share many loops, some are the same."""

    def size(self, split: str = SPLITS[0], part: str = "all") -> int:
        """How many loops a part of a split holds, or the whole."""
        return sum(count["loops"] for name, count in self.counts[split].items() if part in (name, "all"))


def part_name(number: int) -> str:
    """The file of a part: not named as tags are, so that neither is ever taken for the other."""
    return f"{STEM}{number:05d}.parquet"


def is_part(name: str) -> bool:
    """Whether a file is a part by its name. A user's own `loops-1.wav` beside it is none."""
    return re.fullmatch(rf"{STEM}\d{{5,}}\.parquet", name) is not None


def write_part(folder: Folder, number: int, table: pa.Table) -> None:
    """Store one part. Delta coding makes 16-bit audio a third smaller, and reads as fast as none."""
    sink = pa.BufferOutputStream()
    coded = {"waveform.list.element": "DELTA_BINARY_PACKED"}
    flat = [name for name in SCHEMA.names if name != "waveform"]
    how = {"compression": "zstd", "use_dictionary": flat, "column_encoding": coded, "write_page_checksum": True}
    pq.write_table(table, sink, **how)
    patiently(lambda: folder.write(part_name(number), sink.getvalue()), folder.storage)


def find(folder: Folder) -> Dataset:
    """The description of a prepared table. Raises UserError for a folder that holds none."""
    data = folder.read(NAME)
    if data is None:
        raise UserError(f"{folder.uri}: no prepared data set; make one with looptagger prepare SOURCE -o {folder.uri}.")
    try:
        return Dataset.model_validate_json(data)
    except ValidationError:
        raise UserError(f"{folder.uri}/{NAME}: not understood; prepare the data set again with --overwrite.") from None


def digest(lines: Sequence[str]) -> str:
    """One SHA-256 over the loops' own digests, whatever their order."""
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def digest_lines(table: pa.Table) -> list[str]:
    """A line for each loop: id, roles, SHA-256 of its waveform."""
    labels = truth(table)
    ids = table.column("id").to_pylist()
    pcm = [hashlib.sha256(wave.tobytes()).hexdigest() for wave in waveforms(table)]
    return [f"{ids[i]} {''.join('01'[int(on)] for on in labels[i])} {pcm[i]}" for i in range(len(ids))]


def audio_digests(folder: Folder, dataset: Dataset, split: str, part: str) -> Iterator[bytes]:
    """The SHA-256 of each loop's waveform, of one part of a split."""
    for some in rows(folder, dataset, split, part, ["waveform"]):
        yield from (hashlib.sha256(wave.tobytes()).digest() for wave in waveforms(some))


def truth(table: pa.Table) -> NDArray[np.bool_]:
    """The labels, (n_loops, 6) in ROLES order."""
    return np.column_stack([table.column(role).to_numpy(zero_copy_only=False) for role in ROLES]).astype(bool)


def waveforms(table: pa.Table) -> list[NDArray[np.int16]]:
    """The int16 waveforms, without a copy."""
    return [wave.values.to_numpy() for wave in table.column("waveform")]


def rows(
    folder: Folder, dataset: Dataset, split: str, part: str, columns: Sequence[str] | None = None
) -> Iterator[Any]:
    """Tables of the loops of one part of a split, file by file; the part `all` means every loop."""
    for name in dataset.parts:
        yield in_part(read(folder, name, None if columns is None else [*columns, split]), split, part)


def read(folder: Folder, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of one file of a table, or some of its columns. Raises UserError for one that is not there or broken."""
    remedy = "copy the data set again, or prepare it again with --overwrite"
    try:
        found = patiently(lambda: read_part(folder, name, columns), folder.storage)
    except Unreachable:
        raise
    except (FileNotFoundError, UserError):
        raise UserError(f"{folder.uri}/{name}: is missing, or cannot be read whole; {remedy}.") from None
    if found.schema != pa.schema([SCHEMA.field(each) for each in found.column_names if each in SCHEMA.names]):
        raise UserError(f"{folder.uri}/{name}: has other columns than a prepared data set; {remedy}.")
    return found


def in_part(table: pa.Table, split: str, part: str) -> pa.Table:
    """The loops of a table that a split puts into a part."""
    return table if part == "all" else table.filter(pc.equal(table.column(split), part))


def makers(folder: Folder, dataset: Dataset, split: str, part: str) -> dict[str, str]:
    """Who made each loop of a part, by id and in the table's order: `Loop.group`, its uploader, else its pack, ..."""
    found: dict[str, str] = {}
    for some in rows(folder, dataset, split, part, ["id", "uploader", "pack"]):
        for loop in some.to_pylist():
            found[loop["id"]] = Loop(loop["id"], "", frozenset(), loop["uploader"], loop["pack"]).group
    return found
