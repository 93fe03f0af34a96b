"""Warnings of libraries that do not apply to TraceGrad."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

UNWANTED = [
    # Advice of Lightning and torch on settings that were chosen on purpose.
    ".*does not have many workers.*",
    ".*GPU available but not used.*",
    ".*treespec, LeafSpec.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*number of training batches .* is smaller than the logging interval.*",
    # The metrics are summed over ranks before they are logged.
    ".*sync_dist=True.*",
    # Differences from the paper's data and remarks on data: `parts.build` prints them line by line.
    "not .* as the paper counts it",
    "data that may be wrong: .*",
]


@contextmanager
def quiet() -> Iterator[None]:
    """A block in which the warnings of `UNWANTED` are not shown."""
    with warnings.catch_warnings():
        for message in UNWANTED:
            warnings.filterwarnings("ignore", message=message)
        yield
