"""The weights that looptagger brings along: what they say of themselves."""

from pathlib import Path

import pytest

from looptagger.learn import labels
from looptagger.model import checkpoint
from looptagger.model.predictor import Predictor
from looptagger.roles import ROLES

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def starter() -> Predictor:
    return Predictor.load("starter")


def test_it_says_what_it_is(starter: Predictor) -> None:
    assert starter.model_id.startswith("starter@")
    assert starter.card.trained
    assert "FSLD" in starter.card.about
    assert starter.card.licence != "unknown"
    assert checkpoint.SHIPPED.stat().st_size < 8_000_000


def test_the_held_out_clips_are_labelled() -> None:
    """The figures on them are in MODEL_CARD.md: make heldout."""
    loops = labels.read(DATA / "heldout.tsv").loops
    assert len(loops) == 97
    assert {role for loop in loops for role in loop.roles} == set(ROLES)
