"""What a process keeps of its memory."""

import platform
import subprocess
import sys

import pytest

ROUNDS, ARRAYS = 10, 4
WORK = f"""
import resource
import numpy as np, pyarrow as pa
from looptagger import memory
if {{kept}}:
    memory.keep()
for _ in range({ROUNDS}):
    arrays = [np.ones(1 << 20) for _ in range({ARRAYS})]
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt, pa.default_memory_pool().backend_name)
"""


def faults(kept: bool) -> tuple[int, str]:
    """Pages that the system had to give, and Arrow's pool, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", WORK.format(kept=kept)], capture_output=True, text=True, check=True)
    pages, pool = done.stdout.split()
    return int(pages), pool


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_is_freed_is_taken_again() -> None:
    (kept, pool), (given_back, _) = faults(True), faults(False)
    assert pool == "system"
    assert kept < given_back / 2
