"""Files opened many at once, local or remote; one that gives no bytes gives its status and reason."""

import errno
import io
import os
import stat
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, BinaryIO, TypeVar

from fsspec.caching import ReadAheadCache

from looptagger.archive import s3
from looptagger.archive.patience import Patience, answers, is_stores_fault, is_throttled, patiently, refuse_expired
from looptagger.archive.storage import filesystem, local_path, scheme
from looptagger.config import Limits, Storage
from looptagger.errors import ClipFailed, Unreachable, one_line

WHOLE_BYTES = 8 << 20
"""Files up to this size are read whole; larger ones are opened, and only what the decoder asks for is read."""

T = TypeVar("T")
BLOCK_BYTES = 1 << 20
"""Bytes asked for at once of such a remote file: more than a chunk of CD audio, and few requests where all is read."""
DISK_GONE = (
    errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ESHUTDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
    errno.ENETUNREACH, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ECONNRESET,
)  # fmt: skip
"""What a network file system, or FUSE, says of any file once it is away."""


def open_files(uris: Sequence[str], storage: Storage, limits: Limits) -> list[BinaryIO | ClipFailed]:
    """Open files of one scheme, remote ones fetched concurrently; a file that fails gives its reason instead.

    Raises Unreachable where the store, and not a file, is at fault.
    """
    if scheme(uris[0]) == "file":
        return [_open_local(uri, limits) for uri in uris]
    try:
        fs = filesystem(uris[0], storage, storage.anonymous)
        paths = [fs._strip_protocol(uri) for uri in uris]
        heads = _heads(fs, paths, storage)
    except Unreachable:
        raise
    except Exception as error:  # nobody provides the scheme, ...: the reason of each of them
        refuse_expired(error)
        return [unread(error) for _ in uris]
    return [_open_remote(fs, path, head, storage, limits) for path, head in zip(paths, heads, strict=True)]


def _open_local(uri: str, limits: Limits) -> BinaryIO | ClipFailed:
    path = local_path(uri)
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            return ClipFailed("unreadable", "not a regular file")
        if info.st_size > limits.max_bytes:
            return _too_large(info.st_size, limits)
        if info.st_size > WHOLE_BYTES:
            return Lazy(partial(open, path, "rb"), path)
        with open(path, "rb") as file:
            return io.BytesIO(file.read())
    except OSError as error:
        _refuse_lost(error, path)
        return unread(error)
    except ValueError:
        return ClipFailed("missing", "not a possible file name")


def _refuse_lost(error: Exception, path: str | bytes) -> None:
    """Raise Unreachable where an error is of the disk that a local file lies on."""
    if isinstance(error, OSError) and error.errno in DISK_GONE:
        place = os.path.dirname(os.fsdecode(path))
        raise Unreachable(f"{place}: its disk is gone ({error.strerror}); mount it and run the same command.") from None


def _heads(fs: Any, paths: Sequence[str], storage: Storage) -> list[bytes | BaseException]:
    """The first bytes of each; those that fail because the store is away are asked for again, until it is back."""
    heads: list[bytes | BaseException] = fs.cat_ranges(paths, 0, WHOLE_BYTES, on_error="return")
    places = [path.split("/")[0] for path in paths]
    for bucket in dict.fromkeys(places):  # one that answers says nothing of another
        patience = Patience(storage, partial(answers, fs, bucket))
        while away := {
            i: head
            for i, head in enumerate(heads)
            if places[i] == bucket and isinstance(head, BaseException) and is_stores_fault(head)
        }:
            why = next(filter(is_throttled, away.values()), next(iter(away.values())))
            if not patience.wait(why):  # a broken object says nothing of one that is throttled
                break
            again = fs.cat_ranges([paths[i] for i in away], 0, WHOLE_BYTES, on_error="return")
            for i, head in zip(away, again, strict=True):
                heads[i] = head
    return heads


def _open_remote(
    fs: Any, path: str, head: bytes | BaseException, storage: Storage, limits: Limits
) -> BinaryIO | ClipFailed:
    if isinstance(head, BaseException):
        empty = "not satisfiable" in str(head).lower()  # what stores say of any range of a file of 0 bytes
        return io.BytesIO() if empty else unread(head)
    if len(head) != WHOLE_BYTES:  # more: servers that know no ranges send all
        return _too_large(len(head), limits) if len(head) > limits.max_bytes else io.BytesIO(head)
    try:
        file = patiently(lambda: Remote(fs, path, head), storage, lambda: answers(fs, path))
        return _too_large(file.size, limits) if file.size > limits.max_bytes else file
    except Unreachable:
        raise
    except Exception as error:  # client libraries raise their own kinds; each is only this clip's reason
        return unread(error)


