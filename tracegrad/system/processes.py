"""Processes of this machine, told apart from later ones that get the same number."""

import socket
import subprocess
import sys
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def machine_id() -> str:
    """The running kernel, which two machines of one name do not share; the name of the host where it tells none."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def start_time(pid: int) -> str | None:
    """When a process of this machine has started, in the system's own words; None where there is none (any more)."""
    if sys.platform == "linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return None
        state, *others = stat.rpartition(b")")[2].split()
        return None if state in (b"Z", b"X") else others[18].decode("ascii")  # ticks since the boot
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
