"""The programs in jobs/ that nothing else runs, briefly."""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import soxr

from jobs import bench_decode, bench_queries, fuzz
from jobs.bench import make_clips
from jobs.peers.__main__ import first_roles
from jobs.peers.common import Rows, chunks, network, scored
from looptagger.archive import tags
from looptagger.archive.storage import Folder
from looptagger.model.predictor import Predictor
from looptagger.steps.isolated import Helper


def test_broken_files_each_have_a_row(tmp_path: Path) -> None:
    helper = Helper()
    heard = pa.concat_tables(table for table, _ in fuzz.rows(400, 1, [], helper))
    helper.close()
    status, error = heard.column("status").to_pylist(), heard.column("error").to_pylist()
    assert len(status) == 400
    assert {"ok", "undecodable"} <= set(status) <= set(tags.STATUSES)
    assert [text is None for text in error] == [found == "ok" for found in status]


def test_readmes_questions_to_synthetic_rows(tmp_path: Path) -> None:
    rows = bench_queries.rows(0, 3000)
    for name, table in (("tags", rows), ("similar", bench_queries.with_embeddings(rows, 0))):
        tags.write_part(Folder(str(tmp_path / name)), tags.Part(0, 0).name, table)
    bench_queries.write_manifest([rows], str(tmp_path / "manifest.parquet"))
    known = rows.column("id")[7].as_py()
    end = f"/{known.rpartition('/')[2]}"
    answers = {}
    for name, query in bench_queries.questions(end):
        answers[name] = duckdb.execute(bench_queries.placed(query, str(tmp_path))).fetchall()
    assert len(answers) == 6
    *_, near = answers.values()
    e = f"select embedding::float[128] as e from '{tmp_path}/similar/*.parquet' where id = '{known}'"
    exact = duckdb.execute(
        f"with this as ({e}) select id, array_cosine_similarity(embedding::float[128], e) as alike "
        f"from '{tmp_path}/similar/*.parquet', this where status = 'ok' order by alike desc limit 5"
    ).fetchall()
    assert near == exact
    assert near[0] == (known, pytest.approx(1.0, abs=1e-3))
    assert len(answers["clips by role"]) == 6
    by_hand = duckdb.execute(f"select count(*) from '{tmp_path}/tags/*.parquet' where percussion > 0.5").fetchall()
    assert sum(row[1] for row in answers[next(name for name in answers if "manifest" in name)]) == by_hand[0][0]
    assert len(answers["roles that come together"]) == 15
    both = "list_contains(roles, 'bass') and list_contains(roles, 'fx')"
    by_hand = duckdb.execute(f"select count(*) from '{tmp_path}/tags/*.parquet' where {both}").fetchall()
    assert ("bass", "fx", by_hand[0][0]) in answers["roles that come together"]
    assert {row[0]: row[1] for row in answers["why clips failed"]}["undecodable"] > 10
    polars = bench_queries.polars_seconds(str(tmp_path), end)
    assert len(polars) == 6
    assert all(any(asked.startswith(name) for asked in answers) for name in polars)


def test_peers_decode_and_score_alike(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 4)
    peers = (bench_decode.librosa, bench_decode.torchaudio, bench_decode.pyav, bench_decode.essentia)
    for clip in clips:
        wanted = soundfile.info(clip).duration * 16_000
        for peer in peers:
            heard = peer(clip)
            assert len(heard) == pytest.approx(wanted, abs=0.08 * 16_000), peer  # mp3 frames are filled up
            # PyAV's mono is louder than a mean
            assert np.std(heard) == pytest.approx(np.std(bench_decode.librosa(clip)), rel=0.5), peer
        assert wanted <= len(bench_decode.ours(clip)) < wanted + 2 * 48_000
    samples, rate = soundfile.read(clips[0], dtype="float32")
    heard = chunks(soxr.resample(samples.reshape(len(samples), -1).mean(axis=1), rate, 16_000))
    rows = Rows()
    rows.add(clips[0].name, scored(network("starter"), heard))
    rows.write(str(tmp_path / "scores.parquet"))
    found = Predictor.load("starter")(samples, rate).scores
    surest = max(found, key=lambda role: found[role])
    assert dict(first_roles(str(tmp_path / "scores.parquet"))) == {clips[0].name: surest}
    as_daft = pa.table({"id": [str(clips[0])], "scores": [list(found.values())]})
    pq.write_table(as_daft, tmp_path / "daft.parquet")
    assert dict(first_roles(str(tmp_path / "daft.parquet"))) == {clips[0].name: surest}
