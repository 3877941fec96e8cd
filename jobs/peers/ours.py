"""looptagger."""

import time

from jobs.peers.common import arguments
from looptagger.cluster.progress import Progress
from looptagger.cluster.tagging_job import Events, TagJob, tag


def main() -> None:
    """Tag a folder."""
    paths, model, out = arguments()
    told: list[int] = []

    def progress(seen: Progress) -> None:
        if seen.done and not told:
            told.append(seen.done)
            print(f"first {time.time()} {seen.done}", flush=True)

    tag(TagJob((paths[0].rpartition("/")[0],), out, model=model), Events(progress=progress))


if __name__ == "__main__":
    main()
