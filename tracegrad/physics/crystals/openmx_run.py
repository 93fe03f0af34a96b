"""Runs OpenMX calculations in parallel, each in its own folder, and reads how they ended.

A folder contains `openmx.dat` (input) and after the calculation `openmx.std` (what OpenMX printed), `openmx.out` (the
history of the SCF, written at the end) and `openmx.scfout` (H and S).
"""

import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracegrad.errors import ConfigError, GenerationError
from tracegrad.physics.crystals.openmx_input import SYSTEM

INPUT, PRINTED, OUT, SCFOUT = (f"{SYSTEM}.{end}" for end in ("dat", "std", "out", "scfout"))
_CYCLE = re.compile(r"^\s*SCF=\s*(\d+)\s+NormRD=\s*(\S+)\s+Uele=", re.MULTILINE)
_VERSION = re.compile(r"performed by OpenMX Ver\.\s*(\S+)")
_LIBC = ctypes.CDLL(None)
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux
_GRACE = 5.0  # seconds from SIGTERM to SIGKILL


@dataclass(frozen=True)
class OpenmxOutcome:
    """The end of a finished calculation, from `openmx.out`: SCF cycles, last NormRD, version of OpenMX."""

    cycles: int
    residual: str
    version: str | None


@dataclass(frozen=True)
class Program:
    """How OpenMX is called.

    Args:
        executable: absolute path of the program.
        launcher: words that precede it, such as ``mpirun -np 4``.
        threads: of each process.
        time_limit: of a calculation, seconds; None for no limit.
    """

    executable: Path
    launcher: tuple[str, ...] = ()
    threads: int = 1
    time_limit: float | None = None

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ConfigError(f"threads={self.threads} has to be at least 1")
        if self.time_limit is not None and not self.time_limit > 0:
            raise ConfigError(f"time_limit={self.time_limit} has to be a number of seconds above 0")

    @property
    def command(self) -> list[str]:
        """The words of the command line, to be run in the folder of a calculation."""
        return [*self.launcher, str(self.executable), INPUT, "-nt", str(self.threads)]

    def default_data_path(self) -> Path | None:
        """The folder DFT_DATA19 of the installation, beside the folder of the program; None if it does not exist."""
        path = self.executable.resolve().parent.parent / "DFT_DATA19"
        return path if path.is_dir() else None


def find_program(
    openmx: str | None, *, launcher: str | None = None, threads: int = 1, time_limit: float | None = None
) -> Program | None:
    """The OpenMX program.

    Args:
        openmx: path or name; None looks for ``openmx`` on the PATH, and returns None if it is not there.
        launcher, threads, time_limit: see `Program`.

    Raises:
        ConfigError: ``openmx`` or the launcher does not exist.
    """
    executable = shutil.which(openmx or "openmx")
    if executable is None:
        if openmx is not None:
            raise ConfigError(f"openmx={openmx}: no such program that can be run; give its path or name")
        return None
    words = tuple(shlex.split(launcher or ""))
    if words and shutil.which(words[0]) is None:
        raise ConfigError(
            f"launcher={launcher}: there is no program {words[0]}; give a command such as 'mpirun -np 4'"
        )
    return Program(Path(executable).absolute(), words, threads, time_limit)


def read_outcome(folder: Path) -> OpenmxOutcome | None:
    """How the calculation in a folder ended; None if it is not finished."""
    if not (folder / SCFOUT).is_file():
        return None
    try:
        text = (folder / OUT).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    cycles = _CYCLE.findall(text)
    if not cycles:
        return None
    version = _VERSION.search(text)
    return OpenmxOutcome(int(cycles[-1][0]), cycles[-1][1], version[1] if version else None)


def last_words(folder: Path) -> str:
    """The last line that OpenMX printed, as a clause for messages."""
    try:
        with (folder / PRINTED).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return "it printed nothing"
    printed = [line.strip() for line in lines if line.strip()]
    return f"it last printed {printed[-1][:200]!r}" if printed else "it printed nothing"


@dataclass(frozen=True)
class EndedCalculation:
    """A calculation that has ended: its key, its wall time, and the reason if it failed."""

    key: Any
    seconds: float
    failure: str | None


class Calculations:
    """The running calculations, as a context manager that stops all of them at its end."""

    def __init__(self, program: Program):
        self.program = program
        self._running: dict[Any, tuple[subprocess.Popen[bytes], Path, float]] = {}

    @property
    def count(self) -> int:
        """Number of running calculations."""
        return len(self._running)

    def start(self, key: Any, folder: Path) -> None:
        """Run OpenMX in a folder that holds its input."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.program.threads)}
        with (folder / PRINTED).open("wb") as printed:
            try:
                process = subprocess.Popen(
                    self.program.command,
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
                    f"{self.program.command[0]}: cannot be run ({error.strerror}); correct openmx or launcher"
                ) from error
        self._running[key] = (process, folder, time.monotonic())

    def ended(self) -> Iterator[EndedCalculation]:
        """The calculations that have ended since the last call, by themselves or because of the time limit."""
        limit = self.program.time_limit
        for key, (process, folder, start) in list(self._running.items()):
            status, seconds = process.poll(), time.monotonic() - start
            if status is None and (limit is None or seconds < limit):
                continue
            del self._running[key]
            if status is None:
                _end([process])
                yield EndedCalculation(
                    key, seconds, f"stopped by time_limit={limit:g} seconds; {last_words(folder)}"
                )
                continue
            # A launcher may leave processes behind.
            _end([process])
            yield EndedCalculation(
                key, seconds, None if status == 0 else f"{_ending(status)}; {last_words(folder)}"
            )

    def __enter__(self) -> "Calculations":
        return self

    def __exit__(self, *_: object) -> None:
        _end([process for process, _, _ in self._running.values()])
        self._running.clear()


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


def _ending(status: int) -> str:
    if status < 0:
        return f"OpenMX was killed by {signal.Signals(-status).name}"
    return f"OpenMX ended with status {status}"


def _end_with_parent() -> None:
    """Called in the child process: lets Linux send it SIGTERM when this process ends, even by SIGKILL."""
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(_DEATH_SIGNAL, signal.SIGTERM)
