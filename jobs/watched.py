"""One tagging job in a process of its own, watched: `python -m jobs.watched JSON`. Prints what it took as JSON.

The argument says: source, out, model, settings (of `looptagger tag --set`), and how Ray is started, if not as usual.
"""

import json
import sys
import threading
import time
from typing import Any

from looptagger.cluster.progress import Progress
from looptagger.cluster.tagging_job import Events, TagJob, tag
from looptagger.config import Tag
from looptagger.settings import load


class Watch:
    """The object store's use and what was spilled, looked at four times a second."""

    def __init__(self) -> None:
        self.store, self.spilled = 0, 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self.done.wait(0.25):
            if (ray := sys.modules.get("ray")) and ray.is_initialized():
                from looptagger.cluster.session import store_use

                used, spilled = store_use()
                self.store, self.spilled = max(self.store, used), max(self.spilled, spilled)


def main(asked: dict[str, Any]) -> dict[str, Any]:
    """Run the job that is asked for; sizes in MB, times in seconds since the start."""
    began = time.monotonic()
    seen: dict[str, float] = {}

    def listed(rows: int) -> None:
        seen["listed"] = time.monotonic() - began

    def progress(now: Progress) -> None:
        if now.done:
            seen.setdefault("first", time.monotonic() - began)

    if asked.get("ray"):
        import ray

        ray.init(address="local", include_dashboard=False, log_to_driver=False, **asked["ray"])
    watch = Watch()
    watch.thread.start()
    settings = load(Tag, None, asked.get("settings", []))
    done = tag(
        TagJob((asked["source"],), asked["out"], asked["model"], settings), Events(listed=listed, progress=progress)
    )
    watch.done.set()
    watch.thread.join()
    with open("/proc/self/status") as file:
        peak = next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
    whole = time.monotonic() - began
    tagged_s = whole - seen.get("first", whole)
    return {
        "clips": done.clips, "by_status": done.by_status, "driver_mb": peak, "store_mb": watch.store / 1e6,
        "spilled_mb": watch.spilled / 1e6, "whole_s": whole, "tagged_s": tagged_s, **seen,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
