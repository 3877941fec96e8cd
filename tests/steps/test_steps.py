import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from looptagger.archive import fetch
from looptagger.archive.tags import CODE
from looptagger.archive.writer import CHUNK_SCORES, CHUNK_STARTS
from looptagger.config import Audio, Limits, Storage, Tag
from looptagger.model.code import codes
from looptagger.model.predictor import Predictor
from looptagger.steps import decoding, tagging
from tests.conftest import audio_bytes, tone, write_tones


@pytest.fixture(scope="module")
def predictor(tiny_model: str) -> Predictor:
    return Predictor.load(tiny_model)


def rows(paths: list[Path | str]) -> pa.Table:
    uris = [str(path) for path in paths]
    return pa.table({"id": uris, "uri": uris, "bpm": list(range(len(uris)))})


def run(table: pa.Table, predictor: Predictor, **how: bool) -> pa.Table:
    wanted = {"chunks": False, "embedding": False} | how
    tables = [tagging.tagged(each, predictor, **wanted) for each in decoding.decoded(table, Audio(), Tag())]
    return pa.concat_tables(tables)


def test_every_row_comes_back_in_order_with_a_result_or_a_reason(predictor: Predictor, tmp_path: Path) -> None:
    good = write_tones(tmp_path, 40)
    (tmp_path / "junk.wav").write_bytes(b"junk" * 99)
    paths: list[Path | str] = [*good[:20], tmp_path / "gone.wav", tmp_path / "junk.wav", "s4://x/y", *good[20:]]
    table = run(rows(paths), predictor)
    assert table.column("uri").to_pylist() == [str(path) for path in paths]
    assert table.column("bpm").to_pylist() == list(range(43))
    assert table.column("status").to_pylist()[20:23] == ["missing", "undecodable", "unreadable"]
    assert "s4:// cannot be reached" in table.column("error").to_pylist()[22]
    assert table.column("bass").null_count == 3
    assert table.column("roles").null_count == 3
    assert table.column("error").null_count == 40
    assert table.column("model").to_pylist() == [predictor.model_id] * 43


def test_a_file_that_opens_but_cannot_be_read_costs_its_own_row(predictor: Predictor, tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise OSError(5, "Input/output error")

    found = fetch.made(Broken(), lambda file: file.read(), Storage(), Limits(), lambda: None)
    assert (found.status, str(found)) == ("unreadable", "Input/output error")


def test_long_clips_are_opened_fewer_at_a_time(tmp_path: Path) -> None:
    paths = write_tones(tmp_path, 20)
    sizes = {most: [] for most in (40, 500, 1200)}
    for most, found in sizes.items():
        found += [
            each.num_rows for each in decoding.decoded(rows(list(paths)), Audio(), Tag(chunking={"max_chunks": most}))
        ]
    assert sizes == {40: [16, 4], 500: [4] * 5, 1200: [1] * 20}


def test_scores_do_not_depend_on_the_batch(predictor: Predictor, tmp_path: Path) -> None:
    paths = write_tones(tmp_path, 6, seconds=4.0)
    together = run(rows(list(paths)), predictor)
    alone = pa.concat_tables([run(rows([path]), predictor) for path in paths])
    assert np.allclose(together.column("bass"), alone.column("bass"), atol=1e-6)


def test_a_group_without_any_audio(predictor: Predictor, tmp_path: Path) -> None:
    table = run(rows([tmp_path / "a", tmp_path / "b"]), predictor, chunks=True, embedding=True)
    assert table.column("voice").null_count == 2
    assert table.column("embedding").null_count == table.column("embedding_code3").null_count == 2


def test_chunks_and_embeddings(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "long.wav").write_bytes(audio_bytes(tone(7.0)))
    table = run(rows([tmp_path / "gone", tmp_path / "long.wav"]), predictor, chunks=True, embedding=True)
    scores = np.array(table.column(CHUNK_SCORES)[1].as_py()).reshape(-1, 6)
    assert table.column(CHUNK_STARTS)[1].as_py() == [0.0, 3.0, 4.0]
    assert np.allclose(scores[:, 1].mean(), table.column("bass")[1].as_py(), atol=1e-6)
    assert table.schema.field("embedding").type == pa.list_(pa.float16(), 8)
    vector = np.array(table.column("embedding")[1].as_py(), np.float16)
    assert vector.shape == (8,)
    assert [table.column(name)[1].as_py() for name in CODE] == codes(vector[None])[0].tolist()
