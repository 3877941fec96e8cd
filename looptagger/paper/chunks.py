"""Features of a data set's loops as the classic systems take them, and loops' scores out of those of their chunks."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from looptagger.errors import UserError
from looptagger.learn import table
from looptagger.learn.metrics import Floats, Truth
from looptagger.paper import features


@dataclass(frozen=True)
class Loops:
    """Some loops: ids, truth (n, 6), features (m, 104) of their chunks, and each chunk's loop (m,)."""

    ids: list[str]
    truth: Truth
    features: Floats
    loop: NDArray[np.int64]

    @property
    def labels(self) -> Truth:
        """Each chunk's roles (m, 6): its loop's."""
        found: Truth = self.truth[self.loop]
        return found

    @property
    def unheard(self) -> int:
        """Loops of which no chunk has features."""
        return len(self.ids) - len(np.unique(self.loop))

    def scores(self, system: Callable[[Floats], Floats], without: Floats) -> Floats:
        """A system's scores (n, 6): the mean over a loop's chunks; `without` (6,) for a loop that has none."""
        count = np.bincount(self.loop, minlength=len(self.ids))
        sums = np.zeros((len(self.ids), self.truth.shape[1]))
        np.add.at(sums, self.loop, system(self.features))
        return np.where(count[:, None], sums / np.maximum(count, 1)[:, None], without).astype(np.float32)


def gather(pairs: Iterable[tuple[pa.Table, pa.Table]], kind: str) -> Loops:
    """Loops out of (rows of the data set, the features of their file), and what was heard of them."""
    ids: list[str] = []
    truth, numbers, owners = [np.zeros((0, 6), bool)], [np.zeros((0, len(features.NAMES)), np.float32)], [_NOBODY]
    for rows, found in pairs:
        is_known = pc.is_in(rows.column("id"), found.column("id").combine_chunks())
        if not pc.all(is_known, min_count=0).as_py():  # of no loops, all are
            raise UserError(
                "the stored features are of these loops in other files, as of a data set that was prepared again; "
                "delete the output's features/ and run the same command."
            )
        mine = found.filter(pc.and_(pc.equal(found.column("heard"), kind), pc.is_null(found.column("error"))))
        owner = pc.index_in(mine.column("id"), rows.column("id").combine_chunks())
        mine, owner = mine.filter(pc.is_valid(owner)), pc.drop_null(owner)
        owners.append(owner.to_numpy().astype(np.int64) + len(ids))
        numbers.append(features.matrix(mine))
        truth.append(table.truth(rows))
        ids += rows.column("id").to_pylist()
    return Loops(ids, np.concatenate(truth), np.concatenate(numbers), np.concatenate(owners))


_NOBODY = np.zeros(0, np.int64)
