"""Labelled loops before their audio is read: what an annotated data set says of each, and what was dropped and why."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from looptagger.errors import UserError


@dataclass(frozen=True)
class Loop:
    """A loop, the roles that it plays, and where it comes from. Loops of one `uploader` resemble one another."""

    id: str
    uri: str
    roles: frozenset[str]
    uploader: str | None = None
    pack: str | None = None
    licence: str | None = None
    part: str | None = None
    """Train, validation or test, where whoever made the data says so; else it is dealt."""

    @property
    def group(self) -> str:
        """Loops of one group stay on one side of a grouped split: the uploader, else the pack, else the loop alone."""
        return f"uploader {self.uploader}" if self.uploader else f"pack {self.pack}" if self.pack else f"loop {self.id}"


@dataclass
class Drops:
    """Counts of dropped loops by reason, in the order met, with the first id of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, example: str) -> None:
        """Count one."""
        self.counts[reason] += 1
        self.examples.setdefault(reason, example)

    def kept(self, loops: Iterable[Loop], reason: str, is_kept: Callable[[Loop], bool]) -> list[Loop]:
        """The loops that are kept; the others are counted under the reason."""
        keeping = []
        for loop in loops:
            if is_kept(loop):
                keeping.append(loop)
            else:
                self.add(reason, loop.id)
        return keeping


@dataclass(frozen=True)
class Collection:
    """An annotated data set: its loops, how many were annotated, what was dropped, and the rule in words."""

    source: str
    rule: str
    annotated: int
    loops: list[Loop]
    drops: Drops


def with_uploaders(loops: Sequence[Loop]) -> list[Loop]:
    """The loops, where one names its pack only with the uploader whom others of the pack name, if that is one."""
    known: dict[str | None, set[str]] = {}
    for loop in loops:
        if loop.uploader and loop.pack:
            known.setdefault(loop.pack, set()).add(loop.uploader)
    alone = {pack: uploader for pack, (uploader, *others) in known.items() if not others}
    return [replace(loop, uploader=loop.uploader or alone.get(loop.pack)) for loop in loops]


def family(licence: str | None) -> str:
    """A licence's family: `cc0`, `by`, `by-nc`, `sampling+`; another's own name in lower case; `unknown`."""
    text = "-".join((licence or "unknown").lower().split()).removeprefix("cc-")
    if text.startswith("cc0"):
        return "cc0"
    head, _, version = text.rpartition("-")
    return head if head and version[:1].isdigit() else text


def short_licence(url: str | None) -> str | None:
    """A Creative Commons URL as its short name, `CC-BY-4.0`; any other text as it is."""
    if not url or "creativecommons.org/" not in url:
        return url or None
    parts = url.split("creativecommons.org/", 1)[1].strip("/").split("/")
    if parts[:2] == ["publicdomain", "zero"]:
        return "CC0-1.0"
    return "-".join(["CC", *(part.upper() if part != "sampling+" else "Sampling+" for part in parts[1:3])])


def with_licences(collection: Collection, families: Sequence[str]) -> Collection:
    """The loops under one of these licence families; all where none is given. Raises UserError if none is left."""
    if not families or not collection.loops:
        return collection
    wanted = {each.strip().lower().removeprefix("cc-") for each in families}
    loops = collection.drops.kept(collection.loops, "another licence", lambda loop: family(loop.licence) in wanted)
    if not loops:
        there = Counter(family(loop.licence) for loop in collection.loops)
        have = ", ".join(f"{name} ({count:,})" for name, count in there.most_common())
        raise UserError(
            f"{collection.source}: no loop has a licence of {', '.join(sorted(wanted))}; there are: {have}."
        )
    return replace(collection, loops=loops)
