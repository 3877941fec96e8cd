"""A helper whose decoder does to some files what broken C code would. Run by test_isolated.py."""

import ctypes
import io
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from looptagger.learn import preparing
from looptagger.steps import decoding, isolated


def held() -> None:
    """A loop in C that heeds nothing and keeps the GIL."""
    ctypes.PyDLL(None).sleep(1000)


SICK: dict[bytes, Callable[[], object]] = {
    b"crash": lambda: ctypes.string_at(0),
    b"abort": os.abort,
    b"hang.": held,
    b"slow.": lambda: time.sleep(1000),
    b"swell": lambda: bytearray(1 << 31),
    b"kill!": lambda: os.kill(os.getpid(), signal.SIGKILL),
    b"leave": lambda: os._exit(0),
}


def killed_once(marker: str) -> None:
    """As when the system takes memory back: killed at the first try, well at the second."""
    if not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGTERM if marker.endswith("4") else signal.SIGKILL)


def sick(decode: Callable[..., Any]) -> Callable[..., Any]:
    def decoded(file: Any, *how: Any) -> Any:
        kind = file.read(5)
        if kind == b"once:":
            killed_once(file.readline().decode().strip())
            return decode(io.BytesIO(file.read()), *how)
        if kind in SICK:
            SICK[kind]()
        file.seek(0)
        return decode(file, *how)

    return decoded


if __name__ == "__main__":
    decoding.decode = sick(decoding.decode)
    preparing.decode_whole = sick(preparing.decode_whole)
    isolated.run()
