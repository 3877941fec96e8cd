"""From waveforms to roles: each method adds one conversion. Device, precision and batching are decided here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from looptagger.audio import chunk
from looptagger.config import Chunking, Compute
from looptagger.errors import UserError, one_line
from looptagger.model import checkpoint, integers, packed
from looptagger.model.folded import FoldedHCNN, Products
from looptagger.roles import ROLES

Floats = NDArray[np.float32]

CPU_BATCH = 8
"""Chunks a forward on a CPU, of which the first blocks hear one at a time: see `folded.ALONE`."""


@dataclass(frozen=True)
class Prediction:
    """A clip's scores in [0, 1], role by role, and the roles at or above the checkpoint's thresholds."""

    scores: dict[str, float]
    roles: list[str]


class Predictor:
    """A trained checkpoint ready to tag. `Predictor.load("model.safetensors")(waveform, sample_rate)` tags an array."""

    def __init__(self, data: bytes, name: str = "checkpoint", compute: Compute | None = None) -> None:
        compute = compute or Compute()
        network, self.card = checkpoint.load(data, name)
        self.model_id = checkpoint.model_id(data, self.card)
        self.device = torch.device(_device(compute.device))
        on_gpu = self.device.type == "cuda"
        self.batch = compute.batch_chunks if on_gpu else CPU_BATCH
        precision, products = _arithmetic(compute.precision, on_gpu)
        self.network = FoldedHCNN(network, precision, products).eval().to(self.device)
        self.uploads = torch.cuda.Stream(self.device) if on_gpu else None
        self.thresholds = np.array([self.card.thresholds[role] for role in ROLES], np.float32)

    @classmethod
    def load(cls, model: str | Path, compute: Compute | None = None) -> "Predictor":
        """The predictor of a checkpoint's path or name. Raises UserError for one that cannot be read."""
        return cls(checkpoint.resolve(str(model)), str(model), compute)

    @property
    def embedding_size(self) -> int:
        """Numbers in a clip's embedding: 256 at full width."""
        return self.network.dense.out_features

    def __call__(self, waveform: Floats, sample_rate: int, chunking: Chunking | None = None) -> Prediction:
        """Tag one clip: float samples, (samples,) or (samples, channels), at any rate.

        Raises ValueError for a clip that is empty, silent, not finite, or of another shape or type.
        """
        scores = self.clip_scores([self.chunks(waveform, sample_rate, chunking or Chunking())])[0]
        return Prediction(dict(zip(ROLES, map(float, scores), strict=True)), self.roles(scores))

    def chunks(self, waveform: Floats, sample_rate: int, chunking: Chunking) -> NDArray[np.int16]:
        """A clip's int16 chunks at the model's rate, (n_chunks, chunk_samples), without silent ones."""
        audio, given = self.card.audio, np.asarray(waveform)
        if given.dtype.kind != "f" or given.ndim not in (1, 2) or (given.ndim == 2 and given.shape[0] < given.shape[1]):
            raise ValueError("a waveform is floats in [-1, 1], (samples,) or (samples, channels)")
        mono = given.astype(np.float32, copy=False)
        mono = mono if mono.ndim == 1 else mono.mean(axis=1)
        if not mono.size or not np.isfinite(mono).all():
            raise ValueError("a waveform needs at least one sample, and finite ones only")
        mono = soxr.resample(np.clip(mono, -1, 1), sample_rate, audio.sample_rate)
        pcm = np.clip(np.rint(mono * 32768), -32768, 32767).astype(np.int16)
        if not len(pcm):
            raise ValueError("a waveform too short to hear")
        heard, _ = chunk.cut_up(pcm, audio, chunking)
        if not len(heard):
            raise ValueError(f"a waveform without a sample over {chunking.silence_db:g} dBFS")
        return heard

    def clip_scores(self, clips: Sequence[NDArray[np.int16]]) -> Floats:
        """Scores (n_clips, 6) of clips given as their chunks: the mean over each clip's chunks.

        Raises ValueError where one has none.
        """
        if not all(len(clip) for clip in clips):
            raise ValueError("a clip needs at least one chunk")
        if not len(clips):
            return np.zeros((0, len(ROLES)), np.float32)
        scores, _ = self.chunk_scores(np.concatenate(clips))
        return segment_means(scores, np.array([len(clip) for clip in clips]))

    def chunk_scores(self, pcm: NDArray[np.int16]) -> tuple[Floats, Floats]:
        """Scores (n, 6) in [0, 1] and embeddings (n, embedding_size) of int16 chunks (n, chunk_samples).

        Raises UserError where the model's numbers leave the precision's range, or memory does not hold one chunk.
        """
        if not len(pcm):
            return np.zeros((0, len(ROLES)), np.float32), np.zeros((0, self.embedding_size), np.float32)
        logits, embeddings, start = [], [], 0
        with torch.inference_mode():
            while start < len(pcm):
                try:
                    out, embedding = self._forward(torch.from_numpy(pcm[start : start + self.batch]))
                except (RuntimeError, MemoryError) as error:
                    if not is_short_of_memory(error):
                        raise
                    self._ask_less(error)
                    continue
                start += len(out)
                logits.append(out)
                embeddings.append(embedding)
            scores = torch.sigmoid(torch.cat(logits))
            if not torch.isfinite(scores).all():  # half floats end at 65,504
                raise UserError(f"{self.model_id} gives scores that are no numbers; try compute.precision=float32.")
            return scores.cpu().numpy(), torch.cat(embeddings).cpu().numpy()

    def _ask_less(self, error: Exception) -> None:
        """Half as many chunks a forward from now on, as memory did not hold these. Raises UserError at one."""
        if self.batch == 1:
            else_ = f", or use compute.device=cpu ({one_line(error)[:80]})" if self.device.type == "cuda" else ""
            raise UserError(f"memory does not hold one chunk's maps; free some{else_}.")
        self.batch //= 2

    def _forward(self, pcm: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (n, 6) and embeddings of int16 chunks, which go to the device as they are: half of float32's bytes."""
        return self.network(self._placed(pcm).float() / 32768.0)  # type: ignore[no-any-return]

    def _placed(self, pcm: torch.Tensor) -> torch.Tensor:
        """Chunks on the device: on a GPU, on their way while it is still at those before them."""
        if self.uploads is None:
            return pcm.to(self.device)
        try:
            pinned = pcm.pin_memory()
        except RuntimeError:  # a system bounds it, as WSL does
            return pcm.to(self.device)
        at_work = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.uploads):
            placed = pinned.to(self.device, non_blocking=True)
        at_work.wait_stream(self.uploads)
        placed.record_stream(at_work)  # its memory is given to others after that only
        return placed

    def roles(self, scores: Floats) -> list[str]:
        """The roles whose score is at or above the checkpoint's threshold, in ROLES order."""
        return [role for role, is_on in zip(ROLES, scores >= self.thresholds, strict=True) if is_on]


