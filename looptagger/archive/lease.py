"""One writer an output on an object store: an object that its holder renews, and that others take over once stale."""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from looptagger.archive.storage import Folder, parsed
from looptagger.errors import UserError

NAME = "_run/lock.json"
RENEW_S = 10.0
STALE_S = 60.0
"""A lease not renewed for this long belongs to a job that is gone."""
SETTLED_S = 1.0
"""Of two jobs that take over a stale lease at once, the one that wrote last has it: looked up after so long."""


def owner(token: str = "") -> dict[str, Any]:
    """Who holds an output. Containers and cloned machines may share a name, and then a process number, too."""
    who = {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine(), "token": token}
    return who | {"renewed": time.time()}


def _machine() -> str:
    """This boot of this machine, and the name space of its process numbers; nothing where there is no /proc."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as boot:
            return f"{boot.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


@contextmanager
def held(folder: Folder) -> Iterator[Callable[[], None]]:
    """Hold an output for as long as the block runs: see lock.held."""
    lease = _Lease(folder)
    thread = threading.Thread(target=lease.keep, daemon=True, name="lease")
    thread.start()
    try:
        yield lease.check
    finally:
        lease.done.set()
        thread.join()
        with suppress(UserError):  # how the job ended matters more than a lease that will be stale in a minute
            if lease.is_ours():
                folder.delete([NAME])


class _Lease:
    """A lease of ours, renewed in a thread of its own."""

    def __init__(self, folder: Folder) -> None:
        self.folder, self.token = folder, uuid.uuid4().hex
        self.done, self.lost = threading.Event(), ""
        _claim(folder, self.token)
        self.renewed = time.time()

    def keep(self) -> None:
        """Renew it until it is done with, or lost."""
        while not self.done.wait(RENEW_S):
            with suppress(UserError):  # the store is away for a moment; the next renewal may pass
                too_late = max(time.time() + SETTLED_S, self.renewed + STALE_S)  # it may be another's since then
                if not self.is_ours():
                    return
                if time.time() > too_late:
                    continue  # look again
                self.folder.write(NAME, json.dumps(owner(self.token)).encode())
                if time.time() > too_late:
                    late = "its lease was renewed too late, and another job may have it"
                    self.lost = f"{late}; run the same command again"
                self.renewed = time.time()

    def is_ours(self) -> bool:
        """Whether it is still there and ours; one that is not there was taken over by a job that has ended."""
        if not self.lost and parsed(self.folder.read(NAME)).get("token") != self.token:
            self.lost = "another job took this one for dead, and goes on with it; leave it to that"
        return not self.lost

    def check(self) -> None:
        """Raise UserError where it is lost. After a machine's sleep, nobody may have looked yet."""
        if time.time() - self.renewed > STALE_S:
            with suppress(UserError):  # the store is away: what is to be written will wait for it, or say so
                self.is_ours()
        if self.lost:
            raise UserError(f"{self.folder.uri}: {self.lost}.")


def _claim(folder: Folder, token: str) -> None:
    """Create the lease object if nobody has, or take over one whose owner is gone."""
    lease = json.dumps(owner(token)).encode()
    existing = folder.read(NAME)
    if existing is None:
        try:
            with folder.reached():
                folder.fs.pipe_file(folder.at(NAME), lease, mode="create")
        except FileNotFoundError:
            raise UserError(f"{folder.uri}: no such bucket; create it, or check the name.") from None
        except UserError:
            existing = folder.read(NAME)  # another job was quicker, or the store cannot be written
            if existing is None:
                raise
        else:
            return _settle(folder, token)  # not all stores know "create only"
    if parsed(existing).get("token") == token:
        return  # made, though the answer was lost
    is_ahead = _age(existing) < -STALE_S  # whether its owner lives is seen by what it does
    alive = _renewed(folder, existing) if is_ahead or is_gone(existing) else existing
    if alive is not None:
        raise UserError(busy(folder, alive))
    folder.write(NAME, lease)
    _settle(folder, token)


def _settle(folder: Folder, token: str) -> None:
    """Look whether a lease just written is still ours. Raises UserError where another job's is there."""
    time.sleep(SETTLED_S)
    last = folder.read(NAME) or b""
    if parsed(last).get("token") != token:
        raise UserError(busy(folder, last))


def is_gone(lease: bytes) -> bool:
    """Whether a lease's owner is dead: not renewed for long, or a process that this machine would see and does not."""
    return _age(lease) > STALE_S or _died_here(lease)


def _age(lease: bytes) -> float:
    """Seconds since a lease was renewed, by this machine's clock: the other's may be ahead."""
    return time.time() - float(parsed(lease).get("renewed", 0))


def _died_here(lease: bytes) -> bool:
    owner = parsed(lease)
    is_here = owner.get("machine") == _machine() != ""
    return is_here and not os.path.exists(f"/proc/{int(owner.get('pid', 0))}")


def _renewed(folder: Folder, lease: bytes) -> bytes | None:
    """The lease that followed one which seemed stale: its owner lives, on a machine whose clock is not ours."""
    if _died_here(lease):
        return None
    time.sleep(RENEW_S + SETTLED_S)
    now = folder.read(NAME)
    return None if now == lease else now


def who(lease: bytes) -> str:
    """Whose a lease is, for people."""
    owner = parsed(lease)
    return f"process {owner.get('pid', '?')} on {owner.get('host', 'another machine')}"


def busy(folder: Folder, lease: bytes) -> str:
    """The sentence for an output that another job holds."""
    return f"{folder.uri}: another looptagger job ({who(lease)}) is writing there; wait for it, or stop it first."
