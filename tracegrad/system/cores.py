"""Number of cores that this process may use."""

import os


def available_cores() -> int:
    """Number of cores in the affinity mask of this process (Linux), elsewhere of all cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
