"""The one exception that users see, and how errors of libraries become one line."""

import re
import tempfile
import traceback


class UserError(Exception):
    """Something the user can mend: one sentence that names the thing and says what to do. Exit code 2."""


def fault(error: Exception) -> str:
    """The sentence for a fault of ours that is being handled: its details are kept for a report."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="looptagger-", suffix=".log", delete=False) as log:
            log.write(hidden(traceback.format_exc()[-5 * LONGEST :]))
        kept = f" with {log.name}"
    except OSError:  # no room, or no folder for it
        kept = ""
    return f"Internal error: {one_line(error)}. Please report it{kept}; what is written stays."


class ClipFailed(Exception):
    """A clip that gives no audio: `status` is one of the output's statuses, the text its reason in one line."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Unreachable(UserError):
    """Storage that does not answer, or lets nobody in, and no clip is to blame: what is there may be well."""


NAMED = (
    r"(?i)(?<![a-z])(authorization|signature|secret\w*|password|(?:session_?)?token)"
    r"(['\"]?\s*[:=]\s*['\"]?)(?:(?:bearer|basic)\s+)?[^\s'\"&,]+"
)
LONGEST = 4_000
"""Letters of an error that are looked at: a name in a stranger's file may have a million."""
SECRETS = (
    (re.compile(r"(://)[^/\s@]+@"), r"\1"),
    (re.compile(r"(://[^\s?'\"]+)\?[^\s'\"]+"), r"\1?…"),
    (re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{12,}\b"), "…"),
    (re.compile(NAMED), r"\1\2…"),
)
"""What libraries put into errors and nobody may read in a table: passwords in URLs, signed queries, keys."""


def hidden(text: str) -> str:
    """A text without credentials."""
    for pattern, instead in SECRETS:
        text = pattern.sub(instead, text)
    return text


def one_line(error: object) -> str:
    """An error's text on one line of bounded length, without memory addresses and without credentials."""
    text = hidden((str(error) or type(error).__name__)[:LONGEST])
    text = re.sub(r"<[^<>]*\bat 0x[0-9a-fA-F]+>|<_io[^<>]*>", "the file", text)
    return " ".join(re.sub(r"0x[0-9a-fA-F]{6,}", "", text).split()).rstrip(".")[:300]
