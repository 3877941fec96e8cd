"""The one exception that users see, and how errors of libraries become one line."""

import re


class UserError(Exception):
    """Something the user can mend: one sentence that names the thing and says what to do. Exit code 2."""


def one_line(error: object) -> str:
    """An error's text on one line of bounded length, without memory addresses."""
    text = str(error) or type(error).__name__
    text = re.sub(r"<[^<>]*\bat 0x[0-9a-fA-F]+>|<_io[^<>]*>", "the file", text)
    return " ".join(re.sub(r"0x[0-9a-fA-F]{6,}", "", text).split()).rstrip(".")[:300]
