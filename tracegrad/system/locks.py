"""Locks on files, which the operating system gives back however a process ends.

A lock is a file that a process holds open with ``flock``. A crash or a reboot leaves the file and no lock, so that
nobody ever has to remove one. On network file systems ``flock`` holds between machines only where the mount supports
it (NFS 4 and Lustre with ``flock`` do).
"""

import os
import time
from pathlib import Path

from tracegrad.errors import TraceGradError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class NoLocks(TraceGradError):
    """A file system without ``flock``, such as Lustre mounted without it."""


def take_lock(path: Path, patience: float = 0.0) -> int | None:
    """Descriptor of a lock that lasts until the last process that has it ends, or None if it is taken.

    Args:
        path: file of the lock, made if missing; its content is left alone.
        patience: seconds to wait for it.

    Raises:
        NoLocks: the file system knows none.
        OSError: the file cannot be made or opened.
    """
    _require_flock(path)
    until = time.monotonic() + patience
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if time.monotonic() >= until:
                return None
            time.sleep(0.05)
        except OSError as error:
            os.close(descriptor)
            raise _no_locks(path, error) from error
        else:
            if _is_file(descriptor, path):
                return descriptor
            os.close(descriptor)  # its last holder has removed or renamed it since it was opened


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock. Several may ask at once, and a file that may only be read is enough.

    Raises:
        NoLocks: the file system knows none.
        TraceGradError: the file cannot be read.
    """
    _require_flock(path)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise TraceGradError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        raise _no_locks(path, error) from error
    finally:
        os.close(descriptor)
    return False


def _require_flock(path: Path) -> None:
    if fcntl is None:
        raise TraceGradError(f"{path}: Windows has no flock; run TraceGrad on Linux, macOS or in WSL")


def _no_locks(path: Path, error: OSError) -> NoLocks:
    return NoLocks(f"{path}: cannot be locked ({error.strerror}); use a file system with flock")


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
