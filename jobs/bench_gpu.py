"""`make bench-gpu`: the forward on this machine's GPU, built several ways, checked against float32 and timed.

Chunks/s of each at its best batch, with the upload of int16 chunks, as ratios to the plain float32 module; the front
end alone; the trunk's arithmetic beside the largest that a matrix product reaches. On a machine without GPU it
only shows that everything builds (`--device cpu`, slow).
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from looptagger.config import Compute
from looptagger.errors import one_line
from looptagger.model import checkpoint
from looptagger.model.folded import FoldedHCNN
from looptagger.model.hcnn import HCNN
from looptagger.model.predictor import Predictor
from looptagger.model.remade import pooled

LAST = torch.channels_last
CHECKED = 16
"""Chunks of a batch whose scores are compared with float32's."""

Forward = Callable[[Tensor], Tensor]


def gflop(network: Any, waveform: Tensor) -> float:
    """Of the trunk, for one chunk."""
    maps = network.maps(waveform)
    with FlopCounterMode(display=False) as counter:
        network.trunk(maps)
    return float(counter.get_total_flops() / 1e9)


def plain(network: HCNN, as_trained: bool) -> Forward:
    """The module in float32; or as it is trained: channels last, by cuDNN's quickest ways, in which it rounds what it
    multiplies to 10 bits (TF32).
    """
    if as_trained:
        network = copy.deepcopy(network)
        network.trunk.to(memory_format=LAST)  # type: ignore[call-overload]

    def forward(pcm: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=as_trained, benchmark=as_trained):
            maps = network.maps(pcm.float() / 32768.0)
            return network.classify(maps.contiguous(memory_format=LAST) if as_trained else maps)

    return forward


class FusedBlock(nn.Module):
    """A folded block whose bias, sum and ReLU are part of cuDNN's convolutions: it passes over its maps four times,
    not a dozen. (n, c_in, h, w) -> (n, c_out, h // 2, w // 2), channels last.
    """

    AT = ((1, 1), (1, 1), (1, 1), 1)
    """Stride, padding, dilation, groups."""

    def __init__(self, block: nn.Module, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        convs = [each for each in block.children() if isinstance(each, nn.Conv2d)]
        self.first, self.last, self.pool = convs[0], convs[-1], pool

    def forward(self, maps: Tensor) -> Tensor:
        """Maps to maps of half the size."""
        clipped = torch.cudnn_convolution_relu(maps, self.first.weight, self.first.bias, *self.AT)
        if self.last is not self.first:
            clipped = torch.cudnn_convolution_add_relu(clipped, self.last.weight, maps, 1.0, self.last.bias, *self.AT)
        return self.pool(clipped)  # the largest of what is clipped, or clipped the largest: the same


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "fused": partial(F.max_pool2d, kernel_size=2),  # also writes where the largest are, in eight bytes each
    "fused, in halves": pooled,
}


def folded(network: Any, precision: torch.dtype, device: str, how: str = "") -> Forward:
    """As looptagger tags; or with blocks of another kind; or its trunk compiled for the one size of batch that it is
    called with.
    """
    module = FoldedHCNN(network, precision).to(device).eval()
    if how in POOLS:
        module.trunk = nn.Sequential(*(FusedBlock(block, POOLS[how]) for block in module.trunk))
    if how == "compiled":
        torch._dynamo.reset()
        whole = torch.compile(module.trunk, mode="max-autotune-no-cudagraphs", dynamic=False)
        module.trunk = nn.Sequential(whole)  # type: ignore[call-overload]
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


def ways(network: Any, device: str) -> Iterator[tuple[str, Callable[[], Forward]]]:
    """Every way to build it."""
    yield "plain float32", partial(plain, network, False)
    yield "plain, as it is trained (TF32)", partial(plain, network, True)
    for precision in (torch.float16, torch.bfloat16):
        name = str(precision).removeprefix("torch.")
        for how in ("", *POOLS, "compiled"):
            yield f"folded, {name}" + f", {how}" * bool(how), partial(folded, network, precision, device, how)


