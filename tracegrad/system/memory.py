"""Memory that this process may use."""

import os
import re
from pathlib import Path

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def available_memory() -> int:
    """Bytes that are free or can be freed (Linux), at most the limit of a container; elsewhere all memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return total
    match = re.search(r"^MemAvailable:\s*(\d+) kB", text, re.MULTILINE)
    free = int(match[1]) * 1024 if match else total
    for limit in _LIMITS:
        try:
            free = min(free, int(limit.read_text(encoding="ascii")))
        except (OSError, ValueError):  # another version of control groups, or "max": no limit
            continue
    return free
