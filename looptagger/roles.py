"""The six roles a loop can play, in the one order used everywhere: columns, logits, thresholds, tables."""

from typing import Final

ROLES: Final = ("percussion", "bass", "chord", "melody", "fx", "voice")
"""The taxonomy of the Freesound Loop Dataset (Ramires et al., ISMIR 2020)."""
