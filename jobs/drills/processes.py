"""The processes of a job, found by descent: Ray starts sessions of its own, so a process group does not hold them."""

import os
import signal
import subprocess
from contextlib import suppress

DECODER, WORKER = "looptagger.steps import isolated", "looptagger.cluster import processes"
PREDICTOR = "ray::MapWorker(MapBatches(Predict))"
"""Parts of command lines: of processes that decode, and of workers without Ray and of it."""


def descendants(leader: int) -> dict[int, str]:
    """A process and all that descend from it: pid -> command line."""
    listed = subprocess.run(["ps", "-wweo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    lines = [line.split(None, 2) for line in listed.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, *_ in lines}
    names = {int(pid): args[0] if args else "" for pid, _, *args in lines}
    found = {leader}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: names.get(pid, "") for pid in found}


def kill(pids: list[int], number: int = signal.SIGKILL) -> None:
    """Send a signal to processes; those that are gone already are passed over."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def named(leader: int, text: str) -> list[int]:
    """Processes below a leader whose command line contains a text."""
    return sorted(pid for pid, name in descendants(leader).items() if text in name)


def alive(pids: list[int]) -> list[int]:
    """Those of the processes that still run, or wait: the dead ones that nobody has asked after do not."""
    listed = subprocess.run(["ps", "-eo", "pid=,stat="], capture_output=True, text=True, check=True).stdout
    states = {int(pid): state for pid, state in map(str.split, listed.splitlines())}
    return [pid for pid in pids if not states.get(pid, "Z").startswith("Z")]
