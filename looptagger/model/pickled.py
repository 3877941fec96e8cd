"""What torch.save wrote, in files of strangers, too: no code in them runs, and none is larger than it looks."""

import io
import zipfile
from typing import Any

import torch

from looptagger.errors import UserError


def load(data: bytes, name: str) -> Any:
    """What is in a file, on the CPU; only tensors and plain values are unpickled.

    Raises UserError for one that is damaged, or larger than it looks; and what torch does.
    """
    plain = _anew(data, name) if data.startswith(b"PK") else data  # not so PyTorch's format of before 2020
    return torch.load(io.BytesIO(plain), map_location="cpu", weights_only=True)


def _anew(data: bytes, name: str) -> bytes:
    """A zip archive made of what Python finds in one: torch's reader may find other entries."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as parts, zipfile.ZipFile(anew := io.BytesIO(), "w") as stored:
            every = parts.infolist()
            is_packed = any(part.compress_type != zipfile.ZIP_STORED for part in every)
            if is_packed or sum(part.file_size for part in every) > len(data):
                raise UserError(f"{name}: is compressed, as PyTorch's files never are; save its state_dict() anew.")
            for part in every:
                stored.writestr(part.filename, parts.read(part))
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError):
        raise UserError(f"{name}: a damaged file; copy it again.") from None
    return anew.getvalue()
