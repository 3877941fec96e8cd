"""What runs a job's workers, as the job sees it: Ray, or this machine's cores alone."""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import pyarrow as pa

from looptagger.cluster.plan import Plan


@dataclass(frozen=True)
class Engine:
    """Workers that are there, or are started by the first block."""

    plan: Plan
    blocks: Callable[[], Generator[pa.Table]]
    """Tagged rows, in any order; some may come twice, where a worker was lost. Raises UserError for what a worker
    met and the user can mend."""
    waits: Callable[[], str]
    """Why no rows may come."""
    spilled: Callable[[], int]
    """Bytes of decoded audio that were written to disk for want of memory."""
