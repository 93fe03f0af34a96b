"""What a SLURM job of a sweep runs; it imports nothing large, because there is one beside every training."""

import os
import signal
import subprocess
from collections.abc import Sequence
from types import FrameType

import submitit


class Task:
    """The job of one point; before its time limit the training is stopped and the job is queued again.

    Args:
        command: of the process around the point, see `attempt_command`.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run the point, and return the exit status of the process around it."""
        job = submitit.JobEnvironment().job_id
        end = self.command.index("--")
        self._process = subprocess.Popen([*self.command[:end], "--job", job, *self.command[end:]])
        signal.signal(signal.SIGTERM, self._forward)
        return self._process.wait()

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Stop the training, which saves its state, and return the job that is to be queued: the same again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            # A signal has interrupted wait(), which holds a lock: await the end without collecting the status.
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(Task(self.command))

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        if self._process is not None:
            self._process.send_signal(number)
