"""Settings as frozen models, one a concern. YAML in, unknown keys refused, `a.b=value` overrides."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from looptagger.errors import UserError


class Settings(BaseModel):
    """Base of all settings: immutable, and a key it does not know is an error rather than ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Audio(Settings):
    """What the model hears: mono at `sample_rate` Hz, cut into chunks of `chunk_samples`. Travels in the checkpoint."""

    sample_rate: int = Field(16_000, ge=1_000, le=384_000)
    chunk_samples: int = Field(48_000, ge=16, le=16_000_000)

    @property
    def chunk_s(self) -> float:
        """A chunk's length in seconds."""
        return self.chunk_samples / self.sample_rate


class Model(Settings):
    """The network's shape: `hcnn`, or `cnn`, its non-harmonic twin. Travels in the checkpoint."""

    kind: Literal["hcnn", "cnn"] = "hcnn"
    channels: int = Field(128, ge=1, le=1024)
    n_fft: int = Field(513, ge=16, le=16_384)
    hop: int = Field(256, ge=1, le=16_384)
    first_midi: int = Field(24, ge=0, le=127)
    last_midi: int = Field(88, ge=1, le=127)
    bands_per_semitone: int = Field(2, ge=1, le=12)
    n_harmonic: int = Field(6, ge=1, le=32)

    @property
    def n_band(self) -> int:
        """Bands of the front end: 128 with the paper's grid, C1 up to, not including, E6."""
        return (self.last_midi - self.first_midi) * self.bands_per_semitone


class Chunking(Settings):
    """Which chunks of a clip are heard. Two runs that differ here do not share an output."""

    hop_s: float | None = Field(None, gt=0, description="seconds from chunk to chunk; a chunk's length by default")
    max_chunks: int = Field(40, ge=1, le=1200, description="longer clips are heard in this many, spread evenly")
    silence_db: float = Field(-80.0, le=0, description="a clip whose peak is under this, in dBFS, is silent")


class Limits(Settings):
    """What one clip may cost before it is given up as too large or undecodable."""

    max_bytes: int = Field(2 << 30, ge=1, description="of one file")
    max_seconds: float = Field(2 * 3600, gt=0, description="of audio that must be decoded from its start")
    max_decode_s: float = Field(60.0, gt=0, description="of work on one clip")


class Storage(Settings):
    """How object stores are reached; credentials come from the usual AWS environment variables and files."""

    endpoint_url: str | None = Field(None, description="of an S3-compatible server")
    anonymous: bool = Field(False, description="read sources without credentials")
    attempts: int = Field(5, ge=1, le=20, description="tries of a request, with back-off and jitter")
    timeout_s: float = Field(30.0, gt=0, description="to connect, and to wait for the next bytes")


class Compute(Settings):
    """Where the model runs. `auto`: every GPU that Ray sees, else every CPU core."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    gpus_per_predictor: float = Field(1.0, gt=0, le=1)
    batch_chunks: int = Field(256, ge=1, description="chunks a forward pass on a GPU")
    shard_rows: int | None = Field(
        None, ge=1, le=1024, description="clips a part; by default 8 to 1,024 by archive size"
    )


class Tag(Settings):
    """Everything the tagging job can be told, as in configs/tag.yaml."""

    chunking: Chunking = Chunking()
    limits: Limits = Limits()
    storage: Storage = Storage()
    compute: Compute = Compute()


S = TypeVar("S", bound=Settings)


def load(kind: type[S], file: Path | None = None, overrides: Sequence[str] = ()) -> S:
    """Settings of `kind` from a YAML file and `a.b=value` overrides, later ones first in force.

    Raises UserError that names the file or the override, the key and what is allowed.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values = _read_yaml(file)
        _validated(kind, values, str(file))
    for override in overrides:
        _apply(values, override)
    return _validated(kind, values, "--set " + " --set ".join(overrides) if overrides else str(file))


def _validated(kind: type[S], values: Mapping[str, Any], where: str) -> S:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise UserError(f"{where}: there is no setting {key!r}; configs/tag.yaml lists them all.") from None
        raise UserError(f"{where}: {key}: {first['msg']}.") from None


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({getattr(error, 'strerror', error)}).") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: expected settings as `key: value`, found {type(values).__name__}.")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last:
        raise UserError(f"--set {override}: write it as key=value, for example chunking.max_chunks=10.")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {override}: {parent} is not a group of settings.")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override}: {text!r} is not a value.") from None
