"""Chooses the test molecules for which the acceleration of the SCF is measured."""

import numpy as np
from jaxtyping import Int

from tracegrad.data.qh9.database import SPLIT_NAMES, QH9Database

RELEASED_COUNT = 50  # molecules of the QH9 benchmark
SEED = 43  # of the QH9 benchmark


def chosen_rows(database: QH9Database, rows: Int[np.ndarray, " rows"], count: int) -> Int[np.ndarray, " _"]:
    """Draw ``count`` of the test ``rows`` at random (all if there are fewer), in the order in which they were drawn.

    On a released QH9 file they are drawn as the QH9 benchmark does, from the rows that belong to the test parts of
    both splits: 50 rows are exactly those of the benchmark. On other databases, and if ``rows`` does not contain all
    of those, the same generator draws from ``rows``.
    """
    pool = np.unique(rows)
    if database.release:
        first, second = (database.split(name)["test"] for name in SPLIT_NAMES[database.flavour])
        common = np.intersect1d(first, second)
        if np.isin(common, pool).all():
            pool = common
    return np.random.default_rng(SEED).choice(pool, min(count, len(pool)), replace=False)
