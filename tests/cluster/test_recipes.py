"""The cluster recipes of configs/cluster, by the schema or tool that is theirs where one installs."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

PLACE = Path(__file__).parents[2] / "configs" / "cluster"


def test_ray_up_takes_the_cluster_file() -> None:
    config = prepare_config(yaml.safe_load((PLACE / "ray.yaml").read_text()))
    validate_config({"cluster_synced_files": [], **config})  # Ray's own JSON schema, which refuses unknown keys
    kinds = config["available_node_types"]
    assert kinds["head"]["resources"]["CPU"] == 0
    assert all("InstanceMarketOptions" in kinds[kind]["node_config"] for kind in ("gpu", "decoder"))


def test_the_kubernetes_job_is_what_it_should_be() -> None:
    """KubeRay's schema is in no registry here: what looptagger relies on is checked, no more."""
    job = yaml.safe_load((PLACE / "rayjob.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    containers = [group["template"]["spec"]["containers"][0] for group in groups]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert cluster["rayVersion"] == version("ray")
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert len({container["image"] for container in containers}) == 1
    assert all(container["resources"]["limits"] == container["resources"]["requests"] for container in containers)
    assert (PLACE.parents[1] / job["spec"]["entrypoint"].split()[1]).exists()


def test_the_container_file_passes_hadolint() -> None:
    tool = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([tool, PLACE / "Containerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
