"""`make bench-queries`: README's questions to ten million synthetic rows, on DuckDB and Polars, and what a row costs.

The rows are written as a job writes them and joined by `compact`. Ids look like Freesound's; scores are drawn.
"""

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from looptagger.archive import tags
from looptagger.archive.compact import compact
from looptagger.archive.storage import Folder
from looptagger.roles import ROLES

README = Path(__file__).resolve().parents[1] / "README.md"
PART_ROWS = 100_000
SETS = [[role for i, role in enumerate(ROLES) if number >> i & 1] for number in range(1 << len(ROLES))]
"""Every set of roles."""


def rows(number: int, count: int) -> pa.Table:
    """A part of synthetic tags: one clip in a hundred has failed."""
    rng = np.random.default_rng(number)
    numbers = np.arange(number * PART_ROWS, number * PART_ROWS + count)
    users = rng.integers(10_000_000, size=count)
    names = [f"s3://freesound/previews/{n // 1000}/{n}_{user}-hq.ogg" for n, user in zip(numbers, users, strict=True)]
    bad = rng.random(count) < 0.01
    scores = 1 / (1 + np.exp(-rng.normal(-2.2, 2.5, (count, len(ROLES)))))
    drawn = pa.array([*SETS, None], pa.list_(pa.string()))
    roles = drawn.take(pa.array(np.where(bad, len(SETS), (scores > 0.5) @ (1 << np.arange(len(ROLES))))))
    columns = {
        "id": names,
        "uri": names,
        "status": np.where(bad, "undecodable", "ok"),
        "error": pa.array(["no decoder could read it"] * count, pa.string(), mask=~bad),
        **{role: pa.array(scores[:, i].astype(np.float32), mask=bad) for i, role in enumerate(ROLES)},
        "roles": roles,
        "duration_s": pa.array(np.round(rng.gamma(1.5, 4, count) * 44_100) / 44_100, mask=bad),
        "sample_rate": pa.array(np.full(count, 44_100), pa.int32(), mask=bad),
        "channels": pa.array(rng.integers(1, 3, count), pa.int16(), mask=bad),
        "codec": pa.array(np.full(count, "vorbis"), mask=bad),
        "n_chunks": np.where(bad, 0, rng.integers(1, 5, count)),
        "model": np.full(count, "starter@190b1237411c"),
    }
    return pa.table(columns).cast(tags.OWN)


def questions() -> Iterator[tuple[str, str]]:
    """README's SQL on `tags`, with the comment above each."""
    for block in re.findall(r"```sql\n(.*?)```", README.read_text(), re.DOTALL):
        for query in filter(str.strip, block.split(";")):
            if "'tags/" in query:
                yield query.strip().splitlines()[0].removeprefix("-- "), query


def seconds(query: str) -> float:
    """The best of three: a shared disk is slow at first."""
    took = []
    for _ in range(3):
        began = time.perf_counter()
        duckdb.execute(query).fetchall()
        took.append(time.perf_counter() - began)
    return min(took)


def polars_seconds(pattern: str) -> Iterator[tuple[str, float]]:
    """The same in Polars, where it can be asked in a line."""
    import polars as pl

    found = pl.scan_parquet(pattern)
    asked = {
        "clips by role": found.select("roles").explode("roles").group_by("roles").len(),
        "the surest bass loops": found.filter(pl.col("bass") > 0.5).select("id", "bass").top_k(10, by="bass"),
        "why clips failed": found.filter(pl.col("status") != "ok").group_by("status").agg(pl.len(), pl.first("error")),
    }
    for name, query in asked.items():
        began = time.perf_counter()
        query.collect()
        yield name, time.perf_counter() - began


def main() -> None:
    """Make the rows, join them, ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    wanted = parser.parse_args().rows
    table = Table("what", "DuckDB, s", "Polars, s", title=f"{wanted:,} rows")
    with tempfile.TemporaryDirectory() as path:
        folder = Folder(path)
        for number in range(-(-wanted // PART_ROWS)):
            tags.write_part(
                folder, tags.Part(number, number).name, rows(number, min(PART_ROWS, wanted - number * PART_ROWS))
            )
            print(f"\r{(number + 1) * PART_ROWS:,} rows written", end="", file=sys.stderr, flush=True)
        before, after = compact(folder)
        size = sum(file.stat().st_size for file in Path(path).glob("*.parquet"))
        theirs = dict(polars_seconds(f"{path}/*.parquet"))
        for name, query in questions():
            own = seconds(query.replace("'tags/", f"'{path}/"))
            table.add_row(name, f"{own:.2f}", f"{theirs[name]:.2f}" if name in theirs else "")
    Console(width=100).print(table)
    Console(width=100).print(f"{before} parts joined into {after}; {size / wanted:.1f} bytes a row")


if __name__ == "__main__":
    main()
