"""How a command is stopped from outside, by Ctrl-C or SIGTERM: in order, and at the third of them at once."""

import atexit
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

CODE = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN_S = 1.0
"""Seconds until an interrupt that nobody has seen is raised again."""
PATIENCE = 2
"""Signals that wait for all to end in order."""

SHOW_CURSOR = b"\x1b[?25h\n"
"""A progress line hides it."""

_asked: list[int] = []


@contextmanager
def in_order() -> Iterator[None]:
    """A command runs in it: a signal is a KeyboardInterrupt there, and after it the end, never a traceback."""
    _asked.clear()
    sys.unraisablehook = _unraised
    atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)  # while Python clears up, all has been done
    signal.signal(signal.SIGALRM, _again)
    for number in SIGNALS:
        signal.signal(number, _stop)
    try:
        try:
            yield
        finally:
            _ended()
    except KeyboardInterrupt:
        _ended()
        print("Stopped.", file=sys.stderr)
        sys.exit(CODE)


def _ended() -> None:
    """From here on there is nothing to end in order."""
    for number in SIGNALS:
        signal.signal(number, _at_once)
    signal.setitimer(signal.ITIMER_REAL, 0)


def _stop(number: int, _: object) -> None:
    """Have all end in order. What Ray then prints of the actors that it ends would only alarm."""
    _asked.append(number)
    if len(_asked) > PATIENCE:
        _at_once()
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S, AGAIN_S)
    raise KeyboardInterrupt


def _again(*_: object) -> None:
    """Raise it again where nobody saw it: Python drops what is raised in a weak reference's callback."""
    error = sys.exc_info()[1]
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    if not error:
        raise KeyboardInterrupt


def _at_once(*_: object) -> None:
    if os.isatty(2):
        os.write(2, SHOW_CURSOR)
    os._exit(CODE)


def _unraised(found: "sys.UnraisableHookArgs") -> None:
    """What Python drops it tells of with a traceback; of ours it need not."""
    if not isinstance(found.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(found)