def is_short_of_memory(error: Exception) -> bool:
    """Whether memory did not hold what was asked for: of CUDA's libraries and CPUs, PyTorch has no error for it."""
    said = ("ALLOC_FAILED", "unable to find an engine", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in said)


def _device(wanted: str) -> str:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("compute.device: cuda was asked for, but no GPU is usable here; use auto or cpu.")
    return wanted if wanted != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")


def _arithmetic(precision: str, on_gpu: bool) -> tuple[torch.dtype, Products]:
    """The trunk's precision, and how its products are done. Raises UserError for one that this device has not."""
    if precision == "int8":
        if on_gpu:
            raise UserError("compute.precision: int8 is for CPUs; use auto, or compute.device=cpu.")
        integers.check()
        return torch.float32, "int8"
    if precision == "auto":
        precision = "float16" if on_gpu else "float32"
    quick = precision == "float32" and not on_gpu and packed.is_there()
    return getattr(torch, precision), "winograd" if quick else "direct"


def segment_means(values: Floats, counts: NDArray[np.int64]) -> Floats:
    """Means over consecutive segments of rows: (sum(counts), d) -> (len(counts), d); each count is at least 1."""
    first = np.cumsum(counts) - counts
    sums: Floats = np.add.reduceat(values.astype(np.float64), first, axis=0)
    return (sums / counts[:, None]).astype(np.float32)
