from pathlib import Path

import pytest

from looptagger.config import Model, Tag, load
from looptagger.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"


def test_overrides_come_after_the_file(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text("chunking: {max_chunks: 7, silence_db: -60}\n")
    tag = load(Tag, file, ["chunking.max_chunks=9", "storage.endpoint_url=http://localhost:1", "compute.device=cpu"])
    assert (tag.chunking.max_chunks, tag.chunking.silence_db) == (9, -60)
    assert tag.storage.endpoint_url == "http://localhost:1"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("chunking.max_chunk=9", "no setting 'chunking.max_chunk'"),
        ("chunking.max_chunks=0", "chunking.max_chunks.*greater than or equal to 1"),
        ("compute.device=tpu", "'auto', 'cpu' or 'cuda'"),
        ("chunking", "key=value"),
        ("chunking.max_chunks=[", "not a value"),
        ("chunking.max_chunks.deep=1", "max_chunks"),
    ],
)
def test_bad_overrides_are_one_sentence(override: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        load(Tag, None, [override])
    assert "\n" not in str(error.value)
    assert "--set" in str(error.value)


@pytest.mark.parametrize("text", ["a: [", "- 1\n", "nothing: 1\n", "chunking: 5\n"])
def test_bad_files_are_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match="t.yaml"):
        load(Tag, file)
    with pytest.raises(UserError, match="cannot be read"):
        load(Tag, tmp_path / "nope.yaml")


def test_the_shipped_file_lists_every_setting_at_its_default() -> None:
    import yaml

    assert load(Tag, CONFIGS / "tag.yaml") == Tag()
    assert yaml.safe_load((CONFIGS / "tag.yaml").read_text()).keys() == Tag.model_fields.keys()
    for name, group in yaml.safe_load((CONFIGS / "tag.yaml").read_text()).items():
        assert group.keys() == type(getattr(Tag(), name)).model_fields.keys()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Model().channels = 3  # type: ignore[misc]
