"""Identity of processes and machines: process numbers are reused, and machines may share a name."""

import socket
import subprocess
import sys
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def machine_id() -> str:
    """Identity of the running kernel, which differs between machines of the same name; else the name of the host."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def start_time(pid: int) -> str | None:
    """Start time of a process of this machine, as the system prints it; None if it does not run."""
    if sys.platform == "linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return None
        state, *others = stat.rpartition(b")")[2].split()
        return None if state in (b"Z", b"X") else others[18].decode("ascii")  # clock ticks since boot
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
