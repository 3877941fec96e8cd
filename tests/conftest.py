"""Signals, a tiny model, a real S3 server and one Ray session for all tests of a process (`make test` has two)."""

import io
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from jobs.drills.processes import WORKER, alive, named
from jobs.drills.server import ENVIRONMENT, Server
from looptagger.errors import UserError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # not behind the tests that run beside them
os.environ["LOOPTAGGER_GPU_IS_PRETENDED"] = "1"  # where there is none, Ray offers one all the same

LOOPS = Path(__file__).parent / "data" / "loops"
SHARED = Path(__file__).parents[2] / "shared"
RATE = 16_000
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "AWS_"))} | {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}
"""The environment of a program that is to start a Ray of its own."""
ONE_CORE = CLEAN | {"RAY_OVERRIDE_RESOURCES": '{"CPU": 1}', "LOKY_MAX_CPU_COUNT": "1"}
"""The same, where a second worker would only take longer to import torch."""


def tone(seconds: float = 1.0, hz: float = 440.0, rate: int = RATE, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def refused_in_time(check: Callable[[], None]) -> str:
    """What a check raises that a thread is to make raise, or nothing after ten seconds."""
    for _ in range(100):
        try:
            check()
        except UserError as error:
            return str(error)
        time.sleep(0.1)
    return ""


def same_decibels(ours: np.ndarray, reference: np.ndarray) -> bool:
    """Whether maps (n_harmonic, n_band, frames) agree within 1e-3 dB above -80 dB and float32's rounding.

    FFTs round to half a unit of a frame's loudest band, not alike on all CPUs: where a band is 94 dB below it, the
    reference is itself 0.005 dB beside what float64 gives.
    """
    level, expected = (10 ** (maps.astype(np.float64) / 20) for maps in (ours, reference))
    rounding = np.finfo(np.float32).eps / 2 * expected.max(axis=(0, 1))
    apart = np.abs(level - expected) > expected * (10 ** (1e-3 / 20) - 1) + rounding
    return not apart[reference > -80].any()


def audio_bytes(samples: np.ndarray, rate: int = RATE, **how: Any) -> bytes:
    file = io.BytesIO()
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(file, "w", rate, channels, **({"format": "WAV"} | how)) as sound:
        for start in range(0, len(samples), rate):  # libsndfile's Vorbis encoder crashes on long single writes
            sound.write(samples[start : start + rate])
    return file.getvalue()


def write_tones(folder: Path, count: int, seconds: float = 0.25) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"tone{i:04d}.wav" for i in range(count)]
    for i, path in enumerate(paths):
        path.write_bytes(audio_bytes(tone(seconds, 200 + 10 * i)))
    return paths


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Of two processes on two cores each has one: torch's threads wait for one another at full speed."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of the real depth and four channels: milliseconds a chunk."""
    from looptagger.config import Model
    from looptagger.model import checkpoint

    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    path.write_bytes(checkpoint.untrained(Model(channels=4)))
    return str(path)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all tests. Its one GPU is only logical: the model then runs on a CPU."""
    import ray

    quiet = {"include_dashboard": False, "log_to_driver": False}  # Ray's notes would come between a test's own lines
    ray.init(address="local", num_cpus=2, num_gpus=1, object_store_memory=300_000_000, **quiet)
    yield
    ray.shutdown()


@pytest.fixture
def ray_here(ray_session: None) -> Iterator[None]:
    """The Ray session, with Ray Data's context as it was before the test."""
    import copy

    import ray.data

    context = copy.deepcopy(ray.data.DataContext.get_current())
    yield
    ray.data.DataContext._set_current(context)


def joining() -> dict[str, str]:
    """The environment of a program that is to join the Ray session here, as if it were a cluster."""
    import ray

    return CLEAN | {
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled"),  # Ray has set it to what it started with
    }


@pytest.fixture
def one_worker(ray_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, for jobs that take one of its two cores and read their rows themselves, as on a machine of one core.

    More workers would only take longer to import torch.
    """
    from looptagger.cluster import plan, tagging

    divided, grows = plan.plan, tagging._pool
    monkeypatch.setattr(tagging, "plan", lambda cpus, gpus, compute: divided(min(cpus, 1), gpus, compute))
    monkeypatch.setattr(tagging, "_pool", lambda now, works: grows(now, works[:now]))
    monkeypatch.setattr(tagging, "_where_readable", lambda shards, job, plan: shards)


@pytest.fixture
def no_workers(ray_here: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The job's steps in this process, where what is tested is not Ray's part: a worker takes 10 s to import torch."""
    from looptagger.cluster import tagging
    from looptagger.steps import isolated

    class Steps:
        def __init__(self, works: list[Any], job: Any, plan: Any) -> None:
            self.works, self.job = works, job

        def iter_batches(self, **how: Any) -> Iterator[Any]:
            worker = tagging.Predict(self.job, decodes=True)
            for work in self.works:
                yield from worker(pa.table({tagging.WORK: [json.dumps(asdict(work))]}))

    monkeypatch.setattr(tagging, "pipeline", Steps)
    yield
    isolated.HELPER.close()  # which has this test's environment


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Jobs on two cores and without Ray, whatever this machine and the other tests have; no worker is left."""
    from looptagger.cluster import cores

    monkeypatch.setattr(cores.joblib, "cpu_count", lambda: 2)
    monkeypatch.setattr(cores, "wants_ray", lambda address, device="cpu": False)
    yield
    assert not workers()


def workers() -> list[int]:
    """Processes of jobs without Ray that run here."""
    return alive(named(os.getpid(), WORKER))


@dataclass(frozen=True)
class S3:
    endpoint: str
    env: dict[str, str]
    fs: Any


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A SeaweedFS process that speaks S3 on loopback, with a bucket anyone may read and one that needs credentials."""
    server = Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield S3(server.endpoint, ENVIRONMENT, server.filesystem())
    server.kill()


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The S3 server, with credentials in the environment."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # which holds what other tests signed with
    for key, value in s3_server.env.items():
        monkeypatch.setenv(key, value)
    return s3_server
