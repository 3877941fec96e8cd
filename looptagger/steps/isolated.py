"""Decoding in a process of its own, so that a file that crashes, hangs or swells a decoder costs its own row alone.

C libraries read files from strangers: a crash takes the whole process with it, and a loop inside one call heeds no
clock. The helper says which row it begins, and ends itself where a row takes too long; when it is gone, that row has
its reason and another helper goes on with the rest. Rows and chunks travel as Arrow streams, nothing is pickled.
"""

import errno
import faulthandler
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

import pyarrow as pa

from looptagger import memory
from looptagger.config import Audio, Limits, Prepare, Settings, Tag
from looptagger.errors import UserError
from looptagger.learn import preparing
from looptagger.steps import decoding

STEPS: Mapping[str, tuple[Callable[..., Iterator[pa.Table]], Mapping[str, type[Settings]]]] = {
    "decoded": (decoding.decoded, {"audio": Audio, "tag": Tag}),
    "prepared": (preparing.prepared, {"settings": Prepare}),
}
"""What a helper can do to rows, and the settings that it takes."""
BEGUN, TABLE, DONE, FAILED, REFUSED = b"b", b"t", b"d", b"f", b"u"
"""What the helper says: that a row begins; a table; that all rows are through; an error that is ours; one
that the user can mend."""
GRACE = 1.5
"""A helper ends itself after this many times the seconds that a clip may take: the clock between blocks comes first."""
LONGEST_S = 86_400.0
"""No clip takes a day, however patient the settings are; and C's clock knows no infinity."""
BEGINS = struct.Struct("<qd")
"""Of a row that begins: its number, and the seconds after which the helper ends itself."""
HUNG = 1
"""The exit code of a helper that ended itself."""
KILLED = 3
"""A row is given up when so many helpers were killed at it: decoders crash by other signals, so the first time it was
an operator or the system's want of memory, and not the clip."""
FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP)
"""Exit codes of helpers that were killed."""
LOST_BEFORE = 3
"""Helpers that may die before any row has begun; then something other than a clip is wrong."""


START = "import sys; sys.path.append(sys.argv[1]); from looptagger.steps import isolated; isolated.run()"
"""Not `-m`: it takes the folder that a user is in for the first place of modules, such as an av.py there."""


class Helper:
    """A decoding process, started when it is first needed and again when it is gone."""

    def __init__(self, *command: str) -> None:
        self.command = command or (sys.executable, "-P", "-c", START, str(Path(__file__).parents[2]))
        self.process: subprocess.Popen[bytes] | None = None
        self.words: BinaryIO | None = None
        self.is_idle = True

    def run_step(self, step: str, rows: pa.Table, limits: Limits, **settings: Settings) -> Iterator[pa.Table]:
        """What a step of STEPS gives for the rows; a row that cost a helper its life has that as its reason."""
        given, lost, deaths, killed = 0, dict[int, str](), 0, Counter[int]()
        while given < rows.num_rows:
            row, sent, allowed_s = None, given, 0.0
            asked = {"step": step, "limits": limits.model_dump(), "lost": list(lost.items())}
            asked |= {"settings": {name: each.model_dump(mode="json") for name, each in settings.items()}}
            for kind, content in self._told(rows.slice(given), asked):
                if kind == BEGUN:
                    number, allowed_s = BEGINS.unpack(content)
                    row = number - (given - sent)
                else:
                    table = _table(content)
                    given, row, deaths = given + table.num_rows, None, 0
                    lost = {number - table.num_rows: reason for number, reason in lost.items()}
                    yield table
            if given < rows.num_rows:
                code, reason = self._end(allowed_s)
                deaths += row is None
                if row is not None:
                    killed[given + row] += 1
                    if code not in FROM_OUTSIDE or killed[given + row] == KILLED:
                        lost[row] = reason
                elif deaths == LOST_BEFORE:
                    raise RuntimeError(f"the decoding process ends before it begins: {reason}")

    def _told(self, rows: pa.Table, asked: Mapping[str, Any]) -> Iterator[tuple[bytes, bytes]]:
        """The helper's words on some rows, up to the last one or to its end."""
        to, words = self.ready()
        self.is_idle = False
        with suppress(BrokenPipeError):
            _say(to, TABLE, _bytes(rows.replace_schema_metadata({"asked": json.dumps(asked)})))
        while (said := _next_word(words)) is not None:
            self.is_idle = said[0] in (DONE, FAILED, REFUSED)
            if said[0] == REFUSED:
                raise UserError(said[1].decode())
            if said[0] == FAILED:
                raise RuntimeError(said[1].decode())
            if said[0] == DONE:
                return
            yield said

    def ready(self) -> tuple[IO[bytes], BinaryIO]:
        """The two ends to a helper that waits for rows: started where there is none, replaced where nobody heard its
        words to the end.
        """
        if self.process and (not self.is_idle or self.process.poll() is not None):
            self.close()
        if self.process is None or self.words is None:
            read, write = os.pipe()
            command = [*self.command, str(write)]
            # In a group of its own: Ctrl-C is for the job, which ends this by closing its side.
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[write], process_group=0)
            os.close(write)
            self.words = os.fdopen(read, "rb")
        assert self.process.stdin
        return self.process.stdin, self.words

    def _end(self, allowed_s: float) -> tuple[int, str]:
        """Why the helper is gone, also in words; another takes its place when it is needed."""
        assert self.process
        code = self.process.wait()
        self.close()
        if code == HUNG and allowed_s:  # without, it is a Python that could not start
            return code, f"the decoder hung: no end after {allowed_s:g} s"
        if code in FROM_OUTSIDE:
            return code, f"the decoder was killed {KILLED} times, perhaps by the system for want of memory"
        return code, f"the decoder crashed ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"

    def close(self) -> None:
        """End the helper, whatever it is at."""
        if self.process and self.process.stdin and self.words:
            self.process.kill()
            with suppress(BrokenPipeError):
                self.process.stdin.close()
            self.words.close()
            self.process.wait()
        self.process, self.words, self.is_idle = None, None, True


