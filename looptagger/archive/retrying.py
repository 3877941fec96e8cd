"""Retried clips on their way into a part: it and its chunks are two files, and a job may end between the two."""

import pyarrow.compute as pc

from looptagger.archive import tags
from looptagger.archive.storage import Folder

NAME = "_run/retrying"


def begin(folder: Folder, part: str) -> None:
    """Note that a part's chunks, and then the part, are about to be written anew."""
    folder.write(NAME, part.encode())


def end(folder: Folder) -> None:
    """Both are written."""
    folder.delete([NAME])


def of(folder: Folder) -> str:
    """The part of which only the chunks may be; empty for none."""
    return (folder.read(NAME) or b"").decode(errors="replace")


def mend(folder: Folder) -> None:
    """Where only the chunks were: take out of them those of clips that have none, by the part."""
    part = of(folder)
    if not part:
        return
    name = f"{tags.CHUNKS}/{part}"
    if tags.parse(part) and part in folder.names() and part in folder.names(tags.CHUNKS):
        clips = tags.read_part(folder, part, ["id", "n_chunks"])
        heard = clips.filter(pc.greater(clips.column("n_chunks"), 0)).column("id").combine_chunks()
        chunks = tags.read_part(folder, name)
        tags.write_part(folder, name, chunks.filter(pc.is_in(chunks.column("id"), heard)))
    end(folder)
