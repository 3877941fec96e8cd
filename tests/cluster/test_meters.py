"""The job's metrics, as Prometheus would scrape them from Ray."""

import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from looptagger.cluster.tagging_job import TagJob, tag
from looptagger.config import Compute, Tag
from tests.conftest import write_tones


def scraped() -> dict[str, float]:
    """All of looptagger's metrics on this machine, summed over processes."""
    found: dict[str, float] = {}
    for node in ray.nodes():
        address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        text = urllib.request.urlopen(address, timeout=10).read().decode()
        for name, labels, value in re.findall(r"^ray_(looptagger_\w+)\{(.*?)\} (\S+)", text, re.MULTILINE):
            status = re.search(r'status="(\w+)"', labels)
            key = f"{name} {status[1]}" if status else name
            found[key] = found.get(key, 0.0) + float(value)
    return found


@pytest.mark.usefixtures("ray_here")
def test_clips_failures_and_seconds_are_counted(tiny_model: str, tmp_path: Path) -> None:
    write_tones(tmp_path / "audio", 20)
    (tmp_path / "audio" / "broken.wav").write_bytes(b"junk" * 99)
    before = scraped()
    on_cpu = Tag(compute=Compute(device="cpu", shard_rows=8))
    tag(TagJob((str(tmp_path / "audio"),), str(tmp_path / "out"), tiny_model, tag=on_cpu))
    for _ in range(60):  # Ray collects every ten seconds
        now = scraped()
        after = {name: value - before.get(name, 0.0) for name, value in now.items()}
        if after.get("looptagger_clips_total ok", 0) >= 20:
            break
        time.sleep(0.5)
    assert after["looptagger_clips_total ok"] == 20, after
    assert after["looptagger_clips_total undecodable"] == 1
    assert after["looptagger_chunks_total"] == 20
    assert after["looptagger_decode_seconds_total"] > 0
    assert after["looptagger_predict_seconds_total"] > 0
    assert now["looptagger_batch_fill"] > 0  # a gauge; workers of a job before this one may still show theirs
