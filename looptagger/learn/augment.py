"""Batches into what the network hears: speed, gain, sums of two loops. Torch, on whatever device the batch is on."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from looptagger.learn.batches import Batch

Tensors = Batch[Tensor]


def tensors(batch: Batch[NDArray[Any]], pinned: bool) -> Tensors:
    """A batch ready to be moved; pinned memory is copied to a GPU while that still works on the batch before."""
    found = [torch.from_numpy(array) for array in batch]
    return Tensors(*(each.pin_memory() if pinned else each for each in found))


def crops(batch: Tensors, size: int) -> tuple[Tensor, Tensor]:
    """Crops (n, size) in [-1, 1] and labels (n, 6)."""
    waveform = (
        batch.samples.float() if batch.samples.shape[1] == size else stretched(batch.samples, batch.lengths, size)
    )
    waveform = waveform * (batch.gains / 32768)[:, None]
    return mixed(waveform, batch.labels, batch.others, batch.levels)


def stretched(samples: Tensor, lengths: Tensor, size: int) -> Tensor:
    """The first `lengths` of each row's samples as `size` float ones, by cubic interpolation (Catmull and Rom).

    Played faster, what comes to lie over half of the sample rate folds back: by 2 semitones, what was over 7.1 kHz.
    """
    step = lengths.double()[:, None] / size
    place = torch.arange(size, device=samples.device) * step
    first = place.floor().long()
    at = (place - first).float()
    last = lengths[:, None] - 1
    a, b, c, d = (samples.gather(1, (first + k).clamp(min=0).minimum(last)).float() for k in (-1, 0, 1, 2))
    return b + 0.5 * at * (c - a + at * (2 * a - 5 * b + 4 * c - d + at * (3 * (b - c) + d - a)))


def mixed(waveform: Tensor, labels: Tensor, others: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Crops with others added where a level is not 0, brought back to [-1, 1], and the roles of both."""
    both = waveform + levels[:, None] * waveform[others]
    both = both / both.abs().amax(dim=1, keepdim=True).clamp(min=1.0)
    return both, torch.where((levels > 0)[:, None], labels.maximum(labels[others]), labels)
