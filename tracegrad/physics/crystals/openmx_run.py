"""Running OpenMX in folders of its own, several at a time, and what its outputs say.

A folder holds `openmx.dat`, and after a calculation `openmx.std` (what OpenMX printed), `openmx.out` (the history of
the SCF, written at the end) and `openmx.scfout` (H and S).
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
_GRACE = 5.0  # seconds between asking processes to end and killing them


@dataclass(frozen=True)
class OpenmxOutcome:
    """What `openmx.out` says of a finished calculation: cycles of the SCF, and the version of OpenMX."""

    cycles: int
    residual: str
    version: str | None


@dataclass(frozen=True)
class Program:
    """How OpenMX is called.

    Args:
        executable: absolute path of the program.
        launcher: words before it, such as ``mpirun -np 4``.
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
        return [*self.launcher, str(self.executable), INPUT, "-nt", str(self.threads)]

    def default_data_path(self) -> Path | None:
        """The data base beside the source or work folder of an installation, where OpenMX's makefile leaves it."""
        path = self.executable.resolve().parent.parent / "DFT_DATA19"
        return path if path.is_dir() else None


def find_program(
    openmx: str | None, *, launcher: str | None = None, threads: int = 1, time_limit: float | None = None
) -> Program | None:
    """OpenMX as a path or a name; None looks for ``openmx`` on the PATH and gives None where it is not.

    Raises:
        ConfigError: a program or launcher that was asked for is not there.
    """
    found = shutil.which(openmx or "openmx")
    if found is None:
        if openmx is not None:
            raise ConfigError(f"openmx={openmx}: no such program that can be run; give its path or name")
        return None
    words = tuple(shlex.split(launcher or ""))
    if words and shutil.which(words[0]) is None:
        raise ConfigError(f"launcher={launcher}: there is no program {words[0]}; give such as 'mpirun -np 4'")
    return Program(Path(found).absolute(), words, threads, time_limit)


def read_outcome(folder: Path) -> OpenmxOutcome | None:
    """What a calculation came to; None where it is not finished."""
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
    """The last line that OpenMX printed, for messages."""
    try:
        with (folder / PRINTED).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return "it printed nothing"
    said = [line.strip() for line in lines if line.strip()]
    return f"it last printed {said[-1][:200]!r}" if said else "it printed nothing"


@dataclass(frozen=True)
class EndedCalculation:
    """A calculation that ended: its seconds, and the reason where it failed."""

    key: Any
    seconds: float
    failure: str | None


class Calculations:
    """Running calculations, all of which are ended when the block is left."""

    def __init__(self, program: Program):
        self.program = program
        self._running: dict[Any, tuple[subprocess.Popen[bytes], Path, float]] = {}

    @property
    def count(self) -> int:
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
        """The calculations that have ended by now, by themselves or by the time limit."""
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
            # Processes of a launcher may outlive it.
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
    """Ask the processes and their children to end, and kill what does not."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    # The session of the process has its number; it is gone when no process of it is left.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _ending(status: int) -> str:
    if status < 0:
        return f"OpenMX was killed by {signal.Signals(-status).name}"
    return f"OpenMX ended with status {status}"


def _end_with_parent() -> None:
    """Called in the child: it gets SIGTERM when this process ends, even if by SIGKILL (Linux)."""
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(_DEATH_SIGNAL, signal.SIGTERM)
