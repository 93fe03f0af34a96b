"""Exclusive use of a run directory: one training at a time, whatever has started it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.training.rank import process_rank
from tracegrad.errors import InUseError
from tracegrad.system.ownership import inherit_ownership, read_owner, take_ownership

# Environment variable by which the processes that Lightning starts for further ranks know the owner.
_TOKEN = "TRACEGRAD_OWNER_TOKEN"
# Environment variables that are equal on all ranks of one launch by srun, torchrun or, on several machines, the user.
_LAUNCH = ("SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def owned(directory: Path) -> Iterator[None]:
    """A block in which this training owns the run directory; the first rank owns it for all ranks.

    Raises:
        InUseError: another training runs there; nothing in the directory was changed.
    """
    launch = "/".join(os.environ.get(name, "") for name in _LAUNCH)
    if process_rank() != 0:
        _refuse_others(directory, launch)
        yield
        return
    # In a sweep the process that has started this one may own the directory already.
    with inherit_ownership(directory) or take_ownership(
        directory, "training", launch=launch, report=_say
    ) as ownership:
        os.environ[_TOKEN] = ownership.owner.token
        try:
            yield
        finally:
            del os.environ[_TOKEN]


def _refuse_others(directory: Path, launch: str) -> None:
    """Raise `InUseError` on a further rank if the owner of the directory is alive and belongs to another launch.

    The first rank of this launch has then been refused, and this rank must not wait for it.
    """
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
