"""Drawing sounds from the shelf."""

import numpy as np

from jobs.starter.patterns import Rng
from jobs.starter.shelf import Sound


class Stock:
    """The sounds of one part of the data, to draw from by whatever `rng` is at the moment."""

    def __init__(self, sounds: list[Sound], espeaks: bool) -> None:
        self.sounds, self.espeaks = sounds, espeaks  # espeak-ng's voices are in one part only
        self.rng = np.random.default_rng(0)  # until a clip brings its own
        self.groups: dict[tuple[str, str, str], list[list[Sound]]] = {}

    def has(self, kind: str, role: str = "") -> bool:
        """Whether there are sounds of a kind."""
        return bool(self._grouped(kind, role, "row"))

    def some(self, kind: str, role: str = "", by: str = "row") -> list[Sound]:
        """All sounds of one source of a kind: large sources come more often, but not in proportion."""
        groups = self._grouped(kind, role, by)
        weights = np.sqrt([len(group) for group in groups])
        return groups[self.rng.choice(len(groups), p=weights / weights.sum())]

    def _grouped(self, kind: str, role: str, by: str) -> list[list[Sound]]:
        key = (kind, role, by)
        if key not in self.groups:
            found: dict[str, list[Sound]] = {}
            for each in self.sounds:
                if each.kind == kind and (not role or role in each.roles):
                    found.setdefault(getattr(each, by), []).append(each)
            self.groups[key] = list(found.values())
        return self.groups[key]

    def one(self, kind: str, role: str = "") -> Sound:
        """A sound of a kind."""
        found = self.some(kind, role)
        return found[self.rng.integers(len(found))]

    def speaker(self) -> list[Sound]:
        """Some speech of one folder, which mostly is one speaker's."""
        drawn = self.one("speech")
        (found,) = (group for group in self._grouped("speech", "", "folder") if group[0].folder == drawn.folder)
        return [found[i] for i in self.rng.choice(len(found), min(5, len(found)), replace=False)]


def pick(rng: Rng, **weights: float) -> str:
    """A name, drawn by weight."""
    total = np.array(list(weights.values()))
    return str(rng.choice(list(weights), p=total / total.sum()))
