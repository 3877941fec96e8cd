"""The schedule of a training: which phase an epoch is in, its optimiser, its crops, the learning rate at any moment."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from looptagger.config import Augment, Phase, Train

MOMENTUM = 0.9


def phase_at(settings: Train, epoch: float) -> int:
    """The number of the phase that an epoch, counted from 0, is in."""
    return max(i for i, phase in enumerate(settings.phases) if phase.from_epoch <= epoch)


def augment_at(settings: Train, epoch: float) -> Augment:
    """What is done to an epoch's crops: nothing while only the head learns (Kang et al., ICLR 2020)."""
    return Augment() if settings.phases[phase_at(settings, epoch)].head_only else settings.augment


def rate(settings: Train, number: int, moment: float) -> float:
    """The learning rate of a phase at a moment, in epochs from the start: warm-up, then level or down a half cosine."""
    phase = settings.phases[number]
    later = [each.from_epoch for each in settings.phases[number + 1 :]]
    length = min([settings.epochs, *later]) - phase.from_epoch
    done, warmup = moment - phase.from_epoch, min(phase.warmup_epochs, length / 2)  # a short trial comes down, too
    if done < warmup:
        return phase.lr * done / warmup
    if not phase.cosine:
        return phase.lr
    share = (done - warmup) / (length - warmup)
    return phase.lr * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def optimiser(phase: Phase, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """A phase's optimiser. Only weights decay: not biases, not batch norms, not the filters' Q."""
    every = list(parameters)
    groups = [
        {"params": [each for each in every if each.dim() > 1], "weight_decay": phase.weight_decay},
        {"params": [each for each in every if each.dim() <= 1], "weight_decay": 0.0},
    ]
    if phase.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=phase.lr, momentum=MOMENTUM, nesterov=True)
    kind = torch.optim.Adam if phase.optimiser == "adam" else torch.optim.AdamW
    return kind(groups, lr=phase.lr, fused=every[0].is_cuda)
