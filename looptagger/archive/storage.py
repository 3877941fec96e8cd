"""Any fsspec filesystem behind a few verbs: read and write a folder atomically."""

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import unquote_to_bytes

import fsspec

from looptagger.archive import s3
from looptagger.archive.several import several
from looptagger.config import Storage
from looptagger.errors import Unreachable, UserError, one_line


def scheme(uri: str) -> str:
    """`s3` of `s3://bucket/key`; `file` for a plain path."""
    head, found, _ = uri.partition("://")
    return head if found and head.isalnum() else "file"


SLOW = 240
"""A web server that goes on sending is given so many times as long as one that is silent: two hours by default, as one
that knows no ranges sends files whole."""
NEED_MORE = ("ftp", "github", "zip")
"""Schemes that fsspec has and that want a host, a repository, an archive of their own."""


def filesystem(uri: str, storage: Storage, anonymous: bool = False) -> Any:
    """The fsspec filesystem of a URI. Raises UserError for a scheme nobody provides."""
    kind = scheme(uri)
    if kind in NEED_MORE:
        raise UserError(f"{uri}: {kind}:// needs more than a URI says; copy the files, or use s3:// or https://.")
    if kind == "local":  # fsspec's other name for files, which are not looked at as ours are
        raise UserError(f"{uri}: give the path itself, or file:// before it.")
    options: dict[str, Any] = {"use_listings_cache": False}
    if kind in s3.SCHEMES:
        retries = {"total_max_attempts": storage.attempts, "mode": "standard"}
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
    if kind in ("http", "https"):
        from aiohttp import ClientTimeout

        whole_s = SLOW * storage.timeout_s
        waits = ClientTimeout(total=whole_s, sock_connect=storage.timeout_s, sock_read=storage.timeout_s)
        plain = {"Accept-Encoding": "identity"}  # nothing comes that unpacks to a thousand times as much
        options["client_kwargs"] = {"timeout": waits, "headers": plain, "auto_decompress": False}
    try:
        fs = fsspec.filesystem(kind, **(options if kind != "file" else {}))
        if kind in s3.SCHEMES:
            fs.retries = s3.TRIES
        return fs
    except ImportError as error:  # as gcsfs, of gs://: no clip is to blame
        raise Unreachable(f"{uri}: {kind}:// cannot be reached ({one_line(error)}).") from None
    except (ValueError, TypeError, OSError) as error:  # some want a host, a token, ... of their own
        raise UserError(f"{uri}: {kind}:// cannot be reached ({one_line(error)}).") from None


def local_path(uri: str) -> bytes | str:
    """The path that a local URI names. `file://` URIs may hold %-escapes; a file that is really named so wins."""
    if not uri.startswith("file://"):
        return uri
    plain = uri.removeprefix("file://")
    meant = unquote_to_bytes(plain)
    is_utf8 = meant.decode(errors="ignore").encode() == meant  # else it is we who wrote the URI
    return plain if os.path.exists(plain) and (is_utf8 or not os.path.exists(meant)) else meant


def parsed(data: bytes | None) -> dict[str, Any]:
    """A JSON object; empty where there is none that can be understood."""
    try:
        found = json.loads(data or b"")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


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
    anonymous: bool = False
    check: Callable[[], None] = field(default=lambda *_: None, compare=False, repr=False)
    """Asked before each file that is written or deleted; raises where it is another job's by now, see lock.held."""

    @classmethod
    def to_read(cls, uri: str, storage: Storage) -> "Folder":
        """One that is only read: without credentials where the settings say so."""
        return cls(uri, storage, storage.anonymous)

    def __getstate__(self) -> dict[str, Any]:
        """Pickled, it means the same place in a process that stands elsewhere, and opens it anew there."""
        return {"uri": self.uri, "storage": self.storage, "anonymous": self.anonymous, "path": self.path}

    @cached_property
    def fs(self) -> Any:
        """The filesystem it lies on."""
        return filesystem(self.uri, self.storage, self.anonymous)

    @cached_property
    def path(self) -> str:
        """Its path on that filesystem."""
        place = os.fsdecode(local_path(self.uri)) if self.is_local else self.uri
        return str(self.fs._strip_protocol(place)).rstrip("/") or "/"

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine's own filesystem."""
        return scheme(self.uri) == "file"

    def at(self, name: str) -> str:
        """The path of a file in it."""
        return f"{self.path}/{name}"

    @contextmanager
    def reached(self, name: str = "") -> Iterator[None]:
        """Turn what storage clients raise into a sentence with the folder, or file in it; FileNotFoundError passes."""
        try:
            yield
        except (FileNotFoundError, UserError):
            raise
        except Exception as error:  # client libraries raise their own kinds
            if type(error).__name__ == "FileExpired":  # s3fs's, of an object that was written anew since it was opened
                raise FileNotFoundError(str(error)) from error
            why = one_line(getattr(error, "strerror", None) or error)
            if isinstance(error, NotADirectoryError):
                raise UserError(f"{self.uri}: is a file, or in one; give a folder.") from error
            what = "path and its permissions" if self.is_local else "credentials, the permissions and the endpoint"
            where = f"{self.uri}/{name}" if name else self.uri
            raise Unreachable(f"{where}: cannot be reached: {why}; check the {what}.") from error

    def names(self, sub: str = "") -> list[str]:
        """Names of the files directly in it or in a folder below, sorted; none where there is no such folder."""
        place = self.at(sub) if sub else self.path
        try:
            with self.reached():
                if scheme(self.uri) in s3.SCHEMES:
                    found = list(s3.keys(self.fs, self.storage, place, deep=False))
                else:
                    found = [(each["name"], each["type"] != "file") for each in self.fs.ls(place, detail=True)]
        except FileNotFoundError:
            return []
        return sorted(key.rpartition("/")[2] for key, is_folder in found if not is_folder)

    def read(self, name: str) -> bytes | None:
        """A file's bytes, or None where there is no such file. Raises UserError where it is none: a pipe has no end."""
        place = self.at(name)
        if self.is_local and os.path.exists(place) and not os.path.isfile(place):
            raise UserError(f"{place}: is no file; take it away.")
        try:
            with self.reached(name):
                data: bytes = self.fs.cat_file(place)
                return data
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a file whole: a temporary name then a rename locally, one completed upload on object stores.

        Raises UserError when the disk is full or the folder may not be written.
        """
        self.check()
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
            with suppress(FileNotFoundError):
                os.unlink(temporary)  # of a process that was killed, or a link that somebody has put there
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
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
        """Delete files, the first before all others; those that are not there are passed over."""
        first, *others = [*names] or [""]
        if first:
            self._delete(first)
        for _ in several(self._delete, others):
            pass

    def _delete(self, name: str) -> None:
        self.check()
        with suppress(FileNotFoundError), self.reached():
            self.fs.rm_file(self.at(name))


def file_at(uri: str, storage: Storage = Storage(), endings: tuple[str, ...] = ()) -> tuple[Folder, str]:
    """Where a file at a path or a URI is to be written: its folder, and its name there.

    Raises UserError for a folder, and for a name with none of the `endings`, which may be something else's.
    """
    path = uri if scheme(uri) != "file" else os.path.abspath(os.fsdecode(local_path(uri)))
    place, _, name = path.rpartition("/")
    if not name or place.endswith("/") or os.path.isdir(path):
        raise UserError(f"{uri}: is a folder or a bucket; name a file in it.")
    if endings and not name.lower().endswith(endings):
        raise UserError(f"{uri}: give it a name that ends in {endings[0]}.")
    return Folder(place or "/", storage), name
