"""A DataLoader whose workers decode, and the network in the main process, on all cores."""

import os
from collections.abc import Sequence

import soundfile
import torch
from torch.utils.data import DataLoader, Dataset

from jobs.peers.common import GROUP, Rows, arguments, chunks, network, resampled, scored

Clip = tuple[str, torch.Tensor]


class Clips(Dataset[Clip]):
    """Files as chunks."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Clip:
        samples, rate = soundfile.read(self.paths[index], dtype="float32", always_2d=True)
        return self.paths[index], chunks(resampled(samples, rate))


def main() -> None:
    """Tag a folder."""
    paths, model, out = arguments()
    net, rows = network(model), Rows()
    loader = DataLoader(Clips(paths), GROUP, num_workers=len(os.sched_getaffinity(0)), collate_fn=list)
    for clips in loader:
        for path, each in clips:  # one at a time: the plain network is slower in batches, on CPUs
            rows.add(path, scored(net, each))
    rows.write(out)


if __name__ == "__main__":
    main()
