"""Any fsspec filesystem behind a few verbs: open many files at once, read and write a folder atomically."""

import errno
import io
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

import fsspec

from looptagger.config import Limits, Storage
from looptagger.errors import UserError, one_line

WHOLE_BYTES = 8 << 20
"""Files up to this size are read whole; larger ones are opened, and only what the decoder asks for is read."""


class Unread(Exception):
    """A file that gave no bytes: `status` is one of the output's statuses, the text its reason in one line."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def scheme(uri: str) -> str:
    """`s3` of `s3://bucket/key`; `file` for a plain path."""
    head, found, _ = uri.partition("://")
    return head if found and head.isalnum() else "file"


def filesystem(uri: str, storage: Storage, anonymous: bool = False) -> Any:
    """The fsspec filesystem of a URI. Raises UserError for a scheme nobody provides."""
    kind = scheme(uri)
    options: dict[str, Any] = {"use_listings_cache": False}
    if kind in ("s3", "s3a"):
        retries = {"max_attempts": storage.attempts, "mode": "adaptive"}
        options |= {
            "anon": anonymous,
            "endpoint_url": storage.endpoint_url,
            "config_kwargs": {
                "retries": retries,
                "connect_timeout": storage.timeout_s,
                "read_timeout": storage.timeout_s,
                "max_pool_connections": 64,
            },
        }
    try:
        return fsspec.filesystem(kind, **(options if kind != "file" else {}))
    except (ValueError, ImportError) as error:
        raise UserError(f"{uri}: {kind}:// cannot be reached ({one_line(error)}).") from None


def local_path(uri: str) -> bytes | str:
    """The path that a local URI names. `file://` URIs may hold %-escapes; a file that is really named so wins."""
    if not uri.startswith("file://"):
        return uri
    plain = uri.removeprefix("file://")
    return plain if os.path.exists(plain) else unquote_to_bytes(plain)


def open_files(uris: Sequence[str], storage: Storage, limits: Limits) -> list[BinaryIO | Unread]:
    """Open files of one scheme, remote ones fetched concurrently; a file that fails gives its reason instead."""
    if scheme(uris[0]) == "file":
        return [_open_local(uri, limits) for uri in uris]
    try:
        fs = filesystem(uris[0], storage, storage.anonymous)
        paths = [fs._strip_protocol(uri) for uri in uris]
        heads = fs.cat_ranges(paths, 0, WHOLE_BYTES, on_error="return")
    except Exception as error:  # nobody provides the scheme, no credentials, ...: the reason of each of them
        return [unread(error) for _ in uris]
    return [_open_remote(fs, path, head, limits) for path, head in zip(paths, heads, strict=True)]


def _open_local(uri: str, limits: Limits) -> BinaryIO | Unread:
    path = local_path(uri)
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            return Unread("unreadable", "not a regular file")
        if info.st_size > limits.max_bytes:
            return _too_large(info.st_size, limits)
        if info.st_size > WHOLE_BYTES:
            return open(path, "rb")
        with open(path, "rb") as file:
            return io.BytesIO(file.read())
    except OSError as error:
        return unread(error)
    except ValueError:
        return Unread("missing", "not a possible file name")


def _open_remote(fs: Any, path: str, head: bytes | BaseException, limits: Limits) -> BinaryIO | Unread:
    if isinstance(head, BaseException):
        empty = "not satisfiable" in str(head)  # what S3 says of any range of an object of 0 bytes
        return io.BytesIO() if empty else unread(head)
    if len(head) < WHOLE_BYTES:
        return io.BytesIO(head)
    try:
        file: BinaryIO = fs.open(path, "rb", block_size=WHOLE_BYTES // 2, cache_type="readahead")
        size = file.size  # type: ignore[attr-defined]
        return _too_large(size, limits) if size > limits.max_bytes else file
    except Exception as error:  # client libraries raise their own kinds; each is only this clip's reason
        return unread(error)


def _too_large(size: int, limits: Limits) -> Unread:
    return Unread("too_large", f"{size:,} bytes, over limits.max_bytes = {limits.max_bytes:,}")


def unread(error: BaseException) -> Unread:
    """The status and reason of an error met while reading a file."""
    if isinstance(error, FileNotFoundError):
        return Unread("missing", "no such file")
    if isinstance(error, PermissionError):
        return Unread("unreadable", "permission denied")
    return Unread("unreadable", one_line(getattr(error, "strerror", None) or error))


def _remedy(error: OSError) -> str:
    """What went wrong on a local disk and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space and run the same command again"
    return f"{one_line(error.strerror or error)}; make it writable or choose another output"


@dataclass(frozen=True)
class Folder:
    """A folder on any filesystem. Files in it appear whole or not at all."""

    uri: str
    storage: Storage = Storage()

    def __getstate__(self) -> dict[str, Any]:
        """Pickled, it means the same place in a process that stands elsewhere, and opens it anew there."""
        return {"uri": self.uri, "storage": self.storage, "path": self.path}

    @cached_property
    def fs(self) -> Any:
        """The filesystem it lies on."""
        return filesystem(self.uri, self.storage)

    @cached_property
    def path(self) -> str:
        """Its path on that filesystem."""
        return str(self.fs._strip_protocol(self.uri)).rstrip("/") or "/"

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine's own filesystem."""
        return scheme(self.uri) == "file"

    def at(self, name: str) -> str:
        """The path of a file in it."""
        return f"{self.path}/{name}"

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Turn what storage clients raise into a sentence that names the folder; FileNotFoundError passes."""
        try:
            yield
        except (FileNotFoundError, UserError):
            raise
        except Exception as error:  # client libraries raise their own kinds
            why = one_line(getattr(error, "strerror", None) or error)
            raise UserError(
                f"{self.uri}: cannot be reached: {why}; check the credentials, the permissions and the endpoint."
            ) from error

    def names(self, sub: str = "") -> list[str]:
        """Names of the files directly in it or in a folder below, sorted; none where there is no such folder."""
        try:
            with self.reached():
                entries = self.fs.ls(self.at(sub) if sub else self.path, detail=True)
        except FileNotFoundError:
            return []
        return sorted(entry["name"].rsplit("/", 1)[-1] for entry in entries if entry["type"] == "file")

    def read(self, name: str) -> bytes | None:
        """A file's bytes, or None where there is no such file."""
        try:
            with self.reached():
                data: bytes = self.fs.cat_file(self.at(name))
                return data
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a file whole: a temporary name then a rename locally, one completed upload on object stores.

        Raises UserError when the disk is full or the folder may not be written.
        """
        if self.is_local:
            self._write_local(self.at(name), data)
            return
        with self.reached():
            self.fs.pipe_file(self.at(name), bytes(data))

    def _write_local(self, path: str, data: bytes | memoryview) -> None:
        directory, name = os.path.split(path)
        temporary = f"{directory}/.{name}.{os.getpid()}.tmp"
        try:
            os.makedirs(directory, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException as error:
            with suppress(OSError):
                os.unlink(temporary)
            if isinstance(error, OSError):
                raise UserError(f"{self.uri}: cannot write {name}: {_remedy(error)}.") from error
            raise

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; those that are not there are passed over."""
        for name in names:
            with suppress(FileNotFoundError), self.reached():
                self.fs.rm_file(self.at(name))
