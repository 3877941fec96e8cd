"""What is done to a running job. Each strike says what it hit, and leaves the site as the next run is to find it."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from jobs.drills.processes import DECODER, PREDICTOR, WORKER, descendants, kill, named
from jobs.drills.site import Site, ended

Job = subprocess.Popen[bytes]
ENDED, NOTHING = "ended before", "no output yet"
"""What is said of a strike that came too late or too early."""
AWAY_S = 3.0
"""How long a killed S3 server is away, and a node until another takes its place."""


def driver(site: Site, job: Job, rng: random.Random) -> str:
    """SIGKILL for the driver alone."""
    kill([job.pid])
    return "driver"


def tree(site: Site, job: Job, rng: random.Random) -> str:
    """SIGKILL for every process of the job, as when the machine is taken away."""
    doomed = list(descendants(job.pid))
    kill(doomed)
    return f"{len(doomed)} processes"


def decoder(site: Site, job: Job, rng: random.Random) -> str:
    """SIGKILL for a process that decodes."""
    return _one_of(job, DECODER, rng)


def worker(site: Site, job: Job, rng: random.Random) -> str:
    """SIGKILL for a worker on one of this machine's cores, without Ray."""
    return _one_of(job, WORKER, rng)


def predictor(site: Site, job: Job, rng: random.Random) -> str:
    """SIGKILL for an actor of Ray's that predicts."""
    return _one_of(job, PREDICTOR, rng)


def _one_of(job: Job, name: str, rng: random.Random) -> str:
    """Kill one of the job's processes of a name, as soon as there is one."""
    while not (pids := named(job.pid, name)):
        if job.poll() is not None:
            return ENDED
        time.sleep(0.1)
    kill([rng.choice(pids)])
    return f"1 of {len(pids)}"


def server(site: Site, job: Job, rng: random.Random) -> str:
    """SIGKILL for the S3 server, which comes back after a while."""
    assert site.server
    site.server.kill()
    time.sleep(AWAY_S)
    site.server.start()
    return f"away {AWAY_S:g} s"


def node(cluster: object) -> Callable[[Site, Job, random.Random], str]:
    """SIGKILL for a node of a cluster and all its workers; another node comes after a while."""

    def strike(site: Site, job: Job, rng: random.Random) -> str:
        nodes = sorted(cluster.worker_nodes, key=lambda each: each.node_id)  # type: ignore[attr-defined]
        cluster.remove_node(rng.choice(nodes), allow_graceful=False)  # type: ignore[attr-defined]
        time.sleep(AWAY_S)
        cluster.add_node(num_cpus=1)  # type: ignore[attr-defined]
        return f"1 of {len(nodes)}"

    return strike


def nodes(cluster: object) -> Callable[[Site, Job, random.Random], str]:
    """No harm: a cluster that had no node for work gets one, and after a while another, which is to work as well."""

    def strike(site: Site, job: Job, rng: random.Random) -> str:
        cluster.add_node(num_cpus=1)  # type: ignore[attr-defined]
        while not _predictors() and job.poll() is None:
            time.sleep(0.1)
        cluster.add_node(num_cpus=1)  # type: ignore[attr-defined]
        most = 0
        while most < 2 and job.poll() is None:
            most = max(most, _predictors())
            time.sleep(0.1)
        if most < 2:
            raise RuntimeError("the second node was given nothing to do")
        return "both work"

    return strike


def _predictors() -> int:
    return len(named(os.getpid(), PREDICTOR))


def terminate(site: Site, job: Job, rng: random.Random) -> str:
    """SIGTERM, as a scheduler sends it."""
    job.send_signal(signal.SIGTERM)
    return "SIGTERM"


def interrupt(site: Site, job: Job, rng: random.Random) -> str:
    """SIGINT, as Ctrl-C sends it."""
    job.send_signal(signal.SIGINT)
    return "SIGINT"


def gone(site: Site, job: Job, rng: random.Random) -> str:
    """The output folder is moved away; it is back for the next run."""
    out, away = Path(site.out), Path(f"{site.out}.away")
    if not out.exists():
        return NOTHING
    out.rename(away)
    ended(job)
    if out.exists():
        raise RuntimeError(f"the job made {out} anew")
    away.rename(out)
    return "moved away"


def full(site: Site, job: Job, rng: random.Random) -> str:
    """The disk is filled to the last byte; there is room again for the next run."""
    filler = Path(site.out).parent / "filler"
    try:
        with open(filler, "wb", buffering=0) as file:
            while True:
                file.write(os.urandom(4096))
    except OSError:
        pass  # no space left: as wanted
    ended(job)
    filler.unlink()
    return "filled"
