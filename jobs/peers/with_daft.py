"""A Daft pipeline: a class of which a process a core decodes and scores, batch by batch, into Parquet."""

import os
import time
from typing import Any

import daft
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch

from jobs.peers.common import GROUP, arguments, chunks, network, resampled, scored


@daft.cls(max_concurrency=len(os.sched_getaffinity(0)), use_process=True)
class Tagger:
    """The network, loaded once a process."""

    def __init__(self, model: str) -> None:
        torch.set_num_threads(1)
        self.net = network(model)

    @daft.method.batch(return_dtype=daft.DataType.list(daft.DataType.float32()), batch_size=GROUP)
    def __call__(self, paths: daft.Series) -> Any:
        """Scores of some files."""
        return [self._scores(path) for path in paths.to_pylist()]

    def _scores(self, path: str) -> list[float]:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        return scored(self.net, chunks(resampled(samples, rate)))


def main() -> None:
    """Tag a folder."""
    paths, model, out = arguments()
    table = daft.from_pydict({"id": paths}).into_batches(GROUP)
    table = table.with_column("scores", Tagger(model)(daft.col("id")))  # type: ignore[arg-type]
    parts: list[pa.RecordBatch] = []
    for part in table.to_arrow_iter():
        if not parts:
            print(f"first {time.time()} {len(part)}", flush=True)
        parts.append(part)
    pq.write_table(pa.Table.from_batches(parts), out)


if __name__ == "__main__":
    main()
