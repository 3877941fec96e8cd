"""Models that a training is given: the one whose weights it begins with, and its teachers. No torch here."""

from dataclasses import dataclass
from typing import Any

from looptagger.config import Audio, Model, Train
from looptagger.errors import UserError
from looptagger.model import checkpoint
from looptagger.model.checkpoint import Card


@dataclass(frozen=True)
class Given:
    """Checkpoints, as bytes."""

    start: bytes | None = None
    teachers: tuple[bytes, ...] = ()

    def noted(self) -> dict[str, Any]:
        """What a run that goes on must be given again, and its model's card tells; empty where nothing is given."""
        start, *teachers = [
            data and checkpoint.model_id(data, checkpoint.card(data, "model")) for data in (self.start, *self.teachers)
        ]
        named = {"begin_with": start, "teachers": teachers}
        return {"given": named} if any(named.values()) else {}


def given(settings: Train) -> tuple[Train, Given]:
    """The models that settings name, and the settings with the shape of the one to begin with.

    Raises UserError for one that is not there, is of another shape than settings ask for, or hears other chunks.
    """
    start, *teachers = [
        checkpoint.resolve(name, settings.storage) if name else None
        for name in (settings.begin_with, *settings.teachers)
    ]
    if start:
        settings = _shaped(settings, checkpoint.card(start, str(settings.begin_with)))
    for name, data in zip(settings.teachers, teachers, strict=True):
        if data and checkpoint.card(data, name).audio != settings.audio:
            raise UserError(f"teachers: {name} hears other chunks than audio says; leave it out, or change audio.")
    return settings, Given(start, tuple(data for data in teachers if data))


def _shaped(settings: Train, card: Card) -> Train:
    for key, wanted, plain in (("model", settings.model, Model()), ("audio", settings.audio, Audio())):
        if wanted not in (plain, getattr(card, key)):
            raise UserError(f"{key}: begin_with={settings.begin_with} has another; leave one of the two settings out.")
    return settings.model_copy(update={"model": card.model, "audio": card.audio})
