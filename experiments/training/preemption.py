"""What is left to do when a signal has ended a training."""

import os
import signal
import subprocess
import sys
from typing import NoReturn

from callbacks.last_checkpoint import REQUEUE, TrainingStopped
from experiments.training.provenance import process_rank


def await_requeue() -> None:
    """In a SLURM job, leave at once when SLURM asks for room and there is nothing to save: before and after `fit`."""

    def leave(number: int, _: object) -> NoReturn:
        end_by_signal(TrainingStopped(number))

    if "SLURM_JOB_ID" in os.environ:
        signal.signal(REQUEUE, leave)


def end_by_signal(stop: TrainingStopped) -> NoReturn:
    """Say where the run goes on, put a SLURM job that is asked to make room into the queue again, and leave.

    The status is 128 + the number of the signal; 0 on all ranks but the first, whose launcher would otherwise kill
    it, and where the job is queued again.
    """
    if process_rank() != 0:
        sys.exit(0)
    print(stop, flush=True)
    if stop.number == REQUEUE and requeue():
        sys.exit(0)
    sys.exit(128 + stop.number)


def requeue() -> bool:
    """Ask SLURM to start this job again; False where it does not."""
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
