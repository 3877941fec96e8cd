"""The programs in jobs/ that nothing else runs, briefly."""

from pathlib import Path

import duckdb
import pyarrow as pa

from jobs import bench_queries, fuzz
from looptagger.archive import tags
from looptagger.archive.storage import Folder
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
    tags.write_part(Folder(str(tmp_path)), tags.Part(0, 0).name, bench_queries.rows(0, 3000))
    answers = {
        name: duckdb.execute(query.replace("'tags/", f"'{tmp_path}/")).fetchall()
        for name, query in bench_queries.questions()
    }
    assert len(answers) == 4
    assert len(answers["clips by role"]) == 6
    assert len(answers["roles that come together"]) == 15
    by_hand = duckdb.execute(
        f"select count(*) from '{tmp_path}/*.parquet' where list_contains(roles, 'bass') and list_contains(roles, 'fx')"
    ).fetchall()[0][0]
    assert ("bass", "fx", by_hand) in answers["roles that come together"]
    assert {row[0]: row[1] for row in answers["why clips failed"]}["undecodable"] > 10
    assert {name for name, _ in bench_queries.polars_seconds(f"{tmp_path}/*.parquet")} <= set(answers)
