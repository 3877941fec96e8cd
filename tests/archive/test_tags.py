from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from looptagger.archive import tags
from looptagger.archive.storage import Folder
from looptagger.errors import UserError


@pytest.mark.parametrize("part", [tags.Part(0, 0), tags.Part(12, 12), tags.Part(3, 90), tags.Part(10**8, 10**8)])
def test_names_say_which_shards_a_part_holds(part: tags.Part) -> None:
    assert tags.parse(part.name) == part


@pytest.mark.parametrize(
    "name", ["part-1.parquet", "x.parquet", ".part-0000000.parquet.1.tmp", "part-0000000.parquet.x"]
)
def test_other_names_are_not_ours(name: str) -> None:
    assert tags.parse(name) is None


def test_schema_and_names_that_are_taken() -> None:
    names = tags.schema(pa.schema([("id", pa.string()), ("bpm", pa.int64())]), 8).names
    assert names[-7:] == ["embedding", *tags.CODE, "embedding_row", "bpm"]
    for name in ("status", "voice", "embedding", "embedding_code0", "_part"):
        with pytest.raises(UserError, match=name):
            tags.schema(pa.schema([(name, pa.string())]))


def test_parts_are_stored_tightly_and_come_back_the_same(tmp_path: Path) -> None:
    mine = pa.schema([("half", pa.float16()), ("words", pa.list_(pa.string())), ("many", pa.list_(pa.float32(), 4))])
    table = pa.table(
        {
            "id": [f"s3://bucket/loops/{i:06d}.wav" for i in range(5000)],
            "percussion": pa.array([i / 5000 for i in range(5000)], pa.float32()),
            "roles": pa.array([["bass", "chord"]] * 5000, pa.list_(pa.string())),
            "half": pa.array(np.zeros(5000, np.float16)),
            "words": pa.array([["a"], None] * 2500, mine.field("words").type),
            "many": pa.array([[1.0] * 4] * 5000, mine.field("many").type),
        }
    )
    tags.write_part(Folder(str(tmp_path)), "part-0000000.parquet", table)
    assert tags.read_part(Folder(str(tmp_path)), "part-0000000.parquet") == table
    group = pq.read_metadata(tmp_path / "part-0000000.parquet").row_group(0)
    coded = {group.column(i).path_in_schema: group.column(i).encodings for i in range(group.num_columns)}
    assert "DELTA_BYTE_ARRAY" in coded["id"]
    assert not any("BYTE_STREAM_SPLIT" in each for each in coded.values()), "Spark 4.1 and those before read none"
    assert {"RLE_DICTIONARY"} <= set(coded["roles.list.element"]) & set(coded["words.list.element"])
