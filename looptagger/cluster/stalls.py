"""What a job says while no rows come: nobody can tell one that waits for a machine from one that works."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from looptagger.cluster.progress import Progress

LOOK_S = 5.0
STILL_S = 60.0
"""A job without a new row for so long says so; again after twice as long, and so on."""


@contextmanager
def watched(progress: Progress, note: Callable[[str], None], why: Callable[[], str]) -> Iterator[None]:
    """Tell of a job that stands still for as long as the block runs, and why that may be."""
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(progress, note, why, done), daemon=True, name="stalls")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=LOOK_S)  # a cluster that is away may not answer it


def _watch(progress: Progress, note: Callable[[str], None], why: Callable[[], str], done: threading.Event) -> None:
    seen, since, patience_s = progress.done, time.monotonic(), STILL_S
    while not done.wait(LOOK_S):
        still_s = time.monotonic() - since
        if progress.done != seen:
            seen, since, patience_s = progress.done, time.monotonic(), STILL_S
        elif still_s >= patience_s:
            patience_s *= 2
            with suppress(Exception):  # Ray itself may be what is away
                note(f"No clip for {still_s:,.0f} s. {why()}")
