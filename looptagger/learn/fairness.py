"""Whether a model is judged on loops that it has heard: what its card says of its training. No torch here."""

from pathlib import PurePath
from typing import Any

from looptagger.config import SPLITS
from looptagger.learn import labels
from looptagger.learn.table import Dataset
from looptagger.model.checkpoint import Card


def warnings(card: Card, dataset: Dataset, split: str, part: str) -> list[str]:
    """What is unfair about judging a model on these loops, a sentence each.

    A model that began with another's weights knows what that one has heard.
    """
    own = card.provenance
    of = [("The model", own), *(("A model that it learned from", each) for each in _forebears(own))]
    found = [f"{who} {why}" for who, provenance in of if (why := _trained_on(provenance, dataset, split, part))]
    if how := _tuned_on(own.get("thresholds_of"), dataset, split, part):
        found.append(f"The model's thresholds {how} chosen on some of these loops: its F1 is flattering.")
    return found


def has_heard(card: Card, dataset: Dataset, split: str, part: str = "validation") -> str | None:
    """Why a model has learned from some loops of a part already, or None."""
    found = warnings(card, dataset, split, part)
    return next((why for why in found if "heard some" in why or "has been trained" in why), None)


def split_of(card: Card) -> str:
    """The split that a model was trained on, as its card says."""
    about = card.provenance.get("data")
    trained_on = about.get("split") if isinstance(about, dict) else None
    return str(trained_on) if trained_on in SPLITS else "grouped"


def _forebears(provenance: dict[str, Any]) -> list[dict[str, Any]]:
    found = provenance.get("heard")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _trained_on(provenance: dict[str, Any], dataset: Dataset, split: str, part: str) -> str | None:
    data = provenance.get("data")
    if not isinstance(data, dict):
        return None
    if data.get("digest") != dataset.digest:
        again = (
            "was trained on a data set with loops of this one, otherwise prepared: it may have heard some of this part."
        )
        return again if _is_kin(data, dataset) else None
    dealt = data.get("dealt")
    if data.get("split") != split or not isinstance(dealt, dict) or dealt.get(split) != dataset.dealt[split]:
        return f"was trained on the {data.get('split')} split of these loops: it has heard some of this part."
    flaws = {"test": None, "validation": "was chosen, and its thresholds set, on these loops"}
    why = flaws.get(part, "has been trained on these loops")
    return f"{why}: its figures here are flattering." if why else None


def _tuned_on(thresholds_of: Any, dataset: Dataset, split: str, part: str) -> str:
    """Whether `looptagger model thresholds` chose on some of these loops: `were`, `may have been`, or nothing."""
    if not isinstance(thresholds_of, dict):
        return ""
    if thresholds_of.get("digest") != dataset.digest:
        return "may have been" * _is_kin(thresholds_of, dataset)
    is_dealt_anew = thresholds_of.get("dealt", dataset.dealt[split]) != dataset.dealt[split]
    parts = (part, thresholds_of.get("part"))
    is_met = thresholds_of.get("split") != split or is_dealt_anew or parts[0] == parts[1] or "all" in parts
    return "were" * is_met


def _is_kin(data: dict[str, Any], dataset: Dataset) -> bool:
    """Whether a data set that was prepared otherwise has the same name, or some of the same audio."""
    sample = data.get("sample")
    shared = [each for each in dataset.sample if each in sample] if isinstance(sample, list | tuple) else []
    return bool(shared) or _place(str(data.get("source"))) == _place(dataset.source)


def _place(source: str) -> tuple[str, ...]:
    """What a data set is called: its folder, and of many files called labels.csv the one in a folder of this name."""
    path = PurePath(source)
    return path.parts[-2:] if path.suffix in labels.ENDINGS else path.parts[-1:]
