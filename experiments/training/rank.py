"""Rank of this process in a distributed run."""

import os
import sys


def process_rank() -> int:
    """Rank of this process in a distributed run, before and after the trainer is built; 0 in a single process.

    Before the trainer is built, the first process of a further node that was started by hand knows only NODE_RANK.
    """
    # Looked up and not imported: what starts trainings needs no Lightning, which takes seconds.
    lightning = sys.modules.get("lightning.pytorch.utilities")
    rank = getattr(lightning.rank_zero_only, "rank", 0) if lightning else 0
    return int(rank) or int(os.environ.get("NODE_RANK", 0))