class Lazy(io.RawIOBase, BinaryIO):  # type: ignore[misc]
    """A file read as it is needed, which remembers the first read that failed: decoders take that for its end."""

    file: Any = None

    def __init__(self, opened: Callable[[], Any], path: str | bytes) -> None:
        self.file, self.path = opened(), path
        self.failure: Exception | None = None
        self.waited_s = 0.0
        """So long reads took."""

    def read(self, size: int = -1) -> bytes:
        """Bytes from here. Raises what the disk or the client library does."""
        data: bytes = self._timed(self.file.read, size)
        return data

    def readinto(self, buffer: Any) -> int:
        """Bytes from here, into a buffer; how many. Raises as `read` does."""
        return int(self._timed(self.file.readinto, buffer))

    def _timed(self, read: Callable[[Any], Any], asked: Any) -> Any:
        began = time.monotonic()
        try:
            return read(asked)
        except Exception as error:
            self.failure = self.failure or error
            raise
        finally:
            self.waited_s += time.monotonic() - began

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place."""
        return int(self.file.seek(offset, whence))

    def tell(self) -> int:
        """The place."""
        return int(self.file.tell())

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def close(self) -> None:
        """Close it."""
        super().close()
        if self.file is not None:  # which it is where it could not be opened
            self.file.close()


class Remote(Lazy):
    """One on a store."""

    def __init__(self, fs: Any, path: str, head: bytes = b"") -> None:
        self.fs, self.key = fs, path
        super().__init__(lambda: fs.open(path, "rb", block_size=BLOCK_BYTES, cache_type="readahead"), path)
        self.size: int = self.file.size
        if isinstance(cache := getattr(self.file, "cache", None), ReadAheadCache):
            cache.cache, cache.start, cache.end = head, 0, len(head)  # as if read: it is not fetched again


def delay_s(file: BinaryIO | ClipFailed, storage: Storage) -> float:
    """How much longer than others a file may take because it is read as it is decoded: disk or store may be away.

    botocore tries a request `attempts` times, s3fs that in two loops, and only then does patience begin, by asking
    whether the store answers, in one.
    """
    one_read_s = (s3.TRIES**2 + s3.TRIES) * storage.attempts * storage.timeout_s if isinstance(file, Remote) else 0.0
    return one_read_s + storage.patience_s if isinstance(file, Lazy) else 0.0


def whole(file: BinaryIO, work: Callable[[BinaryIO], T], storage: Storage, again: Callable[[], None]) -> T:
    """What `work` makes of a file when all that it asks for can be read; `again` is called before it has to try anew.

    Raises what `work` does, ClipFailed for a read that failed, Unreachable for a store that does not come back.
    """
    patience = Patience(storage, lambda: not isinstance(file, Remote) or answers(file.fs, file.key))
    while True:
        raised: Exception | None = None
        try:
            with file:
                result = work(file)
        except Exception as error:
            raised = error
        failure = file.failure if isinstance(file, Lazy) else None
        if failure is None and raised is not None:
            raise raised
        if failure is None:
            return result
        if not isinstance(file, Remote):
            _refuse_lost(failure, getattr(file, "path", ""))
        if not isinstance(file, Remote) or not is_stores_fault(failure) or not patience.wait(failure):
            raise unread(failure)
        file = patiently(partial(_reopened, file, again), storage)


def _reopened(file: Remote, again: Callable[[], None]) -> Remote:
    again()  # time spent waiting for the store is not time spent decoding
    return Remote(file.fs, file.key)


def _too_large(size: int, limits: Limits) -> ClipFailed:
    return ClipFailed("too_large", f"{size:,} bytes, over limits.max_bytes = {limits.max_bytes:,}")


def unread(error: BaseException) -> ClipFailed:
    """The status and reason of an error met while reading a file."""
    if isinstance(error, FileNotFoundError):
        return ClipFailed("missing", "no such file")
    if "InvalidObjectState" in str(error) or "InvalidObjectState" in str(error.__cause__):
        return ClipFailed("unreadable", "archived (as in Glacier); restore it first")
    if isinstance(error, PermissionError) and (error.errno == errno.EACCES or not error.args):
        return ClipFailed("unreadable", "permission denied")
    return ClipFailed("unreadable", one_line(getattr(error, "strerror", None) or error))
