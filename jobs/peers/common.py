"""What every script would have at its top: the trained network, a clip's chunks, a table of scores."""

import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn
from torchaudio.transforms import Resample

from looptagger.model import checkpoint
from looptagger.roles import ROLES

RATE, CHUNK = 16_000, 48_000
GROUP = 8
"""Clips handed to a worker, or to the network, at once."""

Scores = dict[str, list[float]]


def network(model: str) -> nn.Module:
    """The checkpoint as a plain module."""
    found, _ = checkpoint.load(checkpoint.resolve(model), model)
    return found.eval()


def resampled(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """(frames, channels) at any rate -> mono at 16 kHz, by torchaudio, its filter made once a rate."""
    return _resampler(rate)(torch.from_numpy(samples).mean(dim=1)).numpy()  # type: ignore[no-any-return]


@cache
def _resampler(rate: int) -> Resample:
    return Resample(rate, RATE)


def chunks(mono: NDArray[np.float32]) -> torch.Tensor:
    """A clip at 16 kHz -> its chunks (n, 48000), the last one filled up with zeros."""
    count = max(1, -(-len(mono) // CHUNK))
    return torch.from_numpy(np.pad(mono, (0, count * CHUNK - len(mono))).reshape(count, CHUNK).astype(np.float32))


def scored(net: nn.Module, clip: torch.Tensor) -> list[float]:
    """The mean over a clip's chunks of the scores (6,)."""
    with torch.inference_mode():
        return torch.sigmoid(net(clip)).mean(dim=0).tolist()  # type: ignore[no-any-return]


class Rows:
    """Gathers scores, says when the first are there, and writes them as one file."""

    def __init__(self) -> None:
        self.scores: Scores = {}

    def add(self, path: str, scores: list[float]) -> None:
        """A clip's scores."""
        if not self.scores:
            print(f"first {time.time()} 1", flush=True)
        self.scores[path] = scores

    def write(self, out: str) -> None:
        """All of them, as Parquet."""
        values = np.array(list(self.scores.values()), np.float32)
        columns = {role: values[:, i] for i, role in enumerate(ROLES)}
        pq.write_table(pa.table({"id": list(self.scores), **columns}), out)


def arguments() -> tuple[list[str], str, str]:
    """The clips of the folder, the model and the output that the command line names."""
    folder, model, out = sys.argv[1:]
    return sorted(str(path) for path in Path(folder).iterdir()), model, out
