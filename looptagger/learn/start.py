"""The model that a training begins with, where there is one. No torch here."""

from typing import Any

from looptagger.config import Audio, Model, Train
from looptagger.errors import UserError
from looptagger.model import checkpoint

READ = ("source", "digest", "split", "dealt", "sample")
"""What learn.fairness reads of it; the rest may be long, and a card's length is bounded."""


def begun_with(settings: Train, kept: bytes | None = None) -> tuple[Train, bytes | None]:
    """The settings with the shape of the model that they begin with, and that model's checkpoint.

    `kept` is that one as it was when the run began: what its name stands for may have gone, or be another, since.
    Raises UserError for one that is not there, or is of another shape than settings ask for.
    """
    if not settings.begin_with:
        return settings, None
    start = kept or checkpoint.resolve(settings.begin_with, settings.storage)
    card = checkpoint.card(start, settings.begin_with)
    for key, wanted, plain in (("model", settings.model, Model()), ("audio", settings.audio, Audio())):
        if wanted not in (plain, getattr(card, key)):
            raise UserError(f"{key}: begin_with={settings.begin_with} has another; leave one of the two settings out.")
    return settings.model_copy(update={"model": card.model, "audio": card.audio}), start


def noted(start: bytes | None) -> dict[str, Any]:
    """What a run that goes on must be given again, and its model's card tells."""
    return {"begun_with": checkpoint.model_id(start, checkpoint.card(start, "begin_with"))} if start else {}


def thresholds(start: bytes | None) -> dict[str, Any]:
    """That model's thresholds, for the card: they stay for roles that the validation part cannot tell."""
    return {"thresholds": checkpoint.card(start, "begin_with").thresholds} if start else {}


def learned_from(start: bytes | None) -> dict[str, Any]:
    """What that model was trained on itself, for the card: `evaluate` warns of it."""
    if start is None:
        return {}
    of = checkpoint.card(start, "begin_with").provenance
    data = of.get("data")
    found = [{"data": {key: data[key] for key in READ if key in data}}] if isinstance(data, dict) else []
    heard = of.get("heard")
    found += heard if isinstance(heard, list) else []
    return {"heard": found} if found else {}
