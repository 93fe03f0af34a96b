"""Which molecules of a test an acceleration is measured on."""

import numpy as np
from jaxtyping import Int

from tracegrad.data.qh9.database import SPLIT_NAMES, QH9Database

RELEASED_COUNT = 50
SEED = 43


def chosen_rows(database: QH9Database, rows: Int[np.ndarray, " rows"], count: int) -> Int[np.ndarray, " _"]:
    """``count`` rows of a test, all of them where there are fewer; in the order in which they were drawn.

    On a released file they are drawn as the benchmark does, from the rows that are in the test parts of both of its
    splits: 50 of them are exactly those of the benchmark. On other databases, and where those rows are not tested
    here, the same generator draws from ``rows``.
    """
    pool = np.unique(rows)
    if database.release:
        first, second = (database.split(name)["test"] for name in SPLIT_NAMES[database.flavour])
        common = np.intersect1d(first, second)
        if np.isin(common, pool).all():
            pool = common
    return np.random.default_rng(SEED).choice(pool, min(count, len(pool)), replace=False)