def rate(forward: Forward, pcm: Tensor, device: str, seconds: float) -> float:
    """Chunks/s with the upload, from pinned memory, on the same stream."""
    on_gpu = torch.device(device).type == "cuda"
    host = pcm.pin_memory() if on_gpu else pcm
    wait: Callable[[], object] = torch.cuda.synchronize if on_gpu else time.perf_counter
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


def tried(
    build: Callable[[], Forward], graph: bool, pcm: Tensor, wanted: Tensor, device: str, seconds: float
) -> tuple[float, float]:
    """Chunks/s of a way to build it at this size of batch, and by how much its scores differ from those wanted."""
    placed, forward = pcm.to(device), build()
    if graph:
        forward = captured(forward, placed)
    found = torch.sigmoid(forward(placed)[: len(wanted)].float())
    return rate(forward, pcm, device, seconds), float((found - wanted[: len(found)]).abs().max())


def row(
    name: str, build: Callable[[], Forward], graph: bool, batches: dict[int, Tensor], wanted: Tensor, args: Any
) -> tuple[str, float, int, float, str]:
    """A way's name, its best rate, at which batch, the largest difference in a score, and what did not work."""
    name, found, failed = f"{name}, graph" if graph else name, [], ""
    for size, pcm in batches.items():
        try:
            speed, error = tried(build, graph, pcm, wanted, args.device, args.seconds)
            found.append((speed, size, error))
        except Exception as error:  # a card that is too small, a compiler that is not there: the other ways still count
            failed = f"{size}: {one_line(error)[:60]}"
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    best = max(found, default=(0.0, 0, float("nan")))
    return name, best[0], best[1], max((each[2] for each in found), default=float("nan")), failed


def job_rate(predictor: Predictor, pcm: Tensor, seconds: float) -> float:
    """Chunks/s of what the job calls, four batches at a time: each is uploaded while the one before is computed."""
    chunks = np.resize(pcm.numpy(), (4 * predictor.batch, pcm.shape[1]))
    predictor.chunk_scores(chunks)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        predictor.chunk_scores(chunks)
        count += len(chunks)
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
    parser.add_argument("--model", default="untrained", help="a checkpoint's name or path")
    args = parser.parse_args()
    on_gpu = torch.device(args.device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(args.device)
    network, _ = checkpoint.load(checkpoint.resolve(args.model), args.model)
    network = network.to(args.device).eval()
    rng = np.random.default_rng(0)
    pcm = torch.from_numpy(rng.integers(-9000, 9000, (max(args.batches), 48_000)).astype(np.int16))
    peak = matrix_peak(args.device, 8192 if on_gpu else 512)
    console, slowest = Console(width=140), 0.0
    table = Table("way", "best batch", "chunks/s", "÷ plain", "of the peak", "largest score error", "what failed")
    batches, work = {size: pcm[:size] for size in args.batches}, gflop(network, pcm[:1].to(args.device) / 32768.0)
    with torch.inference_mode():
        wanted = torch.sigmoid(plain(network, False)(pcm[:CHECKED].to(args.device)))
        for name, build in ways(network, args.device):
            for graph in (False, True)[: 1 + on_gpu]:
                way, best, size, error, failed = row(name, build, graph, batches, wanted, args)
                slowest = slowest or best
                share = f"{best * work / 1e3 / peak:.0%}"
                ratio = f"{best / slowest:.2f}" if slowest else "-"
                table.add_row(way, str(size), f"{best:,.0f}", ratio, share, f"{error:.0e}", failed)
                console.print(f"{way}: {best:,.0f} chunks/s {failed}", style="dim")
        front = FoldedHCNN(network).to(args.device).front
        alone = rate(lambda chunk: front(chunk.float() / 32768.0), pcm[: args.batches[-1]], args.device, args.seconds)
    console.print(table)
    predictor = Predictor(checkpoint.resolve(args.model), compute=Compute(device=args.device))
    console.print(f"as the job calls it: {job_rate(predictor, pcm, args.seconds):,.0f} chunks/s")
    console.print(f"matrix product: {peak:,.1f} TFLOP/s in bfloat16; front end alone: {alone:,.0f} chunks/s")


if __name__ == "__main__":
    main()
