"""Models that a training is given: the one whose weights it begins with, and its teachers. No torch here."""

from collections.abc import Sequence
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

    @property
    def models(self) -> tuple[bytes, ...]:
        """All of them."""
        return (self.start, *self.teachers) if self.start else self.teachers

    def noted(self) -> dict[str, Any]:
        """What a run that goes on must be given again, and its model's card tells; empty where nothing is given."""
        names = [checkpoint.model_id(data, checkpoint.card(data, "model")) for data in self.models]
        named = {"begin_with": names.pop(0) if self.start else None, "teachers": names}
        return {"given": named} if self.models else {}

    def heard(self) -> dict[str, Any]:
        """What those models were trained on themselves, for the card: `evaluate` warns of it."""
        found = []
        for data in self.models:
            of = checkpoint.card(data, "model").provenance
            found += [{key: of[key] for key in ("data", "counts") if key in of}, *of.get("heard", ())]
        return {"heard": found} if any(found) else {}


def given(settings: Train, kept: Sequence[bytes] = ()) -> tuple[Train, Given]:
    """The models that settings name, and the settings with the shape of the one to begin with.

    `kept` are those that a run which goes on has kept, in the order of `Given.models`. Raises UserError for one that
    is not there, is of another shape than settings ask for, or hears other chunks.
    """
    names = [settings.begin_with, *settings.teachers] if settings.begin_with else list(settings.teachers)
    models = kept if len(kept) == len(names) else [checkpoint.resolve(name, settings.storage) for name in names]
    start = models[0] if settings.begin_with else None
    teachers = tuple(models[1:] if settings.begin_with else models)
    if start:
        settings = _shaped(settings, checkpoint.card(start, str(settings.begin_with)))
    for name, data in zip(settings.teachers, teachers, strict=True):
        if checkpoint.card(data, name).audio != settings.audio:
            raise UserError(f"teachers: {name} hears other chunks than audio says; leave it out, or change audio.")
    return settings, Given(start, teachers)


def _shaped(settings: Train, card: Card) -> Train:
    for key, wanted, plain in (("model", settings.model, Model()), ("audio", settings.audio, Audio())):
        if wanted not in (plain, getattr(card, key)):
            raise UserError(f"{key}: begin_with={settings.begin_with} has another; leave one of the two settings out.")
    return settings.model_copy(update={"model": card.model, "audio": card.audio})
