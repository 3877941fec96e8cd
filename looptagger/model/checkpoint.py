"""Checkpoints: one safetensors file that says in its header what it is. No pickle, strict, readable without torch."""

import hashlib
import json
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from looptagger.archive.storage import Folder, local_path, scheme
from looptagger.config import Audio, Model, Settings, Storage, misfit
from looptagger.errors import UserError, one_line
from looptagger.roles import ROLES

if TYPE_CHECKING:
    from looptagger.model.hcnn import HCNN

KEY = "looptagger"
IN_RUN = "model.safetensors"
"""The checkpoint in the folder of a training run."""
MAX_HEADER = 1 << 20
MAX_BYTES, PIECE_BYTES = 1 << 30, 1 << 23
TOO_LARGE = f"no file, or over {MAX_BYTES:,} bytes; that is no checkpoint of ours."
STARTER = "starter"
"""The name of the model that looptagger brings along: MODEL_CARD.md says what it was trained on."""
UNTRAINED = "untrained"
"""The name of a model with random weights from a fixed seed: it shows the pipeline, its scores mean nothing."""
NAMES = (STARTER, UNTRAINED)
SHIPPED = Path(__file__).with_name("starter.safetensors")


def plain_name(text: str) -> str:
    """A model's name made of a file's: `-` for what a name cannot have, 64 characters at most; empty for nothing."""
    return re.sub(r"[^\w.-]", "-", text)[:64]


def _checked_name(name: str) -> str:
    if not name or plain_name(name) != name:
        raise ValueError("a name has letters, digits and . _ - only, 64 at most, and at least one")
    return name


class Card(Settings):
    """What a checkpoint says of itself, as JSON in the safetensors header under `looptagger`."""

    format: Literal[1] = 1
    name: Annotated[str, AfterValidator(_checked_name)]
    model: Model = Model()
    audio: Audio = Audio()
    roles: tuple[str, ...] = ROLES
    thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=lambda: dict.fromkeys(ROLES, 0.5)
    )
    licence: str = "unknown"
    about: str = ""
    """A sentence for users: what it was trained on."""
    trained: bool = True
    provenance: dict[str, Any] = Field(default_factory=dict)


def read_bytes(path: Path) -> bytes:
    """A checkpoint file's bytes. Raises UserError when it cannot be read."""
    try:
        status = path.stat()
        if status.st_size > MAX_BYTES or not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: {TOO_LARGE}")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a checkpoint: {error.strerror}.") from None


def card(data: bytes, name: str) -> Card:
    """What a checkpoint says of itself. Raises UserError that names what is not understood."""
    size = int.from_bytes(data[:8], "little")
    if not 2 <= size <= min(MAX_HEADER, len(data) - 8):
        raise UserError(f"{name}: not a safetensors checkpoint; `looptagger model import` reads published .pth files.")
    try:
        text = json.loads(data[8 : 8 + size])["__metadata__"][KEY]
        found = json.loads(text)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{name}: a safetensors file without looptagger's metadata; it is no model of ours.") from None
    return _validated(found, name)


def _validated(found: Any, name: str) -> Card:
    version = found.get("format") if isinstance(found, dict) else None
    if version != 1:
        raise UserError(f"{name}: checkpoint format {version!r} is not known to this looptagger; update it.")
    try:
        result = Card.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{name}: the checkpoint's {key} is not understood: {first['msg']}.") from None
    if result.roles != ROLES or set(result.thresholds) != set(ROLES):
        said = ", ".join(result.roles if result.roles != ROLES else result.thresholds)
        raise UserError(f"{name}: the checkpoint's roles are {said}, not {', '.join(ROLES)}.")
    if why := misfit(result.model, result.audio):
        raise UserError(f"{name}: {why}; it is no model of ours.")
    return result


def model_id(data: bytes, card: Card) -> str:
    """name@ and the first 12 hex digits of the checkpoint's sha256: the output's `model` column."""
    return f"{card.name}@{hashlib.sha256(data).hexdigest()[:12]}"


