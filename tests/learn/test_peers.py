"""Several workers that train together, without Ray: torch's own processes."""

import io
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing

from looptagger.config import Train
from looptagger.learn.augment import Tensors
from looptagger.learn.learner import Learner
from looptagger.learn.peers import Peers
from looptagger.learn.task import Census
from looptagger.settings import load
from tests.learn.test_training import SHORT

WORKERS = 3
"""Sums of two numbers do not depend on their order."""


def chosen() -> Train:
    plain = ["model.channels=4", "epochs=3", f"batch={2 * WORKERS}", "average_epochs=1", "phases=[{lr: 0.003}]"]
    return load(Train, None, [*plain, *SHORT])


def crops(epoch: int, rank: int, steps: int) -> Iterator[Tensors]:
    chance, size = torch.Generator().manual_seed(100 * epoch + rank), chosen().audio.chunk_samples
    for _ in range(steps):
        noise = torch.randint(-9_000, 9_000, (2, size), dtype=torch.int16, generator=chance)
        labels = (torch.rand(2, 6, generator=chance) < 0.4).float()
        yield Tensors(noise, torch.full((2,), size), torch.ones(2), torch.arange(2), torch.zeros(2), labels)


def trained(learner: Learner, first: int, last: int) -> Learner:
    for epoch in range(first, last):
        learner.enter(epoch, None)
        for _ in learner.train(epoch, crops(epoch, learner.peers.rank, learner.steps)):
            pass
    return learner


def gradient(peers: Peers, seen: torch.Tensor) -> torch.Tensor:
    """Of a layer that each worker would begin otherwise."""
    torch.manual_seed(peers.rank)
    layer = torch.nn.Linear(3, 1)
    shared = peers.shared(layer)
    shared(seen).square().mean().backward()
    assert layer.weight.grad is not None
    return layer.weight.grad


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORKERS)
    task = chosen(), Census(4 * WORKERS, (4,) * 6), Peers(rank, WORKERS)
    whole = trained(Learner(*task), 0, 3)
    stored = io.BytesIO()
    torch.save(trained(Learner(*task), 0, 2).state(), stored)
    resumed = Learner(*task)
    resumed.restore(torch.load(io.BytesIO(stored.getvalue()), weights_only=True))
    trained(resumed, 2, 3)
    torch.save([each.scored.state_dict() for each in (whole, resumed)], folder / f"{rank}.pt")
    torch.save(gradient(task[2], torch.eye(WORKERS)[rank : rank + 1]), folder / f"{rank}.gradient.pt")
    dist.destroy_process_group()


def test_workers_that_go_on_end_exactly_where_they_would_have(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (tmp_path,), WORKERS)
    found = [each for rank in range(WORKERS) for each in torch.load(tmp_path / f"{rank}.pt", weights_only=True)]
    for each in found[1:]:
        assert all(torch.equal(value, each[name]) for name, value in found[0].items())
    alone = gradient(Peers(), torch.eye(WORKERS))
    for rank in range(WORKERS):
        one = torch.load(tmp_path / f"{rank}.gradient.pt", weights_only=True)
        assert torch.allclose(one, alone), "the gradient of all crops together"
