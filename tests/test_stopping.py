"""Commands that are stopped, at every moment, as processes of their own."""

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys, time, weakref
from looptagger import stopping
class Thing: pass
stopping.AGAIN_S = 0.1
def ask(*_): os.kill(os.getpid(), signal.SIGTERM)
with stopping.in_order():
    {body}
{after}
"""


def ended(body: str, after: str = "") -> tuple[int, str]:
    script = SCRIPT.format(body=body.replace("\n", "\n    "), after=after)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_what_python_drops_is_raised_again() -> None:
    """Of a weak reference's callback nothing comes out."""
    code, text = ended("thing = Thing()\nseen = weakref.ref(thing, ask)\ndel thing\ntime.sleep(20)")
    assert (code, text) == (130, "Stopped.\n")


def test_what_is_seen_is_not_raised_again_while_all_ends() -> None:
    code, text = ended("try:\n    ask()\nfinally:\n    time.sleep(0.5)\n    print('cleaned', file=sys.stderr)")
    assert (code, text) == (130, "cleaned\nStopped.\n")


def test_a_signal_while_python_clears_up_changes_nothing() -> None:
    """All has been done by then: a job that wrote every row did not fail."""
    late = "class Late:\n    def __del__(self, end=os.kill, me=os.getpid(), how=signal.SIGTERM): end(me, how)\n"
    assert ended("pass", f"{late}late = Late()") == (0, "")


def test_what_ray_does_to_signals_behind_pythons_back_is_undone() -> None:
    body = "import ctypes\nfrom looptagger.cluster import session\nwith session._signals_kept():\n"
    code, text = ended(f"{body}    ctypes.CDLL(None).signal(signal.SIGTERM, None)\nask()\ntime.sleep(20)")
    assert (code, text) == (130, "Stopped.\n")


def test_a_signal_as_the_command_ends_is_no_traceback() -> None:
    ends = "end = stopping._ended\nstopping._ended = lambda: stopping.__dict__.update(_ended=end) or ask()"
    assert ended(ends) == (130, "Stopped.\n")


def test_the_third_ends_at_once() -> None:
    clean = "try:\n        ask()\n    finally:\n        ask()"
    assert ended(f"try:\n    {clean}\nfinally:\n    ask()\n    print('not reached', file=sys.stderr)") == (130, "")


def test_a_signal_after_the_end_is_no_traceback() -> None:
    assert ended("pass", "ask()\ntime.sleep(20)") == (130, "")


@pytest.mark.parametrize("module", ["click", "pyarrow", "pydantic"])
def test_a_command_stopped_while_it_starts_says_so(module: str) -> None:
    """Once such a module has been imported."""
    start = [sys.executable, "-X", "importtime", "-m", "looptagger", "--help"]
    with subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as command:
        assert command.stderr is not None
        assert any(line.split("|")[-1].strip() == module for line in command.stderr)
        command.send_signal(signal.SIGINT)
        said = [line for line in command.stderr if not line.startswith("import time:")]
    assert (command.returncode, said) == (130, ["Stopped.\n"])