def load(data: bytes, name: str) -> tuple["HCNN", Card]:
    """The network of a checkpoint, in evaluation mode on the CPU, and its card.

    Raises UserError for missing, unexpected or misshapen weights, naming the first.
    """
    import safetensors.torch

    from looptagger.model.hcnn import HCNN

    found = card(data, name)
    try:
        network = HCNN(found.model, found.audio)
        weights = safetensors.torch.load(data)
        network.load_state_dict(
            {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}
        )
    except Exception as error:  # torch and safetensors raise several kinds
        raise UserError(f"{name}: its weights do not fit its {found.model.kind}: {first_problem(error)}.") from None
    check_numbers(network, name)
    return network.eval(), found


def check_numbers(network: "HCNN", name: str) -> None:
    """Raise UserError where a weight is no number: all scores would be none."""
    for key, value in network.state_dict().items():
        if not value.isfinite().all():
            raise UserError(f"{name}: the weights in {key} are not all numbers; a training that went wrong left them.")
        if key.endswith("running_var") and (value < 0).any():
            raise UserError(f"{name}: {key} holds a negative variance, of which no scores come; train it again.")


def first_problem(error: Exception) -> str:
    """torch lists every key that does not fit; the first says enough."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return one_line(re.sub(r"(,\s*\"[^\"]*\")+", " and more", lines[1] if len(lines) > 1 else lines[0]))


def dump(network: "HCNN", card: Card) -> bytes:
    """A network and its card as the bytes of a checkpoint. The same network and card give the same bytes."""
    import safetensors.torch

    weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    return safetensors.torch.save(weights, metadata={KEY: json.dumps(card.model_dump(mode="json"), sort_keys=True)})


def told_anew(data: bytes, **words: Any) -> bytes:
    """A checkpoint's bytes with other words in its card, such as its licence; the weights stay as they are."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    about = json.loads(header["__metadata__"][KEY]) | words
    header["__metadata__"][KEY] = json.dumps(about, sort_keys=True)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # what follows stays aligned
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def untrained(model: Model | None = None, seed: int = 0) -> bytes:
    """A checkpoint of random weights that a seed fixes: for demos and tests of everything but the scores."""
    import torch

    from looptagger.model.hcnn import HCNN

    described = Card(
        name=UNTRAINED,
        model=model or Model(),
        licence="CC0-1.0",
        about="random weights; it shows the pipeline, its scores mean nothing.",
        trained=False,
        provenance={"made": "random weights", "seed": seed},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return dump(HCNN(described.model, described.audio), described)


def resolve(name: str, storage: Storage = Storage()) -> bytes:
    """The checkpoint that a name, a path, a URI or the folder of a training run means. Raises UserError for none."""
    if name == UNTRAINED:
        return untrained()
    if name == STARTER:
        return read_bytes(SHIPPED)
    if scheme(name) != "file":
        return _fetched(name.rstrip("/"), storage)
    path = Path(os.fsdecode(local_path(name)))
    path = path / IN_RUN if os.path.isdir(path) else path  # Path's own raise where nobody may look
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        known = f"{STARTER}, {UNTRAINED}"
        raise UserError(f"{name}: no such model; give a checkpoint, a training run, or a name: {known}.") from None
    except OSError:
        pass  # said as it is read
    return read_bytes(path)


def _fetched(uri: str, storage: Storage) -> bytes:
    """The checkpoint at a URI, or in the run there."""
    place, name = uri.rsplit("/", 1) if uri.endswith(".safetensors") else (uri, IN_RUN)
    folder = Folder.to_read(place, storage)
    data = bytearray()
    with folder.reached(name):
        try:
            with folder.fs.open(folder.at(name), "rb") as file:
                while len(data) <= MAX_BYTES and (more := file.read(PIECE_BYTES)):
                    data += more
        except FileNotFoundError:
            kinds = "a checkpoint that ends in .safetensors, or a training run"
            raise UserError(f"{uri}: no such model; give {kinds}.") from None
    if len(data) > MAX_BYTES:  # not all servers say so before
        raise UserError(f"{uri}: {TOO_LARGE}")
    return bytes(data)
