"""One writer an output: the kernel's file lock on a local folder, a leased object on an object store."""

import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import IO

from looptagger.archive import lease
from looptagger.archive.disk import refuse_links
from looptagger.archive.lease import NAME
from looptagger.archive.storage import Folder
from looptagger.errors import UserError, one_line

TAGS = ("_run", "_run/manifest", "chunks")
"""Folders that `looptagger tag` writes in an output."""
TRIES, ASKED_S = 5, 0.02
"""A lock that is taken is asked for again, so many times and after so many seconds."""


@contextmanager
def held(folder: Folder, ours: Sequence[str] = TAGS) -> Iterator[Folder]:
    """Hold an output for writing. Raises UserError while another job holds it.

    And where folders of `ours` in it, or any in those, are links: what is written and deleted there would be elsewhere.

    What it yields is to be written to: it raises UserError instead once the output is no longer this job's, as it was
    moved or deleted, or taken over by another job after an outage longer than STALE_S.
    """
    if not folder.is_local:
        with lease.held(folder) as check:
            yield replace(folder, check=check)
        return
    for name in ours:
        refuse_links(folder.at(name))
    with _locked_file(folder) as file:  # freed by the kernel however the process ends: a killed job blocks no other
        file.seek(0)
        file.truncate()
        file.write(json.dumps(lease.owner()))
        file.flush()
        yield replace(folder, check=lambda: _check_file(folder, file))


def _check_file(folder: Folder, file: IO[str]) -> None:
    """Raise UserError where the output whose lock this is has gone, or another has taken its place."""
    try:
        is_same = os.path.samestat(os.fstat(file.fileno()), os.stat(folder.at(NAME)))
    except FileNotFoundError:
        if os.path.isdir(folder.path):
            raise UserError(f"{folder.uri}: its lock was deleted, {NAME}; run the same command again.") from None
        raise UserError(gone(folder)) from None
    except OSError:
        return  # a disk that does not answer says so as it is written to
    if not is_same:
        raise UserError(f"{folder.uri}: was moved or deleted, and another is there by now; run the same command again.")


def gone(folder: Folder) -> str:
    """The sentence for an output that was moved or deleted."""
    return f"{folder.uri}: is gone; put it back and run the same command, or run it to start anew."


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
                raise UserError(lease.busy(folder, file.read().encode()))
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


def holder(folder: Folder) -> str | None:
    """Who is writing to an output now, or None."""
    there = folder.read(NAME)
    if there is None:
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
    elif lease.is_gone(there):
        return None
    return lease.who(there)
