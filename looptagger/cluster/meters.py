"""What Prometheus can ask of a running job, through Ray's own metrics: each node serves them at its metrics port."""

import pyarrow as pa
import pyarrow.compute as pc
from ray.util.metrics import Counter, Gauge

from looptagger.archive import counts
from looptagger.steps.decoding import DECODE_S


class Meters:
    """A predictor's counters. How busy it is: the rate of `looptagger_predict_seconds`, a second a second at most."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.clips = Counter("looptagger_clips", "Clips given a row.", ("status",))
        self.chunks = Counter("looptagger_chunks", "Chunks that went through the network.")
        self.decode_s = Counter("looptagger_decode_seconds", "Seconds of decoding, over all processes.")
        self.predict_s = Counter("looptagger_predict_seconds", "Seconds in the network.")
        self.fill = Gauge("looptagger_batch_fill", "Chunks of the last forward passes, of what they could hold.")

    def count(self, rows: pa.Table, seconds: float) -> None:
        """Take in tagged rows, and the seconds that the network took for them."""
        for status, count in counts.of(rows.column("status")).items():
            self.clips.inc(count, {"status": status})
        chunks, decode_s = pc.sum(rows.column("n_chunks")).as_py() or 0, pc.sum(rows.column(DECODE_S)).as_py() or 0.0
        for counter, more in ((self.chunks, chunks), (self.decode_s, decode_s), (self.predict_s, seconds)):
            if more > 0:  # Ray's counters take nothing else
                counter.inc(more)
        if chunks:
            self.fill.set(chunks / (-(-chunks // self.batch) * self.batch))
