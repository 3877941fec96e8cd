"""S3 as it is: a proxy before a real server, which refuses, breaks off, stalls, truncates; and lists and serves what
would be too large to make. Seeded: the faults come in the same order each time, if not to the same requests.
"""

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

ERROR = '<?xml version="1.0"?><Error><Code>{}</Code><Message>{}</Message></Error>'
STAMP = "2026-01-01T00:00:00.000Z"
PAGE = 1000
GOLDEN = 0.6180339887


@dataclass
class Faults:
    """Shares of object reads that fail, each in its way; `expire_after` counts requests; `many` and `huge` are made up.

    `keys` narrows the faults to keys that contain it, `after` to ranges that begin there or later.
    """

    slow_down: float = 0.0
    broken: float = 0.0
    reset: float = 0.0
    truncate: float = 0.0
    stall: float = 0.0
    stall_s: float = 30.0
    pause_s: float = 0.0
    """Before every answer."""
    keys: str = ""
    after: int = 0
    expire_after: int | None = None
    many: int = 0
    """Keys of the bucket `many`, listed but not there."""
    huge: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    """Path -> first bytes and size of an object that goes on with zeros."""


class Proxy:
    """Listens on loopback and passes requests on to a server at `upstream`, host:port."""

    def __init__(self, upstream: str, faults: Faults | None = None, seed: int = 0) -> None:
        self.upstream, self.faults = upstream, faults or Faults()
        self.place, self.lock = random.Random(seed).random(), threading.Lock()
        self.counts = Counter[str]()
        self.sent = 0
        """Bytes of object bodies."""
        handler = type("Handler", (_Handler,), {"proxy": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()

    def drawn(self, path: str, is_read: bool, start: int) -> str:
        """The fault that a request meets, or nothing; counted."""
        faults = self.faults
        with self.lock:
            self.counts["requests"] += 1
            if faults.expire_after is not None and self.counts["requests"] > faults.expire_after:
                return "expired"
            fault = ""
            if faults.keys in path and start >= faults.after:
                self.place = (self.place + GOLDEN) % 1  # spread evenly: every fault comes, and soon
                drawn, names = self.place, ("slow_down", "broken", "reset", "truncate", "stall")
                for name in names if is_read else names[:1]:
                    share = getattr(faults, name)
                    fault, drawn = (name if 0 <= drawn < share and not fault else fault), drawn - share
            self.counts[fault or "none"] += 1
            return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, *about: Any) -> None:
        """Nothing: the tests count."""

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        is_read = self.command == "GET" and parts.path.count("/") > 1 and not parts.query.startswith("list-type")
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0] or 0)
        fault = self.proxy.drawn(parts.path, is_read, start)
        time.sleep(self.proxy.faults.pause_s)
        if fault == "expired":
            self._error(403, "ExpiredToken", "The provided token has expired.")
        elif fault == "slow_down":
            self._error(503, "SlowDown", "Please reduce your request rate.")
        elif fault == "broken":
            self._error(500, "InternalError", "We encountered an internal error.")
        elif parts.path.strip("/") == "many" and self.proxy.faults.many:
            self._list(parse_qs(parts.query))
        elif parts.path.startswith("/many/") and self.proxy.faults.many:
            self._error(404, "NoSuchKey", "The specified key does not exist.")
        elif parts.path in self.proxy.faults.huge:
            self._made_up(*self.proxy.faults.huge[parts.path])
        else:
            self._pass_on(body, fault)

    def _error(self, status: int, code: str, message: str) -> None:
        self._answer(status, [("Content-Type", "application/xml")], ERROR.format(code, message).encode())

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, fault: str = "") -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                self.send_header(name, value)
        length = {name.lower(): value for name, value in headers}.get("content-length")
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        half = len(body) // 2
        if fault == "stall":
            self.wfile.write(body[:half])
            self.wfile.flush()
            time.sleep(self.proxy.faults.stall_s)
            self.close_connection = True
        elif fault in ("reset", "truncate"):
            self.wfile.write(body[:half])
            self.wfile.flush()
            if fault == "reset":  # closing at once with unsent data is a reset
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        else:
            self.wfile.write(body)
            self.proxy.sent += len(body) if self.command == "GET" else 0

    def _pass_on(self, body: bytes, fault: str) -> None:
        upstream = http.client.HTTPConnection(self.proxy.upstream, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body or None)
            answer = upstream.getresponse()
            self._answer(answer.status, answer.getheaders(), answer.read(), fault)
        except OSError:
            self.close_connection = True
        finally:
            upstream.close()

    def _list(self, asked: dict[str, list[str]]) -> None:
        """A page of a million keys."""
        start = int(asked.get("continuation-token", ["0"])[0])
        size = min(PAGE, int(asked.get("max-keys", [str(PAGE)])[0]))
        stop = min(start + size, self.proxy.faults.many)
        found = "".join(_entry(f"loops/{number:09d}.wav") for number in range(start, stop))
        more = stop < self.proxy.faults.many
        rest = f"<NextContinuationToken>{stop}</NextContinuationToken>" if more else ""
        page = f"<ListBucketResult><Name>many</Name><KeyCount>{stop - start}</KeyCount><MaxKeys>{size}</MaxKeys>"
        page += f"<IsTruncated>{str(more).lower()}</IsTruncated>{rest}{found}</ListBucketResult>"
        self._answer(200, [("Content-Type", "application/xml")], page.encode())

    def _made_up(self, head: bytes, size: int) -> None:
        """A range of an object that is its head and zeros."""
        asked = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")
        start, stop = int(asked[0]), min(int(asked[1]) + 1 if asked[1] else size, size)
        headers = [("Content-Type", "binary/octet-stream"), ("ETag", '"1"'), ("Last-Modified", _DAY)]
        if self.command == "HEAD":
            self._answer(200, [*headers, ("Content-Length", str(size))], b"")
            return
        body = head[start:stop] + bytes(stop - max(start, min(len(head), stop)))
        self._answer(206, [*headers, ("Content-Range", f"bytes {start}-{stop - 1}/{size}")], body)


for _method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
    setattr(_Handler, f"do_{_method}", _Handler._serve)
_DAY = "Thu, 01 Jan 2026 00:00:00 GMT"


def _entry(key: str) -> str:
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>{STAMP}</LastModified><ETag>1</ETag><Size>9</Size></Contents>"
    )
