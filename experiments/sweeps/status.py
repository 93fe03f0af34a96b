"""What is known of one point of a sweep: a small file in its directory, and a lock that lives as long as its run."""

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tracegrad.atomic import replacing
from tracegrad.errors import TrainingError

FILE = "status.json"
LOCK = ".lock"
LOG = "train.log"
WAITING, RUNNING, FINISHED, FAILED, STOPPED = "waiting", "running", "finished", "failed", "stopped"


@dataclass(frozen=True)
class Status:
    """State of a point; ``pid`` leads the process group of its run, ``child`` is the training in it."""

    status: str = WAITING
    attempts: int = 0
    error: str = ""
    device: str = ""
    host: str = ""
    pid: int | None = None
    child: int | None = None
    job: str = ""
    started: str | None = None
    ended: str | None = None


def read_status(directory: Path) -> Status:
    """The status that a point's own process has written; waiting where there is none.

    Raises:
        TrainingError: the file is damaged.
    """
    path = directory / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Status(**{entry.name: values[entry.name] for entry in fields(Status)})
    except FileNotFoundError:
        return Status()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path}: not a status of a run ({error}); remove it") from error


def write_status(directory: Path, status: Status) -> None:
    """Replace the status of a point; only the process that holds its lock does this."""
    with replacing(directory / FILE) as draft:
        draft.write_text(json.dumps(asdict(status), indent=2) + "\n", encoding="utf-8")


def take_lock(path: Path, patience: float = 0.0) -> int | None:
    """Descriptor of a lock that lasts until the last process that has it ends, or None if it is taken.

    The kernel gives it back however a process ends, so that a crash or a reboot leaves nothing behind.

    Args:
        path: file of the lock, made if missing.
        patience: seconds to wait for it.

    Raises:
        TrainingError: the file system knows no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(descriptor)
                return None
            time.sleep(0.05)
        except OSError as error:
            os.close(descriptor)
            raise TrainingError(
                f"{path}: cannot be locked ({error.strerror}); put the runs on a file system with flock"
            ) from error


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock."""
    if not path.exists():
        return False
    descriptor = take_lock(path)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False
