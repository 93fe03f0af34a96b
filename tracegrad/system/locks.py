"""Locks on files, which the operating system releases when a process ends in any way.

A process holds a lock as long as it keeps a file open with ``flock``. A crash or a reboot leaves the file but no
lock, so that nothing has to be removed by hand. On network file systems ``flock`` excludes other machines only if
the mount supports it (NFS 4 and Lustre with ``flock`` do).
"""

import fcntl
import os
import time
from pathlib import Path

from tracegrad.errors import TraceGradError


class NoLocks(TraceGradError):
    """A file system without ``flock``, such as Lustre mounted without it."""


def take_lock(path: Path, patience: float = 0.0) -> int | None:
    """Take a lock.

    Args:
        path: file of the lock; it is created if missing, its content is not changed.
        patience: seconds to wait for another process to release it.

    Returns:
        Descriptor of the locked file, or None if another process holds the lock. The lock lasts until all processes
        that share the descriptor have closed it or ended.

    Raises:
        NoLocks: the file system does not support locks.
        OSError: the file cannot be created or opened.
    """
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
            os.close(descriptor)  # the last holder removed or renamed the file after it was opened here


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock. Read permission is enough, and several processes may ask at the same time.

    Raises:
        NoLocks: the file system does not support locks.
        TraceGradError: the file cannot be read.
    """
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


def _no_locks(path: Path, error: OSError) -> NoLocks:
    return NoLocks(f"{path}: cannot be locked ({error.strerror}); use a file system with flock")


def _is_file(descriptor: int, path: Path) -> bool:
    """Whether the path still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
