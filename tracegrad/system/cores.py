"""How many cores this process may use."""

import os


def available_cores() -> int:
    """Cores of this process: those of its affinity mask where the system knows one (Linux), else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
