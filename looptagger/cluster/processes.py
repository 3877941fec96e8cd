"""Processes of this machine that work without Ray, and the links to them.

One ends when this process is gone, as the link between them is then closed. Only what we send ourselves goes over a
link, so it may be pickled.
"""

import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from looptagger.errors import UserError

START = "import sys; sys.path.append(sys.argv[1]); from looptagger.cluster import processes; processes.serve()"
"""Not `-m`: it takes the folder that a user is in for the first place of modules, such as an av.py there."""
FIRST_TO_GO = "1000"
"""What Linux ends where memory is short: a process that is replaced, and not the one that would do so."""


class Fault(RuntimeError):
    """What went wrong in another process, and is nobody's to mend. Its notes have the traceback."""


class Process:
    """A process with a life, from this side of the link: `life(link, *given)` runs there once it is begun."""

    def __init__(self, life: Callable[..., None], *given: Any, env: Mapping[str, str] | None = None) -> None:
        self.link, other = Pipe()
        self.begins = (life, given)
        root, number = str(Path(__file__).parents[2]), other.fileno()
        command = [sys.executable, "-P", "-c", START, root, str(number)]
        how: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        # BLAS libraries keep memory for each thread; torch is told how many to use.
        how |= {"pass_fds": [number], "env": {"OMP_NUM_THREADS": "1", **os.environ, **(env or {})}}
        try:  # in a group of its own: Ctrl-C is for the job, which ends this
            self.process = subprocess.Popen(command, process_group=0, **how)
        except OSError as error:
            raise UserError(f"no more processes start here ({error.strerror}); end others, or allow more.") from None
        finally:
            other.close()

    def begin(self) -> None:
        """Tell it what to do: when all that are to run beside it have been started."""
        self.tell(self.begins)

    def tell(self, said: Any) -> None:
        """Send it something. That it is gone shows when it is to be heard."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.link.send(said)

    def hear(self) -> Any:
        """What it says next; None where it is gone. Raises the UserError that it met, or Fault."""
        said = None
        with suppress(EOFError, OSError):  # also in the middle of a word
            said = self.link.recv()
        if isinstance(said, Exception):
            raise said
        return said

    def end(self) -> int:
        """End it, whatever it is at. Its exit code."""
        self.link.close()
        self.process.kill()
        return self.process.wait()


def ending(code: int) -> str:
    """An exit code in words."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def serve() -> None:
    """Live, on the other side of the link that the last argument names."""
    link = Connection(int(sys.argv[-1]))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
    try:
        life, given = link.recv()
        life(link, *given)
    except EOFError:
        return
    except Exception as error:
        said = UserError(str(error)) if isinstance(error, UserError) else Fault(f"{type(error).__name__}: {error}")
        said.add_note(traceback.format_exc())
        with suppress(OSError):
            link.send(said)


def heard(link: Connection) -> SimpleQueue[Any]:
    """What comes over a link, which is always listened to, so that nobody waits to be heard. At its end, so does
    this process.
    """
    said: SimpleQueue[Any] = SimpleQueue()

    def listen() -> None:
        try:
            while True:
                said.put(link.recv())
        finally:  # whatever it is: nobody would hear of it
            os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    return said
