"""Runs calculations of a DFT code in parallel, each as a process in its own folder."""

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tracegrad.errors import ConfigError, GenerationError
from tracegrad.physics.crystals.engine import Engine

_LIBC = ctypes.CDLL(None)
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux
_GRACE = 5.0  # seconds from SIGTERM to SIGKILL


@dataclass(frozen=True)
class ProgramSettings:
    """How the program of a DFT code is run.

    Args:
        launcher: command before the program, such as ``mpirun -np 4``.
        threads: OpenMP threads of each process.
        jobs: number of calculations at the same time.
        time_limit: of a calculation, seconds; None for no limit.
    """

    launcher: str | None = None
    threads: int = 1
    jobs: int = 1
    time_limit: float | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "jobs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} has to be at least 1")
        if self.time_limit is not None and not self.time_limit > 0:
            raise ConfigError(f"time_limit={self.time_limit} has to be a number of seconds above 0")
        words = shlex.split(self.launcher or "")
        if words and shutil.which(words[0]) is None:
            raise ConfigError(
                f"launcher={self.launcher}: there is no program {words[0]}; give a command such as 'mpirun -np 4'"
            )

    def command(self, engine: Engine) -> list[str] | None:
        """The words of the command line, to be run in the folder of a calculation; None without the program."""
        command = engine.command(self.threads)
        return None if command is None else [*shlex.split(self.launcher or ""), *command]


@dataclass(frozen=True)
class EndedCalculation:
    """A calculation that has ended: the name of its structure, its wall time, and the reason if it failed."""

    name: str
    seconds: float
    failure: str | None


class Calculations:
    """The running calculations, as a context manager that stops all of them at its end."""

    def __init__(self, engine: Engine, command: Sequence[str], settings: ProgramSettings):
        self.engine, self.command, self.settings = engine, list(command), settings
        self._running: dict[str, tuple[subprocess.Popen[bytes], Path, float]] = {}

    @property
    def count(self) -> int:
        """Number of running calculations."""
        return len(self._running)

    def start(self, name: str, folder: Path) -> None:
        """Run the command in a folder that holds its input."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.settings.threads)}
        with printed_file(self.engine, folder).open("wb") as printed:
            try:
                process = subprocess.Popen(
                    self.command,
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_end_with_parent,
                )
            except OSError as error:
                raise GenerationError(
                    f"{self.command[0]}: cannot be run ({error.strerror}); correct its path or the launcher"
                ) from error
        self._running[name] = (process, folder, time.monotonic())

    def ended(self) -> Iterator[EndedCalculation]:
        """The calculations that have ended since the last call, by themselves or because of the time limit."""
        limit = self.settings.time_limit
        for name, (process, folder, start) in list(self._running.items()):
            status, seconds = process.poll(), time.monotonic() - start
            if status is None and (limit is None or seconds < limit):
                continue
            del self._running[name]
            _end([process])  # a launcher may leave processes behind
            failure = None
            if status is None:
                failure = f"stopped by time_limit={limit:g} seconds"
            elif status < 0:
                failure = f"{self.engine.title} was killed by {signal.Signals(-status).name}"
            elif status > 0:
                failure = f"{self.engine.title} ended with status {status}"
            yield EndedCalculation(name, seconds, failure and f"{failure}; {last_words(self.engine, folder)}")

    def __enter__(self) -> "Calculations":
        return self

    def __exit__(self, *_: object) -> None:
        _end([process for process, _, _ in self._running.values()])
        self._running.clear()


def printed_file(engine: Engine, folder: Path) -> Path:
    """The file for what the program prints, such as openmx.std beside the input openmx.dat."""
    return (folder / engine.input_name).with_suffix(".std")


def last_words(engine: Engine, folder: Path) -> str:
    """The last line that the program printed, as a clause for messages."""
    try:
        with printed_file(engine, folder).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return "it printed nothing"
    printed = [line.strip() for line in lines if line.strip()]
    return f"it last printed {printed[-1][:200]!r}" if printed else "it printed nothing"


def _end(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Send SIGTERM to the processes and their children, and SIGKILL to those that do not end in time."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    # Each process leads a session, whose processes form the group of its number; it is gone when all have ended.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _end_with_parent() -> None:
    """Called in the child process: lets Linux send it SIGTERM when this process ends, even by SIGKILL."""
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(_DEATH_SIGNAL, signal.SIGTERM)
