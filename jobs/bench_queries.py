"""`make queries`: README's questions to ten million synthetic rows, on DuckDB and Polars, and what a row costs.

The rows are written as a job writes them and joined by `compact`. Ids look like Freesound's; scores are drawn.
"""

import argparse
import ast
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from looptagger.archive import tags
from looptagger.archive.compact import compact
from looptagger.archive.storage import Folder
from looptagger.model.code import codes
from looptagger.roles import ROLES

README = Path(__file__).resolve().parents[1] / "README.md"
PART_ROWS = 100_000
SETS = [[role for i, role in enumerate(ROLES) if number >> i & 1] for number in range(1 << len(ROLES))]
"""Every set of roles."""


EMBEDDING = 128
"""Numbers in an embedding of `starter`."""
DISTINCT = 4096
"""Embeddings drawn; the clips' are these, each at a level of its own."""


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
    return pa.table(columns).cast(tags.CLIP_SCHEMA)


def with_embeddings(table: pa.Table, number: int) -> pa.Table:
    """The rows as `--embeddings` writes them."""
    rng = np.random.default_rng(number)
    drawn = np.maximum(np.random.default_rng(0).normal(size=(DISTINCT, EMBEDDING)), 0)
    vectors = (
        drawn[rng.integers(DISTINCT, size=table.num_rows)] + rng.normal(0, 0.2, (table.num_rows, EMBEDDING))
    ).astype(np.float16)
    bad = np.array(table.column("error").is_valid())
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), EMBEDDING, mask=pa.array(bad))
    table = table.append_column("embedding", lists)
    for name, words in zip(tags.CODE, codes(vectors).T, strict=True):
        table = table.append_column(name, pa.array(words, mask=bad))
    places = pa.array(number * PART_ROWS + np.arange(table.num_rows))
    return table.append_column(tags.CODED_ROW, places).cast(tags.schema(pa.schema([]), EMBEDDING))


def write_manifest(tables: Iterable[pa.Table], path: str) -> None:
    """The manifest that such rows would come from: id, pack and bpm."""
    schema = pa.schema([("id", pa.string()), ("pack", pa.string()), ("bpm", pa.float64())])
    packs = pa.array([f"pack{number}" for number in range(20_000)])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for number, table in enumerate(tables):
            rng = np.random.default_rng(number)
            pack = packs.take(pa.array(rng.integers(len(packs), size=table.num_rows)))
            writer.write_table(
                pa.table([table.column("id"), pack, rng.uniform(60, 180, table.num_rows)], schema=schema)
            )


def placed(query: str, path: str) -> str:
    """A question to what lies under `path`; what README tagged by a manifest is `tags` here."""
    for name, here in (("manifest.csv", "manifest.parquet"), ("tagged/", "tags/"), ("tags/", "tags/")):
        query = query.replace(f"'{name}", f"'{path}/{here}")
    return query.replace("'similar/", f"'{path}/similar/")


def questions(end: str) -> Iterator[tuple[str, str]]:
    """README's SQL on `tags`, `similar` and a manifest, with the comment above each; `end` is how an id there ends."""
    for block in re.findall(r"```sql\n(.*?)```", README.read_text(), re.DOTALL):
        for query in filter(str.strip, block.split(";")):
            if any(name in query for name in ("'tags/", "'similar/", "'manifest.csv")):
                yield (
                    query.strip().splitlines()[0].removeprefix("-- "),
                    query.replace("/bass_thick_c.flac", end),
                )


def seconds(ask: Callable[[], object]) -> float:
    """The best of three: a shared disk is slow at first."""
    took = []
    for _ in range(3):
        began = time.perf_counter()
        ask()
        took.append(time.perf_counter() - began)
    return min(took)


ASKED_OF_POLARS = (
    "clips by role",
    "the surest bass loops",
    "why clips failed",
    "roles that come together",
    "what sounds like a clip",
    "back to the manifest",
)
"""What README's Polars code prints, one after the other."""


def polars_seconds(path: str, end: str) -> dict[str, float]:
    """README's Polars code, statement by statement: the best of three of what each question takes."""
    (code,) = re.findall(r"```python\n(import polars.*?)```", README.read_text(), re.DOTALL)
    for name, here in (("manifest.csv", "manifest.parquet"), ("scan_csv", "scan_parquet"), ("tagged/", "tags/")):
        code = code.replace(name, here)
    code = re.sub(r'"(tags|similar|manifest)([/.])', rf'"{path}/\1\2', code.replace("/bass_thick_c.flac", end))
    rounds = [list(_printed(code)) for _ in range(3)]
    return {name: min(each) for name, *each in zip(ASKED_OF_POLARS, *rounds, strict=True)}


def _printed(code: str) -> Iterator[float]:
    """Seconds up to each thing that some code prints."""
    names: dict[str, object] = {"print": str}
    began = time.perf_counter()
    for statement in ast.parse(code).body:
        exec(compile(ast.Module([statement], []), "README.md", "exec"), names)
        if ast.unparse(statement).startswith("print("):
            yield time.perf_counter() - began
            began = time.perf_counter()


def parts(wanted: int) -> Iterator[pa.Table]:
    """So many rows, in parts."""
    for number in range(-(-wanted // PART_ROWS)):
        yield rows(number, min(PART_ROWS, wanted - number * PART_ROWS))


def written(folder: Folder, wanted: int, embeddings: bool) -> float:
    """Write that many rows as a job does, join their parts, and return the bytes a row."""
    for number, some in enumerate(parts(wanted)):
        tags.write_part(folder, tags.Part(number, number).name, with_embeddings(some, number) if embeddings else some)
        print(f"\r{(number + 1) * PART_ROWS:,} rows written", end="", file=sys.stderr, flush=True)
    compact(folder)
    return sum(file.stat().st_size for file in Path(folder.path).glob("*.parquet")) / wanted


def main() -> None:
    """Make the rows, join them, ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    wanted = parser.parse_args().rows
    table = Table("what", "DuckDB, s", "Polars, s", title=f"{wanted:,} rows")
    with tempfile.TemporaryDirectory() as path:
        size = written(Folder(f"{path}/tags"), wanted, False)
        more = written(Folder(f"{path}/similar"), wanted, True)
        write_manifest(parts(wanted), f"{path}/manifest.parquet")
        known = rows(wanted // PART_ROWS // 2, 1).column("id")[0].as_py()
        end = f"/{known.rpartition('/')[2]}"
        theirs = polars_seconds(path, end)
        for name, query in questions(end):
            asked = placed(query, path)
            own = seconds(lambda asked=asked: duckdb.execute(asked).fetchall())  # type: ignore[misc]
            table.add_row(
                name, f"{own:.2f}", next((f"{s:.2f}" for key, s in theirs.items() if name.startswith(key)), "")
            )
    Console(width=110).print(table)
    Console(width=110).print(f"after compact, {size:.1f} bytes a row; with embeddings {more:.0f}")


if __name__ == "__main__":
    main()
