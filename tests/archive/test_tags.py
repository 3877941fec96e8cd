import pyarrow as pa
import pytest

from looptagger.archive import tags
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
    assert tags.schema(pa.schema([("id", pa.string()), ("bpm", pa.int64())]), 8).names[-2:] == ["embedding", "bpm"]
    for name in ("status", "voice", "embedding", "_part"):
        with pytest.raises(UserError, match=name):
            tags.schema(pa.schema([(name, pa.string())]))
