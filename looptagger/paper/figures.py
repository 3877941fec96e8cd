"""The paper's figures 1, 3 and 4, as PNG and SVG. Colours of roles are those of every other picture."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from looptagger.config import Audio, Model
from looptagger.learn.metrics import Floats, Truth
from looptagger.roles import COLOURS, ROLES

PER_ROLE = 2
"""Loops of each role in Figure 1."""
DYNAMIC_DB = 70.0
"""Of a spectrogram, from its loudest point."""
OTHER = "#C8CCD0"
"""Bars of roles that a loop does not play."""


class Example(NamedTuple):
    """A loop to show: its id, and its int16 samples."""

    loop: str
    waveform: NDArray[np.int16]


class Guess(NamedTuple):
    """A loop's scores (6,) and the roles it plays (6,)."""

    loop: str
    scores: Floats
    truth: Truth


def pictures(figure: Any) -> dict[str, bytes]:
    """A figure as `png` and `svg`. The same figure, the same bytes."""
    import matplotlib

    found: dict[str, bytes] = {}
    options: dict[str, dict[str, Any]] = {"png": {"dpi": 150}, "svg": {"metadata": {"Date": None}}}
    with matplotlib.rc_context({"svg.hashsalt": "looptagger", "svg.fonttype": "none"}):
        for kind, how in options.items():
            file = io.BytesIO()
            figure.savefig(file, format=kind, facecolor="white", **how)
            found[kind] = file.getvalue()
    return found


def _name(axes: Any, role: str) -> None:
    """Head a column of pictures with a role's name in its colour."""
    axes.set_title(role, color=_ink(role), backgroundcolor=COLOURS[role], fontweight="bold", pad=9)


def _ink(role: str) -> str:
    """Black or white, whichever is read better on a role's colour (by luminance, ITU-R BT.709)."""
    red, green, blue = (int(COLOURS[role][i : i + 2], 16) / 255 for i in (1, 3, 5))
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45 else "white"


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # room for the ground that the names of roles stand on, which the layout does not count
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.12))


def log_mel(waveform: NDArray[np.int16], audio: Audio) -> Floats:
    """The first chunk of a waveform as the non-harmonic CNN hears it: decibels (128, frames), at most 0."""
    import torch

    from looptagger.audio.chunk import fit
    from looptagger.model.hcnn import front_end

    pcm = fit(waveform, audio.chunk_samples).astype(np.float32) / 32768.0
    with torch.no_grad():
        db: Floats = front_end(Model(kind="cnn"), audio)(torch.from_numpy(pcm)[None])[0, 0].numpy()
    quieter: Floats = db - db.max()
    return quieter


def spectrograms(examples: Mapping[str, Sequence[Example]], audio: Audio) -> Any:
    """Figure 1: log-mel spectrograms of loops of each role, a column a role."""
    figure = _figure(13, 5.2)
    axes = figure.subplots(PER_ROLE, len(ROLES), sharex=True, sharey=True, squeeze=False)
    image = None
    for column, role in enumerate(ROLES):
        _name(axes[0][column], role)
        for row in range(PER_ROLE):
            place, shown = axes[row][column], examples.get(role, ())
            if row < len(shown):
                db = log_mel(shown[row].waveform, audio)
                image = place.imshow(
                    db, origin="lower", aspect="auto", cmap="magma", vmin=-DYNAMIC_DB, vmax=0,
                    extent=(0, audio.chunk_s, 0, len(db)), interpolation="nearest",
                )  # fmt: skip
                place.text(
                    0.02, 0.98, _short(shown[row].loop), transform=place.transAxes, va="top", color="white", size=8,
                    parse_math=False,
                )  # fmt: skip
            else:
                place.text(0.5, 0.5, "no loop of\nthis role alone", transform=place.transAxes, ha="center", va="center")
    figure.supxlabel("seconds")
    figure.supylabel("mel band")
    if image is not None:
        figure.colorbar(image, ax=axes, label="dB below the loudest", pad=0.01, aspect=30)
    return figure


def _short(loop: str) -> str:
    """An id's last part, of long ones the middle cut out."""
    name = loop.rstrip("/").rpartition("/")[2]
    return name if len(name) <= 26 else f"{name[:12]}…{name[-13:]}"


def together(truth: Truth, said: Truth, system: str) -> Any:
    """Figure 3: of the loops that play a role, how many play another, and how many are said to by a system."""
    figure = _figure(12, 5.4)
    left, right = figure.subplots(1, 2)
    _heat(left, truth, truth, "also plays", "What loops play")
    _heat(right, truth, said, "is said to play", f"What {system} says they play")
    return figure


def _heat(axes: Any, truth: Truth, other: Truth, across: str, title: str) -> None:
    counts = truth.sum(axis=0)
    shares = (truth.T.astype(float) @ other.astype(float)) / np.maximum(counts, 1)[:, None]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), share in np.ndenumerate(shares):
        text = f"{share:.0%}" if counts[i] else "–"
        axes.text(j, i, text, ha="center", va="center", color="white" if share > 0.55 else "black")
    axes.set_xticks(range(len(ROLES)), ROLES, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(ROLES)), [f"{role} ({n:,})" for role, n in zip(ROLES, counts, strict=True)])
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        for label, role in zip(labels, ROLES, strict=True):
            label.set_color(_ink(role))
            label.set_backgroundcolor(COLOURS[role])
    axes.set_xlabel(across)
    axes.set_ylabel("a loop that plays (test loops)")
    axes.set_title(title)


def chosen(truth: Truth, scores: Floats) -> dict[str, tuple[int, int]]:
    """For each role the loop whose score is the middle one of those that play it, and the one with the lowest."""
    found = {}
    for i, role in enumerate(ROLES):
        playing = np.flatnonzero(truth[:, i])
        if len(playing):
            order = playing[np.argsort(scores[playing, i], kind="stable")]
            found[role] = int(order[len(order) // 2]), int(order[0])
    return found


def predictions(guesses: Mapping[str, Sequence[Guess]], thresholds: Floats, system: str) -> Any:
    """Figure 4: a system's scores beside the truth, of a usual loop of each role and of the most missed."""
    figure = _figure(13, 5.4)
    axes = figure.subplots(2, len(ROLES), sharex=True, sharey=True)
    for column, role in enumerate(ROLES):
        _name(axes[0][column], role)
        for row, guess in enumerate(guesses.get(role, ())):
            _bars(axes[row][column], guess, thresholds)
    axes[0][0].set_ylabel("the middle score")
    axes[1][0].set_ylabel("the lowest score")
    note = "Coloured: the roles that the loop plays. Grey: those it does not. Black lines: thresholds."
    figure.supxlabel(f"{system}'s score. {note}", size=10)
    return figure


def _bars(axes: Any, guess: Guess, thresholds: Floats) -> None:
    colours = [COLOURS[role] if plays else OTHER for role, plays in zip(ROLES, guess.truth, strict=True)]
    axes.barh(range(len(ROLES)), guess.scores, color=colours)
    axes.vlines(thresholds, np.arange(len(ROLES)) - 0.4, np.arange(len(ROLES)) + 0.4, color="black", linewidth=1.2)
    axes.set_yticks(range(len(ROLES)), ROLES)
    axes.set_ylim(len(ROLES) - 0.4, -1.1)
    axes.set_xlim(0, 1)
    axes.text(0.02, -0.75, _short(guess.loop), size=8, va="center", parse_math=False)
