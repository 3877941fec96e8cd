"""Models that teach: trained ones, whose scores of a crop are learned beside its labels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from looptagger.config import Compute
from looptagger.model.predictor import Predictor


class Teachers:
    """Trained models that score a student's crops: what they hear in a sum of loops says more than its labels.

    Distillation (Hinton, Vinyals, Dean, 2015), on the very crops that the student hears (Beyer et al., CVPR 2022).
    """

    def __init__(self, models: Sequence[bytes], compute: Compute) -> None:
        self.models = [Predictor(data, "a teacher", compute) for data in models]

    def scores(self, waveform: Tensor) -> Tensor:
        """Chunks (n, samples) -> the mean of the models' scores, (n, 6)."""
        with torch.no_grad():
            return torch.stack([_scores(model, waveform) for model in self.models]).mean(dim=0)


def _scores(model: Predictor, waveform: Tensor) -> Tensor:
    return torch.sigmoid(torch.cat([model.network(some)[0] for some in waveform.split(model.batch)]).float())
