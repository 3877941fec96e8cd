"""Paths and keys as text: which are audio, and which lie in folders that are given, too."""

import os
from collections import Counter
from collections.abc import Collection, Iterator

AUDIO_ENDINGS = frozenset(
    {
        *("wav", "wave", "bwf", "rf64", "w64", "aif", "aiff", "aifc", "caf", "au", "snd", "voc", "sf", "paf"),
        *("flac", "wv", "ape", "tta", "ogg", "oga", "opus", "spx", "mp3", "mp2", "mpga", "mpc", "ac3", "amr"),
        *("m4a", "m4b", "mp4", "aac", "3gp", "wma", "webm", "weba", "mka"),
    }
)
"""Endings taken from folders and prefixes. A file named outright is taken whatever its ending."""
ENDING = 8
"""Letters by which other endings are told apart."""


def is_audio(name: str) -> bool:
    """Whether a file's ending says audio, and it is not a hidden file such as macOS's `._` companions."""
    base = name.rsplit("/", 1)[-1]
    stem, _, ending = base.rpartition(".")
    return bool(stem) and not base.startswith(".") and ending.lower() in AUDIO_ENDINGS


def kept(uris: Iterator[str], skipped: Counter[str]) -> Iterator[str]:
    """The audio files among `uris`; the others are counted by their endings, or as hidden."""
    for uri in uris:
        if is_audio(uri):
            yield uri
        else:
            is_hidden = uri.rpartition("/")[2].startswith(".")
            skipped["hidden" if is_hidden else os.path.splitext(uri)[1].lower()[:ENDING]] += 1


def depth(path: str, folders: Collection[str]) -> int:
    """How many parts of a path are the nearest folder above it of some; 0 where none is."""
    parts = path.rstrip("/").split("/")
    return next((n for n in range(len(parts) - 1, 0, -1) if "/".join(parts[:n]) in folders), 0)
