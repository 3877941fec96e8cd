"""A DataLoader whose workers decode, and the network in the main process, on all cores."""

import os
from collections.abc import Sequence

import soundfile
import torch
import torchaudio
from torch.utils.data import DataLoader, Dataset

from jobs.peers.common import GROUP, RATE, Rows, arguments, chunks, network

Clip = tuple[str, torch.Tensor]


class Clips(Dataset[Clip]):
    """Files as chunks."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Clip:
        samples, rate = soundfile.read(self.paths[index], dtype="float32", always_2d=True)
        mono = torch.from_numpy(samples).mean(dim=1)
        return self.paths[index], chunks(torchaudio.functional.resample(mono, rate, RATE).numpy())


def main() -> None:
    """Tag a folder."""
    paths, model, out = arguments()
    net, rows = network(model), Rows()
    loader = DataLoader(Clips(paths), GROUP, num_workers=len(os.sched_getaffinity(0)), collate_fn=list)
    with torch.inference_mode():
        for clips in loader:
            sizes = [len(each) for _, each in clips]
            scores = torch.sigmoid(net(torch.cat([each for _, each in clips])))
            for (path, _), some in zip(clips, scores.split(sizes), strict=True):
                rows.add(path, some.mean(dim=0).tolist())
    rows.write(out)


if __name__ == "__main__":
    main()
