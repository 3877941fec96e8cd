"""A pool of processes, one a core: Essentia's MonoLoader decodes, the network follows on one thread."""

import os
from functools import cache
from multiprocessing import get_context
from typing import Any

import torch

from jobs.peers.common import GROUP, RATE, Rows, arguments, chunks, network, scored


@cache
def _net(model: str) -> Any:
    torch.set_num_threads(1)
    return network(model)


def tagged(job: tuple[str, str]) -> tuple[str, list[float]]:
    """A path and a model -> the path and its scores."""
    import essentia.standard

    path, model = job
    mono = essentia.standard.MonoLoader(filename=path, sampleRate=RATE)()
    return path, scored(_net(model), chunks(mono))


def main() -> None:
    """Tag a folder."""
    paths, model, out = arguments()
    rows = Rows()
    with get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        for path, scores in pool.imap_unordered(tagged, [(path, model) for path in paths], GROUP):
            rows.add(path, scores)
    rows.write(out)


if __name__ == "__main__":
    main()
