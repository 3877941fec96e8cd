"""Memory that a busy process keeps. To give it back to the system after each clip costs a sixteenth of decoding, and
of a forward as much as a tenth.
"""

import ctypes
from contextlib import suppress

import pyarrow as pa

KEPT = 1 << 26
"""Bytes: larger pieces still go back at once, and more than this of unused ones."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's malloc.h."""


def keep() -> None:
    """Let this process keep what it frees, for its next clips, and Arrow use the same memory as the rest."""
    pa.set_memory_pool(pa.system_memory_pool())
    with suppress(AttributeError, OSError):  # another C library
        set_option = ctypes.CDLL(None).mallopt
        set_option(M_MMAP_THRESHOLD, KEPT)
        set_option(M_TRIM_THRESHOLD, KEPT)
