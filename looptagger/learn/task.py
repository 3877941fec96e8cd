"""What is to be trained: settings, what the training part holds, the checkpoint's card. No torch here."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from looptagger.config import Train
from looptagger.model.checkpoint import Card

MOST_REPEATS = 5.0
"""However rare a role is, its loops come, or weigh, no more than this much more."""


@dataclass(frozen=True)
class Census:
    """How many loops a training part holds, how many play each role, and how often `balance: sampling` repeats one."""

    loops: int
    positives: tuple[int, ...]
    repeats: float = 1.0

    @classmethod
    def of(cls, labels: NDArray[np.bool_]) -> "Census":
        """Counts of labels (n_loops, 6)."""
        plain = cls(len(labels), tuple(int(n) for n in labels.sum(axis=0)))
        return cls(plain.loops, plain.positives, float(np.mean(plain.repeats_of(labels))))

    def repeats_of(self, labels: NDArray[np.generic]) -> NDArray[np.float64]:
        """How often each loop of labels (n, 6) comes in an epoch: its rarest role counts.

        Square-root sampling (Gupta et al., LVIS, 2019): a role four times rarer than the commonest comes twice as
        often.
        """
        positives = np.maximum(self.positives, 1)
        by_role = np.minimum(np.sqrt(positives.max() / positives), MOST_REPEATS)
        found: NDArray[np.float64] = np.maximum(1.0, (labels.astype(bool) * by_role).max(axis=-1))
        return found

    def positive_weights(self) -> list[float]:
        """The loss's weight of each role's positives under `balance: loss`: the root of negatives / positives."""
        ratios = [(self.loops - n) / max(n, 1) for n in self.positives]
        return [float(np.clip(ratio**0.5, 1 / MOST_REPEATS, MOST_REPEATS)) for ratio in ratios]

    def steps(self, settings: Train) -> int:
        """Batches in an epoch."""
        crops = self.loops * (self.repeats if settings.balance == "sampling" else 1.0)
        return max(1, -(-round(crops) // settings.batch))


@dataclass(frozen=True)
class Task:
    """What is trained, as every worker is told it."""

    settings: Train
    census: Census
    card: Card
    start: bytes | None = None
    """The checkpoint that training begins with."""
