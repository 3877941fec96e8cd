"""One writer an output: the kernel's file lock on a local folder, a leased object on an object store."""

import errno
import fcntl
import json
import os
import socket
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import IO, Any

from looptagger.archive.disk import refuse_links
from looptagger.archive.storage import Folder, parsed
from looptagger.errors import UserError, one_line

NAME = "_run/lock.json"
TAGS = ("_run", "_run/manifest", "chunks")
"""Folders that `looptagger tag` writes in an output."""
RENEW_S = 10.0
STALE_S = 60.0
"""A lease not renewed for this long belongs to a job that is gone."""
SETTLED_S = 1.0
"""Of two jobs that take over a stale lease at once, the one that wrote last has it: looked up after so long."""
TRIES, ASKED_S = 5, 0.02
"""A lock that is taken is asked for again, so many times and after so many seconds."""


def _owner(token: str = "") -> dict[str, Any]:
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


def held(folder: Folder, ours: Sequence[str] = TAGS) -> AbstractContextManager[Callable[[], None]]:
    """Hold an output for writing. Raises UserError while another job holds it.

    And where folders of `ours` in it, or any in those, are links: what is written and deleted there would be elsewhere.

    What it yields raises UserError when another job has taken it over, after an outage longer than STALE_S.
    """
    if not folder.is_local:
        return _held_object(folder)
    for name in ours:
        refuse_links(folder.at(name))
    return _held_file(folder)


@contextmanager
def _held_file(folder: Folder) -> Iterator[Callable[[], None]]:
    """flock: freed by the kernel however its process ends, so a killed job never blocks the next."""
    with _locked_file(folder) as file:
        file.seek(0)
        file.truncate()
        file.write(json.dumps(_owner()))
        file.flush()
        yield lambda: None


def _locked_file(folder: Folder) -> IO[str]:
    """The lock's file, open and locked. A job that found nothing to tag takes its file away: then it is made anew."""
    path = folder.at(NAME)
    while True:
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            file = _opened(path)
        except OSError as error:
            why = one_line(error.strerror or error)
            remedy = "make it writable or choose another output"
            raise UserError(f"{folder.uri}: cannot be written: {why}; {remedy}.") from None
        if not _locked(folder, file):
            with file:
                file.seek(0)
                raise UserError(_busy(folder, file.read().encode()))
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()


def _opened(path: str) -> IO[str]:
    """The lock's file, which is not emptied yet. Raises OSError, also for a link, or for what is no file."""
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "the lock is no file")
    return os.fdopen(number, "a+")


def _locked(folder: Folder, file: IO[str]) -> bool:
    """Whether this process has the file's lock now. Who only asks for the holder has it for an instant."""
    for _ in range(TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(ASKED_S)
        except OSError as error:
            why = one_line(error.strerror or error)
            remedy = "mount it with flock, or choose another output"
            raise UserError(f"{folder.uri}: this file system locks no files ({why}); {remedy}.") from None
    return False


@contextmanager
def _held_object(folder: Folder) -> Iterator[Callable[[], None]]:
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
        self.done, self.lost = threading.Event(), threading.Event()
        _claim(folder, self.token)
        self.renewed = time.time()

    def keep(self) -> None:
        """Renew it until it is done with, or lost."""
        while not self.done.wait(RENEW_S):
            with suppress(UserError):  # the store is away for a moment; the next renewal may pass
                if not self.is_ours():
                    return
                self.folder.write(NAME, json.dumps(_owner(self.token)).encode())
                self.renewed = time.time()

    def is_ours(self) -> bool:
        """Whether it is still there and ours; one that is not there was taken over by a job that has ended."""
        if not self.lost.is_set() and parsed(self.folder.read(NAME)).get("token") != self.token:
            self.lost.set()
        return not self.lost.is_set()

    def check(self) -> None:
        """Raise UserError where it is lost. After a machine's sleep, nobody may have looked yet."""
        if time.time() - self.renewed > STALE_S:
            with suppress(UserError):  # the store is away: what is to be written will wait for it, or say so
                self.is_ours()
        if self.lost.is_set():
            raise UserError(
                f"{self.folder.uri}: another job took this one for dead, and goes on with it; leave it to that."
            )


def _claim(folder: Folder, token: str) -> None:
    """Create the lease object if nobody has, or take over one whose owner is gone."""
    lease = json.dumps(_owner(token)).encode()
    existing = folder.read(NAME)
    if existing is None:
        try:
            with folder.reached():
                folder.fs.pipe_file(folder.at(NAME), lease, mode="create")
            return
        except FileNotFoundError:
            raise UserError(f"{folder.uri}: no such bucket; create it, or check the name.") from None
        except UserError:
            existing = folder.read(NAME)  # another job was quicker, or the store cannot be written
            if existing is None:
                raise
    is_ahead = _age(existing) < -STALE_S  # whether its owner lives is seen by what it does
    alive = _renewed(folder, existing) if is_ahead or _gone(existing) else existing
    if alive is not None:
        raise UserError(_busy(folder, alive))
    folder.write(NAME, lease)
    time.sleep(SETTLED_S)
    last = folder.read(NAME) or b""
    if parsed(last).get("token") != token:
        raise UserError(_busy(folder, last))


def _gone(lease: bytes) -> bool:
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


def _who(lease: bytes) -> str:
    owner = parsed(lease)
    return f"process {owner.get('pid', '?')} on {owner.get('host', 'another machine')}"


def _busy(folder: Folder, lease: bytes) -> str:
    return f"{folder.uri}: another looptagger job ({_who(lease)}) is writing there; wait for it, or stop it first."


def holder(folder: Folder) -> str | None:
    """Who is writing to an output now, or None."""
    lease = folder.read(NAME)
    if lease is None:
        return None
    if folder.is_local:
        with open(folder.at(NAME), "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                pass
            except OSError:  # a file system without locks, on which nobody can write
                return None
    elif _gone(lease):
        return None
    return _who(lease)