HELPER = Helper()
"""The one of this process."""


def _say(to: IO[bytes], kind: bytes, content: bytes | memoryview = b"") -> None:
    to.write(kind + struct.pack("<q", len(content)))
    to.write(content)
    to.flush()


def _next_word(source: BinaryIO) -> tuple[bytes, bytes] | None:
    """The next word, or None when the other side is gone."""
    head = source.read(9)
    if len(head) < 9:
        return None
    size = struct.unpack("<q", head[1:])[0]
    content = source.read(size)
    return (head[:1], content) if len(content) == size else None


def _bytes(table: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return memoryview(sink.getvalue())


def _table(content: bytes) -> pa.Table:
    with pa.ipc.open_stream(content) as stream:
        return stream.read_all()


def main(out: BinaryIO, source: BinaryIO) -> None:
    """The helper's life: rows come in, words go out, until the other side is gone."""
    while (said := _next_word(source)) is not None:
        rows = _table(said[1])
        asked = json.loads(rows.schema.metadata.pop(b"asked"))
        step, kinds = STEPS[asked["step"]]
        limits, settings = Limits(**asked["limits"]), {name: kinds[name](**asked["settings"][name]) for name in kinds}
        _bound_memory(limits.max_memory)
        end, said_of = DONE, ""
        try:
            plain = rows.replace_schema_metadata()
            for table in step(plain, **settings, begin=_watched(out, limits), lost=asked["lost"]):
                faulthandler.cancel_dump_traceback_later()
                _say(out, TABLE, _bytes(table))
        except Exception as error:  # no clip's fault: said to the worker, who knows what to do
            end, said_of = _fault(error, limits)
        faulthandler.cancel_dump_traceback_later()
        _say(out, end, said_of.encode())


def _fault(error: Exception, limits: Limits) -> tuple[bytes, str]:
    """What the helper says of an error between clips: each one's own was its reason."""
    if isinstance(error, UserError):
        return REFUSED, str(error)
    is_short = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM  # as of an import
    if is_short or re.search(r"start \w+ thread", str(error)):  # whose stack has no room
        size = f"{limits.max_memory:,} bytes"
        return REFUSED, f"limits.max_memory: {size} do not hold the chunks of a few clips; raise it"
    return FAILED, f"{type(error).__name__}: {error}"


def _watched(out: BinaryIO, limits: Limits) -> Callable[[int, float], None]:
    """Called as each row begins: says so, and sets the clock that ends this process from C, whoever holds the GIL."""
    nowhere = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)

    def begin(row: int, more_s: float) -> None:
        allowed_s = min(GRACE * limits.max_decode_s + more_s, LONGEST_S)
        _say(out, BEGUN, BEGINS.pack(row, allowed_s))
        faulthandler.dump_traceback_later(allowed_s, exit=True, file=nowhere)

    return begin


def _bound_memory(most: int) -> None:
    """Let allocations beyond so many bytes fail, which is then the reason of the clip that asked for them."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def run() -> None:
    """Be a helper: rows from stdin, words to the file descriptor that the last argument names."""
    memory.keep()
    main(os.fdopen(int(sys.argv[-1]), "wb"), sys.stdin.buffer)
