"""End of a training by a signal, and SLURM's request to make room for another job."""

import os
import signal
import subprocess
import sys
from typing import NoReturn

from callbacks.last_checkpoint import REQUEUE, TrainingStopped
from experiments.training.rank import process_rank


def end_on_requeue_signal() -> None:
    """In a SLURM job, let SLURM's signal to make room end the process at once.

    This holds before and after `fit`, when nothing has to be saved; within `fit`, `LastCheckpoint` handles the
    signal.
    """

    def leave(number: int, _: object) -> NoReturn:
        end_by_signal(TrainingStopped(number))

    if "SLURM_JOB_ID" in os.environ:
        signal.signal(REQUEUE, leave)


def end_by_signal(stop: TrainingStopped) -> NoReturn:
    """Print from which step the run can be resumed, requeue a SLURM job that has to make room, and exit.

    The exit status is 128 + the number of the signal, and 0 if the job is requeued. On ranks other than the first it
    is 0, because the launcher would otherwise kill the first rank.
    """
    if process_rank() != 0:
        sys.exit(0)
    print(stop, flush=True)
    if stop.number == REQUEUE and requeue():
        sys.exit(0)
    sys.exit(128 + stop.number)


def requeue() -> bool:
    """Ask SLURM to put this job into the queue again; returns whether it does."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip()
        print(f"job {job} could not be queued again ({reason}); give the same command again", file=sys.stderr)
        return False
    print(f"job {job} is queued again", flush=True)
    return True
