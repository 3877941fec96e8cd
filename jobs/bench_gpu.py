"""`make bench-gpu`: the forward on this machine's GPU, built several ways, checked against float32 and timed.

Chunks/s of each at its best batch, with the upload of int16 chunks, as ratios to the plain float32 module; the front
end alone; the trunk's arithmetic beside the largest that a matrix product reaches. On a machine without GPU it
only shows that everything builds (`--device cpu`, slow).
"""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from looptagger.model import checkpoint
from looptagger.model.folded import FoldedHCNN

GFLOP = 5.1
"""Of the trunk, a chunk at full width."""

Forward = Callable[[Tensor], Tensor]


def plain(network: nn.Module) -> Forward:
    """The module as it is trained."""
    return lambda pcm: network(pcm.float() / 32768.0)  # type: ignore[no-any-return]


def folded(network: Any, precision: torch.dtype, device: str, compiled: bool) -> Forward:
    """As looptagger tags; its trunk compiled, if asked for."""
    module = FoldedHCNN(network, precision).to(device).eval()
    if compiled:
        module.trunk = torch.compile(module.trunk, mode="max-autotune-no-cudagraphs")  # type: ignore[assignment]
    return lambda pcm: module(pcm.float() / 32768.0)[0]  # type: ignore[no-any-return]


def captured(forward: Forward, like: Tensor) -> Forward:
    """A forward as a CUDA graph for one size of batch: kernels are launched at once."""
    placed = like.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            forward(placed)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = forward(placed)

    def replay(pcm: Tensor) -> Tensor:
        placed.copy_(pcm)
        graph.replay()
        return found

    return replay


def built(forward: Forward, pcm: Tensor, graphs: bool) -> Forward:
    """A forward for that size of batch."""
    return captured(forward, pcm.cuda()) if graphs else forward


def ways(network: Any, device: str) -> Iterator[tuple[str, Forward]]:
    """Every way to build it."""
    yield "plain float32", plain(network)
    for precision in (torch.float16, torch.bfloat16):
        name = str(precision).removeprefix("torch.")
        yield f"folded, {name}", folded(network, precision, device, False)
        yield f"folded, {name}, compiled", folded(network, precision, device, True)


def rate(forward: Forward, pcm: Tensor, device: str, seconds: float) -> float:
    """Chunks/s with the upload, from pinned memory, copies overlapping the work before."""
    host = pcm.pin_memory() if device == "cuda" else pcm
    wait: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else time.perf_counter
    for _ in range(3):
        forward(host.to(device, non_blocking=True))
    wait()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(5):
            forward(host.to(device, non_blocking=True))
        wait()
        count += 5 * len(pcm)
    return count / (time.perf_counter() - began)


def matrix_peak(device: str, size: int) -> float:
    """TFLOP/s of a large product in bfloat16."""
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    products = rate(lambda _: a @ a, torch.zeros(1, 1), device, 1.0)
    return 2 * size**3 * products / 1e12


def main() -> None:
    """Build, check, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    on_gpu = args.device == "cuda"
    network, _ = checkpoint.load(checkpoint.untrained(), "untrained")
    network = network.to(args.device).eval()
    rng = np.random.default_rng(0)
    pcm = torch.from_numpy(rng.integers(-9000, 9000, (max(args.batches), 48_000)).astype(np.int16))
    peak = matrix_peak(args.device, 8192 if on_gpu else 512)
    table = Table("way", "best batch", "chunks/s", "÷ plain", "of the peak", "largest score error")
    with torch.inference_mode():
        few = pcm[: min(16, len(pcm))].to(args.device)
        wanted, slowest = torch.sigmoid(network(few.float() / 32768.0)), 0.0
        for name, forward in ways(network, args.device):
            error = float((torch.sigmoid(forward(few).float()) - wanted).abs().max())
            for graphs in (False, True)[: 1 + on_gpu]:
                best, batch = max(
                    (rate(built(forward, pcm[:n], graphs), pcm[:n], args.device, args.seconds), n) for n in args.batches
                )
                slowest = slowest or best
                share = f"{best * GFLOP / 1e3 / peak:.0%}"
                row = (f"{name}, graph" if graphs else name, str(batch), f"{best:,.0f}", f"{best / slowest:.2f}", share)
                table.add_row(*row, f"{error:.0e}")
        front = FoldedHCNN(network).to(args.device).front
        alone = rate(lambda chunk: front(chunk.float() / 32768.0), pcm[: args.batches[-1]], args.device, args.seconds)
    Console(width=120).print(table)
    Console(width=120).print(f"matrix product: {peak:,.1f} TFLOP/s in bfloat16; front end alone: {alone:,.0f} chunks/s")


if __name__ == "__main__":
    main()
