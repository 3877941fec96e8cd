"""Train, validation and test: at random as in the paper, balanced over roles, and without a shared uploader. Pure."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from looptagger.config import SPLITS
from looptagger.learn.loops import Loop
from looptagger.roles import ROLES

PARTS: Final = ("train", "validation", "test")
LARGEST = 10
"""A held-out part is at least so many times as large as its largest uploader's share."""
SPARE = 1.1
"""Loops of small uploaders, as a multiple of those wanted, from which on large ones are kept out of held-out parts."""
TRIES, TRIED = 40, 200_000
"""Random orders tried; the assignment nearest to the wanted shares is kept. Of many groups fewer orders differ in that:
no more than so many are dealt out in all.
"""


def splits(loops: Sequence[Loop], shares: Sequence[float], seed: int) -> dict[str, list[str]]:
    """The part of each loop, in the order given, in each of the three splits. The same loops and seed, the same parts.

    `paper`: at random. `stratified`: each role has the same shares, as near as they go. `grouped`: the same, all loops
    of one uploader are in one part, and no uploader is more than a tenth of a held-out one if the loops of the others
    can fill it: figures on one person's loops tell nothing of others'. Loops that come with a part keep it in all
    three; the others are dealt to train and to the parts that no loop came with, and in `grouped` follow those of
    their uploader that have one, into train where those have several.
    """
    fixed = [loop.part for loop in loops]
    open_to = [0.0 if part in fixed and part != PARTS[0] else share for part, share in zip(PARTS, shares, strict=True)]
    open_to = open_to if any(open_to) else [1.0, 0.0, 0.0]
    settled = {group: _followed(marked) for group, marked in _marked(loops).items()}
    follows = [loop.part or settled.get(loop.group) for loop in loops]
    return {name: _filled(loops, follows if name == "grouped" else fixed, open_to, seed, name) for name in SPLITS}


def _filled(
    loops: Sequence[Loop], fixed: Sequence[str | None], shares: Sequence[float], seed: int, split: str
) -> list[str]:
    """The loops' parts, of which some are fixed."""
    free = [loop for loop, part in zip(loops, fixed, strict=True) if not part]
    dealt = iter(_dealt_out(free, shares, seed, split))
    return [part or next(dealt) for part in fixed]


def _marked(loops: Sequence[Loop]) -> dict[str, set[str]]:
    """Uploaders, each with the parts that loops of theirs came with."""
    found: dict[str, set[str]] = {}
    for loop in loops:
        if loop.part:
            found.setdefault(loop.group, set()).add(loop.part)
    return found


def _followed(marked: set[str]) -> str:
    """The part that other loops of an uploader follow."""
    return PARTS[0] if len(marked) > 1 else next(iter(marked))


def carried(loops: Sequence[Loop]) -> tuple[int, int]:
    """What given parts do to `grouped`: loops that follow others out of training, and uploaders on two sides."""
    marked = _marked(loops)
    followed = sum(not loop.part and _followed(marked.get(loop.group, set(PARTS))) != PARTS[0] for loop in loops)
    return followed, sum(len(parts) > 1 for parts in marked.values())


def _dealt_out(loops: Sequence[Loop], shares: Sequence[float], seed: int, split: str) -> list[str]:
    """The parts of loops in a split."""
    if not loops:
        return []
    order = sorted(range(len(loops)), key=lambda i: loops[i].id)
    labels = np.array([[role in loops[i].roles for role in ROLES] for i in order], float)
    groups = [loops[i].group if split == "grouped" else loops[i].id for i in order]
    parts = _random(len(loops), shares, seed) if split == "paper" else _balanced(labels, groups, shares, seed)
    return [PARTS[part] for part in parts[np.argsort(order)]]


def _random(count: int, shares: Sequence[float], seed: int) -> NDArray[np.int64]:
    ends = np.rint(np.cumsum(shares)[:-1] / sum(shares) * count)
    parts = np.searchsorted(ends, np.arange(count), side="right")
    return parts[np.random.default_rng(seed).permutation(count)]


def _balanced(
    labels: NDArray[np.float64], groups: Sequence[str], shares: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """A part for each loop, whole groups together, so that loops and roles come near to their shares."""
    names, member = np.unique(np.array(groups), return_inverse=True)
    counts = np.zeros((len(names), 1 + labels.shape[1]))
    np.add.at(counts, member, np.column_stack([np.ones(len(labels)), labels]))
    wanted = np.outer(np.array(shares) / sum(shares), counts.sum(axis=0)) + 1e-9
    several = range(max(1, min(TRIES, TRIED // len(names))))
    tries = [_dealt(counts, wanted, np.random.default_rng([seed, i])) for i in several]
    _, parts = min(tries, key=lambda each: each[0])
    return parts[member]


def _barred(sizes: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n_groups, n_parts): groups too large for a held-out part, where smaller ones can fill those."""
    barred: NDArray[np.bool_] = sizes[:, None] > np.maximum(1, wanted / LARGEST)
    barred[:, PARTS.index("train")] = False
    held_out = wanted[1:].sum()
    is_enough = np.array([sizes[~large].sum() >= SPARE * held_out for large in barred.T])
    barred &= is_enough
    return barred


def _dealt(
    counts: NDArray[np.float64], wanted: NDArray[np.float64], rng: np.random.Generator
) -> tuple[float, NDArray[np.int64]]:
    """Deal out groups, large ones first, each to the part that it brings nearest to what is wanted (chi-square)."""
    barred = _barred(counts[:, 0], wanted[:, 0])
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order, 0], kind="stable")]
    have = np.zeros_like(wanted)
    parts = np.empty(len(counts), np.int64)
    for group in order:
        gain = (counts[group] * (2 * (have - wanted) + counts[group]) / wanted).sum(axis=1)
        parts[group] = np.argmin(np.where(barred[group], np.inf, gain))
        have[parts[group]] += counts[group]
    return float(((have - wanted) ** 2 / wanted).sum()), parts
