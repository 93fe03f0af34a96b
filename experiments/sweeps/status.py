"""What is known of one point of a sweep: a small file in its directory."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tracegrad.errors import TrainingError
from tracegrad.system.whole_files import replacing

FILE = "status.json"
LOG = "train.log"
KIND = "training of a sweep"  # of the owner of a point's directory; one that was started by hand has another
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
    """Replace the status of a point; only the process that owns its directory does this."""
    with replacing(directory / FILE) as draft:
        draft.write_text(json.dumps(asdict(status), indent=2) + "\n", encoding="utf-8")
