"""What a SLURM job of a sweep runs; it imports nothing large, because every job does."""

import os
import signal
import subprocess
from collections.abc import Sequence
from types import FrameType

import submitit


class Task:
    """One job: the process around a point, which is stopped and queued again when its time is over."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run the point; its status is in its directory."""
        job = submitit.JobEnvironment().job_id
        end = self.command.index("--")
        self._process = subprocess.Popen([*self.command[:end], "--job", job, *self.command[end:]])
        signal.signal(signal.SIGTERM, self._forward)
        return self._process.wait()

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Stop the training, which saves, and say what is to be queued: the same once more."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            # Called by a signal in the middle of wait(), whose lock is held: look without reaping.
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(Task(self.command))

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        if self._process is not None:
            self._process.send_signal(number)
