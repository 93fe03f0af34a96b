"""The process around one point of a sweep: starts its training, tries again, and writes its status.

  python -m experiments.sweeps.attempt [--retries N] [--result FILE] [--job ID] DIRECTORY -- COMMAND ...

The same for local sweeps and SLURM. It imports nothing large, because there is one beside every training.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from experiments.sweeps.status import (
    FAILED,
    FINISHED,
    KIND,
    LOG,
    RUNNING,
    STOPPED,
    Status,
    read_log,
    read_status,
    write_status,
)
from tracegrad.errors import InUseError, TraceGradError
from tracegrad.system.ownership import Ownership, take_ownership

BUSY = 75  # exit status: another process owns the directory
# Exit statuses of a training that SIGTERM or SIGINT has ended.
STOP_CODES = (-signal.SIGTERM, 128 + signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGINT)
# Not passed on to the training, which starts its ranks itself, also in a job of SLURM.
SLURM_RANKS = ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID")
ERROR = re.compile(r"^error: (.+)$", re.MULTILINE)


class Attempts:
    """Runs ``command`` until it has finished, was stopped, has failed ``retries`` + 1 times or twice by one error.

    Args:
        retries: tries after the first.
        result: file in ``directory`` that a finished run leaves; None: a run that exits with 0 is finished.
        job: SLURM job, for the status file.
    """

    def __init__(
        self, directory: Path, command: Sequence[str], retries: int, result: str | None, job: str
    ) -> None:
        self.directory, self.command = directory, list(command)
        self.retries, self.result, self.job = retries, result, job
        self.stopping = False
        self.child: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Run the point; the exit status is 0: finished, 1: failed or stopped, `BUSY`: another process runs it."""
        try:
            ownership = take_ownership(self.directory, KIND, command=" ".join(self.command))
        except TraceGradError as error:
            print(f"error: {error}", file=sys.stderr)
            return BUSY if isinstance(error, InUseError) else 1
        with ownership:
            signal.signal(signal.SIGTERM, self._stop)
            signal.signal(signal.SIGINT, self._stop)
            # SLURM warns every process of a job before its time limit; the job itself answers, with SIGTERM.
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            with (self.directory / LOG).open("ab") as log:  # not before: the log may belong to another owner
                os.dup2(log.fileno(), sys.stderr.fileno())
            status = read_status(self.directory)
            last_error = None
            for _ in range(self.retries + 1):
                status, user_error = self._attempt(status, ownership)
                if status.status != FAILED or self.stopping or (user_error and user_error == last_error):
                    break
                last_error = user_error
        return 0 if status.status == FINISHED else 1

    def _attempt(self, status: Status, ownership: Ownership) -> tuple[Status, str | None]:
        """Try once; the status afterwards, and the last ``error: ...`` of the log, if any."""
        earlier_result = self._result()
        environment = {name: value for name, value in os.environ.items() if name not in SLURM_RANKS}
        status = Status(
            RUNNING,
            status.attempts + 1,
            device=os.environ.get("CUDA_VISIBLE_DEVICES", ""),
            host=socket.gethostname(),
            pid=os.getpid(),
            job=self.job,
            started=_now(),
        )
        with (self.directory / LOG).open("ab") as output:
            start = output.tell()
            # The training owns the directory, too: it stays owned if only this process is killed.
            self.child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment | ownership.shared,
                pass_fds=[ownership.descriptor],
            )
        if self.stopping:
            self.child.terminate()
        write_status(self.directory, replace(status, child=self.child.pid))
        code = self.child.wait()
        text = read_log(self.directory, start)
        outcome = self._outcome(code, earlier_result)
        error = "" if outcome == FINISHED else _reason(text, code, outcome)
        status = replace(status, status=outcome, error=error, ended=_now())
        write_status(self.directory, status)
        return status, next(reversed(ERROR.findall(text)), None)

    def _outcome(self, code: int, earlier_result: tuple[int, int] | None) -> str:
        finished = code == 0 and not self.stopping
        if self.result is not None:  # that of a shorter training may have been there before
            result = self._result()
            finished = result is not None and (code == 0 or result != earlier_result)
        if finished:
            return FINISHED
        return STOPPED if self.stopping or code == 0 or code in STOP_CODES else FAILED

    def _result(self) -> tuple[int, int] | None:
        """Inode and time of the file of the result, which differ for another one; None where there is none."""
        if self.result is None or not (self.directory / self.result).exists():
            return None
        file = (self.directory / self.result).stat()
        return file.st_ino, file.st_mtime_ns

    def _stop(self, _signal: int, _frame: object) -> None:
        self.stopping = True
        if self.child is not None:
            self.child.terminate()


def _reason(text: str, code: int, outcome: str) -> str:
    """Why a run has no result: the signal that ended it, the last ``error: ...`` of its log, or the last line."""
    if outcome == STOPPED:
        return "stopped before its end"
    if code < 0:
        memory = "; was the memory full?" if code == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{memory}"
    lines = ERROR.findall(text) or [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else f"no output, exit status {code}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def main() -> None:
    """Run the point that the command line describes."""
    parser = argparse.ArgumentParser(prog="python -m experiments.sweeps.attempt")
    parser.add_argument("--retries", type=int, default=0)
    parser.add_argument("--result", default=None)
    parser.add_argument("--job", default="")
    parser.add_argument("directory", type=Path)
    parser.add_argument("command", nargs="+")
    sys.exit(Attempts(**vars(parser.parse_args())).run())


if __name__ == "__main__":
    main()
