"""Ray itself: a cluster joined where one is named, a local one started quietly otherwise."""

import errno
import logging
import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

# Before ray is imported: it reads these then.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
# Its C++ core writes notes on Ray Data's own actors to the terminal as errors; what matters comes as an exception.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import pyarrow as pa
import ray
import ray.data

from looptagger.cluster.environment import Environment, adopt, storage_environment
from looptagger.errors import UserError, one_line

with suppress(pa.ArrowKeyError):  # Ray Data's columns of pickled objects: read out of a stranger's Parquet, they run
    pa.unregister_extension_type("ray.data.arrow_pickled_object")

Note = Callable[[str], None]
HERE = "local"  # Ray's own word for the address of one that is started for this process


@contextmanager
def session(address: str | None, note: Note | None = None, gpus: float = 0.0) -> Iterator[bool]:
    """A Ray session: the one already open, the cluster at `address` (or RAY_ADDRESS), or a local one for this job.

    Yields whether it is the latter, which has this machine's node and no other. Where there is a `note` to tell of it,
    a cluster that starts is waited for, until it has a node with a CPU, and one with so many GPUs.
    Raises UserError when the named cluster does not answer.
    """
    hush()
    if note:
        note("Using the Ray session that is open." if ray.is_initialized() else "Starting Ray ...")
    with _plainly():
        if ray.is_initialized():
            yield False
            return
        named = address or os.environ.get("RAY_ADDRESS") or HERE
        if named != HERE:
            _knock(named, "--address" if address else "RAY_ADDRESS")
        _start(named)
        try:
            if named != HERE and note:
                _await_node(1, 0, note)
                _await_node(0, gpus, note)
            yield named == HERE
        finally:
            with _signals_kept():
                ray.shutdown()


def _start(named: str) -> None:
    """Join the cluster that is named, or start Ray here. Raises UserError where that fails."""
    _speak_utf8()
    dashboard = False if named == HERE else None
    try:
        with _signals_kept(), _stderr_closed():
            ray.init(address=named, include_dashboard=dashboard, logging_level=logging.ERROR, log_to_driver=False)
    except SystemExit:
        raise KeyboardInterrupt from None  # SIGTERM while Ray starts: its own handler was on just then
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # said by main
        raise UserError(_unusable(named, error)) from None
    else:
        with suppress(OSError):
            os.chmod(os.path.expanduser("~/.ray/auth_token"), 0o600)  # who reads it may run code here; Ray lets all


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Signals stay ours: Ray puts its handlers there as it starts, the kernel's as it ends, unseen by Python."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _speak_utf8() -> None:
    """Ray registers the driver's command line, and stumbles over one that is not UTF-8, as a folder's name may be."""
    from ray._private import utils

    line = shlex.join(sys.argv)
    plain = line.encode(errors="replace").decode()
    if line != plain:
        utils.get_entrypoint_name = lambda: plain


def _unusable(named: str, error: Exception) -> str:
    where = "Ray on this machine" if named == HERE else f"the Ray cluster at {named}"
    again = "; on a busy machine, try again" * (type(error) is Exception)  # what Ray raises of a slow start
    return f"{where} cannot be used: {one_line(error)}{again}."


@contextmanager
def _plainly() -> Iterator[None]:
    """What a worker met and the user can mend, as the UserError that it was."""
    try:
        yield
    except Exception as error:
        said = _worker_said(error)
        if not said or type(error) is UserError:
            raise
        raise UserError(said) from None


def _worker_said(error: BaseException | None) -> str:
    """The sentence of the UserError that a worker raised, out of what Ray wraps it in and adds below; else nothing."""
    for _ in range(10):
        cause = getattr(error, "cause", None)
        if error is None or (isinstance(error, UserError) and cause is None):
            break
        error = cause if isinstance(cause, BaseException) else error.__cause__
    return str(error).partition("\n")[0] if isinstance(error, UserError) else ""


def _knock(address: str, given: str) -> None:
    """Refuse an address where nobody listens: Ray itself would try again for minutes. Raises UserError."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # `auto`, or a name that Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(f"no Ray cluster answers at {address} ({error.strerror or error}); check {given}.") from None


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Keep what Ray's C++ core writes straight to the terminal while it starts; its failures come as exceptions."""
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


def offers() -> list[tuple[float, float]]:
    """Logical CPUs and GPUs of each node that is up."""
    up = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(has.get("CPU", 0.0), has.get("GPU", 0.0)) for has in up]


COMING_S = 600.0
"""Seconds that a job waits for a cluster's first node: they start for minutes, some of them only when asked for."""


def _await_node(cpus: float, gpus: float, note: Note) -> None:
    """Wait until a node offers so much. A task that asks for it makes an autoscaler start one. Raises UserError."""
    if any(has[0] >= cpus and has[1] >= gpus for has in offers()):
        return
    what = " and ".join(f"{number:g} {kind}" for number, kind in ((cpus, "CPU"), (gpus, "GPU")) if number)
    note(f"No node of the cluster offers {what} yet; waiting for one, {COMING_S / 60:g} minutes at most.")
    asking = ray.remote(offers).options(num_cpus=cpus, num_gpus=gpus).remote()
    if not ray.wait([asking], timeout=COMING_S)[0]:
        raise UserError(f"the cluster got no node that offers {what}; look at `ray status` there, and start one.")


def store_use() -> tuple[int, int]:
    """Bytes that lie in the nodes' object stores, and bytes that these have spilled to disk since Ray started.

    By Ray's own tool for `ray memory`, which is not public: where it fails, 0.
    """
    from ray._private.internal_api import node_stats

    used = spilled = 0
    for node in filter(lambda node: node["Alive"], ray.nodes()):
        with suppress(Exception):
            address = (node["NodeManagerAddress"], node["NodeManagerPort"])
            stats = node_stats(*address, include_memory_info=False).store_stats
            used, spilled = used + stats.object_store_bytes_used, spilled + stats.spilled_bytes_total
    return used, spilled


def computed(
    blocks: Sequence[pa.Table], work: Callable[..., Iterator[pa.Table]], in_order: bool, **given: Any
) -> Iterator[pa.Table]:
    """What tasks, one a core, make of blocks; in the session that is open."""
    dataset: Any = ray.data.from_arrow(list(blocks))
    dataset.context.execution_options.preserve_order = in_order
    how: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True, "num_cpus": 1}
    given |= {"work": work, "environment": storage_environment()}
    dataset = dataset.map_batches(_adopted, fn_kwargs=given, **how)
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)


def _adopted(
    block: pa.Table, work: Callable[..., Iterator[pa.Table]], environment: Environment, **given: Any
) -> Iterator[pa.Table]:
    adopt(environment)
    yield from work(block, **given)


def hush() -> None:
    """Leave the terminal to our own words: Ray Data's notes, and its traces of what fails, go to its log files only."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray").setLevel(logging.ERROR)
    notes = logging.getLogger("ray.data")
    notes.handlers = [each for each in notes.handlers if not isinstance(each, logging.StreamHandler)]
