"""`make fuzz`: broken audio by the thousand through the decoders; every file must come back as a row.

Seeded mutations of good files in many formats, and of any files or folders given: bits flipped, numbers in headers made
extreme, pieces cut out, doubled, swapped between files. Prints what became of them.
"""

import argparse
import io
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile

from looptagger.config import Audio, Limits, Tag
from looptagger.steps.isolated import Helper

LOOPS = Path(__file__).resolve().parents[1] / "tests/data/loops"
FORMATS = (
    "WAV PCM_16", "WAV PCM_24", "WAV IMA_ADPCM", "WAV MS_ADPCM", "WAV GSM610", "AIFF FLOAT", "FLAC PCM_16",
    "OGG VORBIS", "OGG OPUS", "MP3 MPEG_LAYER_III", "AU ULAW", "CAF ALAC_16", "W64 PCM_16", "RF64 PCM_16",
    "NIST PCM_16", "VOC PCM_16", "SVX PCM_16", "MAT5 PCM_16",
)  # fmt: skip
RATE = 8000
EXTREMES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\1\0\0\0", b"\0\0\0\1")
SHARD = 200
LIMITS = Limits(max_decode_s=5.0, max_memory=2 << 30, max_bytes=64 << 20)


def originals(more: list[Path]) -> list[bytes]:
    """Good files to begin with: a second of a loop in each format, and what was given."""
    samples, _ = soundfile.read(LOOPS / "loop_amen.flac", dtype="float32", frames=5 * RATE, always_2d=True)
    mono, found = samples.mean(axis=1)[::5], []
    for name in FORMATS:
        kind, coding = name.split()
        file = io.BytesIO()
        soundfile.write(file, mono, RATE, format=kind, subtype=coding)
        found.append(file.getvalue())
    given = [path for place in more for path in (sorted(place.rglob("*")) if place.is_dir() else [place])]
    return found + [path.read_bytes()[: 1 << 20] for path in given if path.is_file() and path.stat().st_size]


def mutated(good: list[bytes], rng: np.random.Generator) -> bytes:
    """One of the files, broken in one to four ways."""
    data = bytearray(good[rng.integers(len(good))])
    for _ in range(rng.integers(1, 5)):
        size = len(data)
        if not size:
            break
        place = int(rng.integers(min(size, 256) if rng.random() < 0.6 else size))  # headers are where it hurts
        length = int(rng.integers(1, 1 + min(4096, size)))
        how = rng.integers(6)
        if how == 0:
            for at in rng.integers(size, size=rng.integers(1, 32)):
                data[at] ^= 1 << int(rng.integers(8))
        elif how == 1:
            data[place : place + 4] = EXTREMES[rng.integers(len(EXTREMES))]
        elif how == 2:
            del data[place : place + length]
        elif how == 3:
            data[place:place] = data[place : place + length] * int(rng.integers(1, 9))
        elif how == 4:
            del data[int(rng.integers(size)) :]
        else:
            other = good[rng.integers(len(good))]
            data[place : place + length] = other[:length] if rng.random() < 0.5 else other[place : place + length]
    return bytes(data)


def rows(cases: int, seed: int, more: list[Path], helper: Helper) -> Iterator[tuple[pa.Table, float]]:
    """Decoded rows of so many broken files, shard by shard, and the seconds that each shard took."""
    good, rng = originals(more), np.random.default_rng(seed)
    for first in range(0, cases, SHARD):
        with tempfile.TemporaryDirectory() as folder:
            names = [f"{folder}/{number:07d}" for number in range(first, min(cases, first + SHARD))]
            for name in names:
                Path(name).write_bytes(mutated(good, rng))
            began, table = time.monotonic(), pa.table({"id": names, "uri": names})
            done = helper.run_step("decoded", table, LIMITS, audio=Audio(), tag=Tag(limits=LIMITS))
            heard = pa.concat_tables(done)
            if heard.column("id").to_pylist() != names:
                raise SystemExit(f"rows lost or doubled among cases {first:,} to {first + len(names):,} of seed {seed}")
            yield heard, time.monotonic() - began


def main() -> None:
    """Break files, decode them, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("more", nargs="*", type=Path, help="further files or folders to break")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    helper, statuses, ended, slowest = Helper(), Counter[str](), Counter[str](), 0.0
    for table, seconds in rows(args.cases, args.seed, args.more, helper):
        statuses.update(table.column("status").to_pylist())
        reasons = [error for error in table.column("error").to_pylist() if error]
        ended.update(reason for reason in reasons if reason.startswith("the decoder") or "max_memory" in reason)
        slowest = max(slowest, seconds)
        print(f"\r{statuses.total():,}/{args.cases:,}", end="", file=sys.stderr, flush=True)
    helper.close()
    print(f"\n{statuses.total():,} broken files, a row each: {dict(statuses.most_common())}")
    print(f"the decoding process ended, or hit its memory bound, for {ended.total()}: {dict(ended.most_common())}")
    print(f"slowest {SHARD} files: {slowest:.1f} s")


if __name__ == "__main__":
    main()
