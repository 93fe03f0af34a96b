"""What the process around one point of a sweep writes into its directory: status and log."""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tracegrad.errors import TrainingError
from tracegrad.system.text_files import write_json

FILE = "status.json"
LOG = "train.log"
KIND = (
    "training of a sweep"  # of the owner of a point's directory; a training started by hand has another kind
)
WAITING, RUNNING, FINISHED, FAILED, STOPPED = "waiting", "running", "finished", "failed", "stopped"
TAIL = 64 * 1024  # bytes at the end of a log that are read


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
    """The status that the process around a point has written; waiting where there is none.

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
    """Replace the status of a point; only the process that owns its directory does this."""
    write_json(directory / FILE, asdict(status))


def read_log(directory: Path, start: int = 0) -> str:
    """The end of a point's log from byte ``start`` on; nothing where there is no log."""
    try:
        with (directory / LOG).open("rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - TAIL))
            return file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
