"""The workers of one training, as each of them sees the others: torch.distributed where there is any."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Peers:
    """This worker's number, how many there are, and its device."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")

    def shared(self, module: nn.Module) -> nn.Module:
        """A module whose gradients are the mean over the workers; batch norms count all workers' crops on GPUs.

        Elsewhere each keeps statistics of its own, for `mean_` at an epoch's end: passed on at each step, they would
        have workers wait for one another twice.
        """
        if self.world == 1:
            return module
        on_gpu = self.device.type == "cuda"
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module) if on_gpu else module
        cards = [self.device] if on_gpu else None
        return nn.parallel.DistributedDataParallel(module, device_ids=cards, broadcast_buffers=False)

    def gather(self, value: Any) -> list[Any]:
        """Every worker's value, in order of rank."""
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values

    def mean_(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their mean over the workers; whole numbers are left."""
        for tensor in tensors:
            if self.world > 1 and tensor.is_floating_point():
                dist.all_reduce(tensor)
                tensor /= self.world
