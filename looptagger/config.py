"""Settings as frozen models, one a concern, with their defaults and bounds. `settings.load` reads them."""

import math
from typing import Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Split = Literal["paper", "stratified", "grouped"]
Protocol = Literal["ours", "published"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)
PROTOCOLS: Final[tuple[Protocol, ...]] = get_args(Protocol)


class Settings(BaseModel):
    """Base of all settings: immutable, and a key it does not know is an error rather than ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Audio(Settings):
    """What the model hears: mono at `sample_rate` Hz, in chunks of `chunk_samples` (3 s). Travels in the checkpoint."""

    sample_rate: int = Field(16_000, ge=1_000, le=384_000)
    chunk_samples: int = Field(default_factory=lambda given: 3 * given.get("sample_rate", 0), ge=16, le=16_000_000)

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


SIDES, PLACES = 128, 1 << 20
"""Bands and frames that a map needs, halved seven times, and bands x frames that it may have: 40 of the paper's."""


def map_size(model: Model, audio: Audio) -> tuple[int, int]:
    """Bands and frames of the map that a chunk becomes."""
    return model.n_band, 1 + audio.chunk_samples // model.hop


def misfit(model: Model, audio: Audio) -> str | None:
    """Why a network of this shape cannot hear chunks of this length, or None."""
    bands, frames = map_size(model, audio)
    if model.n_fft // 2 >= audio.chunk_samples:
        return f"a window of {model.n_fft:,} samples does not fit a chunk of {audio.chunk_samples:,}"
    if min(bands, frames) >= SIDES and bands * frames <= PLACES:
        return None
    limits = f"{SIDES} of each at least, {PLACES:,} places at most"
    return (
        f"a chunk becomes a map of {bands} bands and {frames:,} frames, which the network halves seven times: {limits}"
    )


class Chunking(Settings):
    """Which chunks of a clip are heard. Two runs that differ here do not share an output."""

    hop_s: float | None = Field(None, gt=0, le=3600, description="seconds between chunks' starts; by default a chunk")
    max_chunks: int = Field(40, ge=1, le=1200, description="longer clips are heard in this many, spread evenly")
    silence_db: float = Field(-80.0, le=0, description="a chunk whose peak is under this, in dBFS, is not heard")
    quiet_db: float = Field(-12.0, le=-6, description="a clip whose peak is under this, in dBFS, is made louder")


class Limits(Settings):
    """What one clip may cost before it is given up as too large or undecodable."""

    max_bytes: int = Field(2 << 30, ge=1, le=1 << 60, description="of one file")
    max_seconds: float = Field(2 * 3600, gt=0, description="of audio that must be decoded from its start")
    max_decode_s: float = Field(60.0, gt=0, description="of work on one clip")
    max_memory: int = Field(4 << 30, ge=256 << 20, le=1 << 60, description="bytes of a process that decodes")


class Storage(Settings):
    """How object stores are reached; credentials come from the usual AWS environment variables and files."""

    endpoint_url: str | None = Field(None, description="of an S3-compatible server")
    anonymous: bool = Field(False, description="read without credentials; what is written needs them")
    attempts: int = Field(5, ge=1, le=20, description="tries of a request, with back-off and jitter")
    timeout_s: float = Field(30.0, gt=0, description="to connect, and to wait for the next bytes")
    patience_s: float = Field(
        300.0, ge=0, description="a store that is away or overloaded is waited for, then the job ends"
    )


