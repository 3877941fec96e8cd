"""One worker's network in training: steps, the running mean of its weights, and all of it as a state that resumes."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from torchaudio.functional import mask_along_axis_iid

from looptagger.config import Augment, Train
from looptagger.errors import UserError
from looptagger.learn.augment import Tensors, crops
from looptagger.learn.peers import Peers
from looptagger.learn.schedule import augment_at, optimiser, phase_at, rate
from looptagger.learn.task import Census
from looptagger.model.hcnn import HCNN

BAND_AXIS, FRAME_AXIS = 2, 3


class Trainee(nn.Module):
    """Chunks (n, samples) -> logits (n, 6), as training runs the network: masked maps, the trunk in mixed precision.

    The front end stays in float32: powers span 100 dB, more than half floats do.
    """

    def __init__(self, network: HCNN, augment: Augment, precision: torch.dtype, compiled: bool = False) -> None:
        super().__init__()
        self.network, self.augment, self.precision = network, augment, precision
        self.classify = torch.compile(network.classify) if compiled else network.classify

    def forward(self, waveform: Tensor) -> Tensor:
        """Chunks to float32 logits."""
        maps = self.network.maps(waveform)
        for axis, most in ((BAND_AXIS, self.augment.band_mask), (FRAME_AXIS, self.augment.time_mask)):
            if most:  # SpecAugment: 0 to `most`, the same of all harmonics; after the batch norm, 0 is the mean
                maps = maps * mask_along_axis_iid(torch.ones_like(maps[:, :1]), most + 1, 0.0, axis)
        maps = maps.contiguous(memory_format=torch.channels_last)
        with torch.autocast(maps.device.type, self.precision, enabled=self.precision != torch.float32):
            return self.classify(maps).float()  # type: ignore[no-any-return]


class Learner:
    """A network, its optimiser and the mean of its weights, on one worker of several."""

    def __init__(self, settings: Train, census: Census, peers: Peers) -> None:
        self.settings, self.census, self.peers = settings, census, peers
        torch.manual_seed(settings.seed)
        self.network = HCNN(settings.model, settings.audio).to(peers.device)
        self.network.trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.steps = census.steps(settings)
        weights = census.positive_weights() if settings.balance == "loss" else [1.0] * len(census.positives)
        self.positive_weights = torch.tensor(weights, device=peers.device)
        self.average: AveragedModel | None = None
        self.phase = -1

    def _towards(self, mean: Any, now: Any, count: Any) -> None:
        """The exponential running mean; in its first steps a plain one, so that it forgets the random start."""
        share = (1.0 / (count + 1)).clamp(min=min(1.0, 1.0 / (self.settings.average_epochs * self.steps)))
        for old, new in zip(mean, now, strict=True):
            old.lerp_(new, share) if old.is_floating_point() else old.copy_(new)

    @property
    def scored(self) -> HCNN:
        """The network that is validated and kept: the mean of the weights where there is one."""
        return self.average.module if self.average else self.network  # type: ignore[return-value]

    def enter(self, epoch: int, best: bytes | None) -> None:
        """Begin an epoch: its random numbers, and a new optimiser where a new phase begins."""
        torch.manual_seed(
            int(np.random.SeedSequence([self.settings.seed, epoch, self.peers.rank]).generate_state(1)[0])
        )
        number = phase_at(self.settings, epoch)
        if number == self.phase:
            if self.peers.device.type == "cpu":
                self._share()  # anew, as after a stop: torch adds gradients up in another order once it knows them
            return
        phase = self.settings.phases[number]
        if phase.from_best and best:
            self.network.load_state_dict(safetensors.torch.load(best))
        elif phase.head_only and self.average:
            self.network.load_state_dict(self.average.module.state_dict())  # the rest stays as what is kept has it
        if phase.head_only:
            for layer in self.network.head:
                layer.reset_parameters()
        self._begin(number)

    def _begin(self, number: int) -> None:
        """What a phase trains, and with what. The mean begins anew where the weights do."""
        phase = self.settings.phases[number]
        for module in self.network.body:
            module.requires_grad_(not phase.head_only)
        augment, compiled = augment_at(self.settings, phase.from_epoch), self.settings.compute.compile
        self.alone = Trainee(self.network, augment, _precision(self.settings, self.peers), compiled)
        self._share()
        if self.settings.average_epochs and (not self.average or phase.from_best or phase.head_only):
            self.average = AveragedModel(self.network, multi_avg_fn=self._towards, use_buffers=True)
        learning = [each for each in self.network.parameters() if each.requires_grad]
        self.phase, self.optimiser = number, optimiser(phase, learning)

    def _share(self) -> None:
        self.trainee = self.peers.shared(self.alone)

    def train(self, epoch: int, batches: Iterable[Tensors]) -> Iterator[tuple[int, Tensor]]:
        """An epoch's steps, one after another: their number from 1, and the mean loss so far. Raises UserError."""
        self.trainee.train()
        if self.settings.phases[self.phase].head_only:
            for module in self.network.body:
                module.eval()  # batch norms as they were
        total = torch.zeros((), device=self.peers.device)
        for step, batch in enumerate(batches):
            for group in self.optimiser.param_groups:
                group["lr"] = rate(self.settings, self.phase, epoch + (step + 1) / self.steps)
            total += self._step(batch)
            yield step + 1, total / (step + 1)
        self.peers.mean_([total, *_running(self.network), *(_running(self.scored) if self.average else ())])
        if not torch.isfinite(total):
            lower = f"try a lower phases.{self.phase}.lr, or more warm-up"
            raise UserError(f"epoch {epoch + 1}: the loss is no longer a number; {lower}.")

    def _step(self, batch: Tensors) -> Tensor:
        there = Tensors(*(each.to(self.peers.device, non_blocking=True) for each in batch))
        waveform, labels = crops(there, self.settings.audio.chunk_samples)
        loss = F.binary_cross_entropy_with_logits(self.trainee(waveform), labels, pos_weight=self.positive_weights)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        if self.average:
            self.average.update_parameters(self.network)
        return loss.detach()

    def state(self) -> dict[str, Any]:
        """All that a resumed training needs of this."""
        average = self.average.state_dict() if self.average else None
        state = {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(), "average": average}
        return {**state, "phase": self.phase}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.network.load_state_dict(state["network"])
        self._begin(state["phase"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])


def _running(network: nn.Module) -> list[Tensor]:
    """The statistics of its batch norms. Its constants are the same everywhere, and a mean would round them."""
    return [each for name, each in network.named_buffers() if name.endswith(("running_mean", "running_var"))]


def _precision(settings: Train, peers: Peers) -> torch.dtype:
    """The trunk's. A CPU without bfloat16 would take five times as long with it as in float32, which it gets."""
    asked, on_gpu = settings.compute.precision, peers.device.type == "cuda"
    wanted = on_gpu if asked == "auto" else asked == "bfloat16"
    has_it = on_gpu or (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.bfloat16 if wanted and has_it else torch.float32
