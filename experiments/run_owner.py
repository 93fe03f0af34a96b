"""One training in a run directory at a time, whatever has started it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.provenance import process_rank
from tracegrad.errors import InUseError
from tracegrad.system.ownership import Watch, inherit, own

# Descriptor of the ownership that the process around a point of a sweep passes on to its training.
DESCRIPTOR = "TRACEGRAD_OWNER"
# What srun, torchrun and, for several machines, the user tell all ranks of a launch.
_LAUNCH = ("SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def owned(directory: Path) -> Iterator[None]:
    """A block in which the run directory belongs to this training; its first rank holds it for all.

    Raises:
        InUseError: another training runs there; nothing was touched.
    """
    launch = "/".join(os.environ.get(name, "") for name in _LAUNCH)
    descriptor = os.environ.pop(DESCRIPTOR, None)
    if process_rank() != 0:
        _refuse_others(directory, launch)
        yield
        return
    shared = inherit(directory, int(descriptor)) if descriptor else None
    with shared or own(directory, "training", launch=launch, say=_say):
        yield


def _refuse_others(directory: Path, launch: str) -> None:
    """A further rank does not wait for a first one that was refused."""
    owner = Watch(directory).owner()
    if owner is not None and owner.launch != launch and os.getppid() not in owner.pids:
        raise InUseError(f"{directory} is in use by {owner}")


def _say(line: str) -> None:
    print(line, flush=True)