class Compute(Settings):
    """Where the model runs. `auto`: every GPU that Ray sees, else every CPU core, without Ray on one machine."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "float16", "bfloat16", "int8"] = "auto"
    gpus_per_predictor: float = Field(1.0, gt=0, le=1)
    batch_chunks: int = Field(256, ge=1, description="chunks a forward pass on a GPU")
    price_per_hour: float | None = Field(
        None, ge=0, description="of all machines together, in any currency: what the run costs is then said"
    )
    shard_rows: int | None = Field(
        None, ge=1, le=1024, description="clips a part; by default 8 to 1,024 by archive size"
    )


class Tag(Settings):
    """Everything the tagging job can be told, as in configs/tag.yaml."""

    chunking: Chunking = Chunking()
    limits: Limits = Limits()
    storage: Storage = Storage()
    compute: Compute = Compute()


class Prepare(Settings):
    """Everything `looptagger prepare` can be told, as in configs/prepare.yaml."""

    sample_rate: int = Field(16_000, ge=1_000, le=384_000, description="Hz of the stored waveforms: the model's rate")
    merge: Literal["union", "intersection"] = Field(
        "union", description="a role is set when any, or all, annotators set it"
    )
    licences: tuple[str, ...] = Field((), description="families kept, e.g. cc0, by; all when empty")
    min_s: float = Field(0.05, ge=0, description="shorter loops are dropped as too short")
    silence_db: float = Field(-80.0, le=0, description="a loop whose peak is under this, in dBFS, is dropped as silent")
    shares: tuple[float, float, float] = Field((0.90, 0.05, 0.05), description="train, validation, test")
    seed: int = Field(0, ge=0, description="of the splits and of the table's order")
    limits: Limits = Limits(max_seconds=600)
    storage: Storage = Storage()

    @field_validator("shares")
    @classmethod
    def _of_one(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
            raise ValueError("write shares of 1, such as [0.9, 0.05, 0.05]")
        return shares


class Phase(Settings):
    """A stretch of the schedule, from `from_epoch` to the next phase or the end."""

    from_epoch: int = Field(0, ge=0, description="epochs count from 0")
    optimiser: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0, description="the learning rate after warm-up")
    weight_decay: float = Field(0.0, ge=0)
    warmup_epochs: float = Field(0.0, ge=0, description="the rate rises linearly from 0 over these")
    cosine: bool = Field(False, description="the rate falls to 0 along a half cosine, else it stays")
    from_best: bool = Field(False, description="begin with the best weights so far")
    head_only: bool = Field(
        False, description="only the layers after the pooling learn, begun anew, from crops as they are"
    )


class Augment(Settings):
    """What is done to a training crop; each switch is off at 0 or false."""

    wrap: bool = Field(False, description="a crop may begin anywhere and go on from the loop's start")
    gain_db: float = Field(0.0, ge=0, le=40, description="level changed by up to this, up or down")
    polarity: bool = Field(False, description="sign flipped for half of the crops")
    speed_semitones: float = Field(
        0.0, ge=0, le=24, description="played faster or slower by up to this: pitch and time"
    )
    mix: float = Field(0.0, ge=0, le=1, description="share of crops added to another, with the roles of both")
    time_mask: int = Field(0, ge=0, description="SpecAugment: longest stretch of frames blanked")
    band_mask: int = Field(0, ge=0, description="SpecAugment: widest stretch of bands blanked")


class Workers(Settings):
    """Where training runs. `auto`: one worker a GPU where Ray has any, else one on all cores of a machine."""

    workers: int | None = Field(None, ge=1, le=1024, description="by default one a GPU, or one on CPUs")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 on GPUs, float32 on CPUs; those without bfloat16 take float32 for it"
    )
    compile: bool = Field(False, description="the trunk through torch.compile: a minute to begin, then faster on GPUs")
    keep_bytes: int | None = Field(
        None,
        ge=0,
        description="of audio that a worker keeps; by default a quarter of the memory among them, 4 GiB at most",
    )
    retries: int = Field(3, ge=0, description="times a failed worker is replaced before the job gives up")

    def scoring(self, device: Literal["auto", "cpu", "cuda"]) -> Compute:
        """How the model that is trained so is to score loops, on a device."""
        return Compute(device=device, precision="float32" if self.precision == "float32" else "auto")


class Train(Settings):
    """Everything `looptagger train` can be told, as in configs/train.yaml and configs/train_paper.yaml."""

    split: Split = "grouped"
    model: Model = Model()
    audio: Audio = Audio()
    epochs: int = Field(100, ge=1)
    batch: int = Field(64, ge=2, description="crops a step, over all workers")
    phases: tuple[Phase, ...] = Field((Phase(weight_decay=0.01, warmup_epochs=2, cosine=True),), min_length=1)
    augment: Augment = Augment(mix=0.5)
    raise_quiet: bool = Field(True, description="loops under -12 dBFS are made louder, as they are to be tagged")
    balance: Literal["none", "loss", "sampling"] = Field("sampling", description="what is done for rare roles")
    average_epochs: float = Field(
        5.0, ge=0, description="weights are a running mean over about so many epochs; 0: none"
    )
    select: Literal["loss", "roc_auc", "pr_auc"] = Field("roc_auc", description="what the best epoch is best at")
    begin_with: str | None = Field(None, description="a model whose shape and weights training begins with")
    licence: str = Field("unknown", description="of the weights, as their card will say")
    seed: int = Field(0, ge=0, lt=2**32)
    compute: Workers = Workers()
    storage: Storage = Storage()

    @model_validator(mode="after")
    def _phases_in_order(self) -> "Train":
        begins = [phase.from_epoch for phase in self.phases]
        if begins[0] != 0 or begins != sorted(set(begins)):
            raise ValueError("phases must begin at epoch 0 and follow each other")
        if self.phases[0].head_only and not self.begin_with:
            raise ValueError("the first phase cannot be head_only: the rest has not learned yet (or set begin_with)")
        return self

    def recipe(self) -> dict[str, Any]:
        """All that the outcome depends on: everything but where it runs and what is said of it."""
        return self.model_dump(mode="json", exclude={"compute", "storage", "licence"})
