"""The programs of jobs/ that no other test runs: they import, and the GPU's benchmark builds and checks its ways."""

import runpy
import sys
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from jobs import bench_gpu
from looptagger.config import Compute
from looptagger.model.predictor import Predictor
from tests.conftest import tone

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use is here")


@pytest.mark.parametrize("name", ["bench", "bench_queries", "bench_scale", "bench_training", "fuzz", "recipes"])
def test_they_import(name: str) -> None:
    assert import_module(f"jobs.{name}").main


@pytest.mark.parametrize(("name", "says"), [("tag", "no such file or folder"), ("train", "no prepared data set")])
def test_what_a_cluster_runs_is_the_command(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", str(tmp_path / "nowhere"), "-o", str(tmp_path / "out")])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("looptagger.stopping.in_order", nullcontext)  # the signals are pytest's here
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(Path(__file__).parents[1] / "jobs" / f"{name}.py"), run_name="__main__")
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_the_gpus_benchmark_checks_what_it_times(
    device: str, tiny_model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compiled(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler is here")

    def convolved(maps: Tensor, weight: Tensor, *more: Any) -> Tensor:
        *beside, bias, stride, padding, dilation, groups = more
        summed = F.conv2d(maps, weight, bias, stride, padding, dilation, groups)
        return (summed + beside[0] * beside[1] if beside else summed).relu()

    monkeypatch.setattr(torch, "compile", compiled)
    if device == "cpu":  # cuDNN's are not here
        monkeypatch.setattr(torch, "cudnn_convolution_relu", convolved)
        monkeypatch.setattr(torch, "cudnn_convolution_add_relu", convolved)
    flags = ["--device", device, "--batches", "2", "3", "--seconds", "0.01", "--model", tiny_model]
    monkeypatch.setattr(sys, "argv", ["bench_gpu", *flags])
    bench_gpu.main()
    said = capsys.readouterr().out
    table = [line.split("│") for line in said.splitlines() if line.startswith("│")]
    errors = {line[1].strip(): float(line[6]) for line in table}
    assert errors["plain float32"] < 1e-5
    assert all(errors[f"folded, float16{how}"] < 5e-3 for how in ("", ", fused", ", fused, in halves"))
    assert "as the job calls it" in said
    assert said.count("3: no compiler is here") == 2 * (2 + 2 * (device == "cuda"))


@needs_gpu
def test_a_gpu_gives_the_scores_of_a_cpu(tiny_model: str) -> None:
    computes = [Compute(device="cpu"), Compute(device="cuda", batch_chunks=3)]  # 10 s: a whole batch and a part of one
    scores = [Predictor.load(tiny_model, compute)(tone(10), 16_000).scores for compute in computes]
    assert scores[0] == pytest.approx(scores[1], abs=5e-3)
