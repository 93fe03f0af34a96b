"""One training in a run directory at a time, whatever has started it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.training.provenance import process_rank
from tracegrad.errors import InUseError
from tracegrad.system.ownership import inherit_ownership, read_owner, take_ownership

# Tells the processes that Lightning starts for further ranks whose they are.
_TOKEN = "TRACEGRAD_OWNER_TOKEN"
# What srun, torchrun and, for several machines, the user tell all ranks of a launch.
_LAUNCH = ("SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def owned(directory: Path) -> Iterator[None]:
    """A block in which the run directory belongs to this training; its first rank holds it for all.

    Raises:
        InUseError: another training runs there; nothing was touched.
    """
    launch = "/".join(os.environ.get(name, "") for name in _LAUNCH)
    if process_rank() != 0:
        _refuse_others(directory, launch)
        yield
        return
    # The process around a point of a sweep owns the directory already.
    with inherit_ownership(directory) or take_ownership(
        directory, "training", launch=launch, report=_say
    ) as ownership:
        os.environ[_TOKEN] = ownership.owner.token
        try:
            yield
        finally:
            del os.environ[_TOKEN]


def _refuse_others(directory: Path, launch: str) -> None:
    """A further rank does not wait for a first one that was refused: it leaves when another launch's owner lives."""
    first = owner = read_owner(directory)
    until = time.monotonic() + (3 * owner.every if owner else 0)
    while owner is not None and owner.launch != launch and owner.token != os.environ.get(_TOKEN):
        if (owner.token, owner.beat) != (first.token, first.beat):  # type: ignore[union-attr]
            raise InUseError(f"{directory} is in use by {owner}")
        if time.monotonic() > until:
            return
        time.sleep(owner.every / 10)
        owner = read_owner(directory)


def _say(line: str) -> None:
    print(line, flush=True)
