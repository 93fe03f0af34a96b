"""A database of crystals from OpenMX: inputs, calculations and structure folders, continued where it was stopped.

An output folder holds

| entry                     | content                                                             |
|---------------------------|---------------------------------------------------------------------|
| ``settings.json``         | the settings and a hash of the inputs that it was begun with        |
| ``work/NAME/``            | input and outputs of a calculation                                  |
| ``structures/NAME/``      | the finished structure in the format of DeepH, with provenance.json |
| ``provenance.json``       | how the database was made, and what is in it and left out           |

Only `settings.json` is a state of its own: a structure is finished when its folder is there, and a calculation when
its outputs are.
"""

import fcntl
import json
import os
import platform
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ase
import numpy as np

from tracegrad import __version__
from tracegrad.atomic import replacing, sync
from tracegrad.data.deeph import Structure, write_structure
from tracegrad.data.openmx import read_scfout
from tracegrad.errors import ConfigError, DataError, GenerationError
from tracegrad.physics.crystals.openmx_input import OpenmxSettings, openmx_input
from tracegrad.physics.crystals.openmx_run import (
    INPUT,
    OUT,
    SCFOUT,
    Calculations,
    Outcome,
    Program,
    last_words,
    read_outcome,
)
from tracegrad.physics.crystals.settings import CrystalSettings, openmx_settings, resume_key
from tracegrad.physics.crystals.structures import CrystalStructure

_SAME_PLACE = 1e-5  # angstrom; inputs have 12 digits
_POLL = 0.1  # seconds


@dataclass(frozen=True)
class Progress:
    """How far a database is; what failed counts as done."""

    done: int
    running: int
    total: int


@dataclass(frozen=True)
class Summary:
    """What a call left: finished structures, those left out, and those without a calculation."""

    output: Path
    finished: int
    left_out: list[str]
    waiting: list[str]


def generate_crystals(
    structures: Sequence[CrystalStructure],
    settings: CrystalSettings,
    output: str | Path,
    program: Program | None,
    *,
    jobs: int = 1,
    strict: bool = False,
    keep_work: bool = True,
    command: str = "",
    report: Callable[[str], None] = print,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Summary:
    """Write inputs, run OpenMX, and convert what it has finished into structure folders.

    Continues an output folder that the same settings began. Without a program it writes the inputs and converts the
    calculations that were run otherwise.

    Args:
        structures: what to compute.
        settings: of the calculations; those of the structures belong to the provenance.
        output: folder of the database.
        program: OpenMX, or None.
        jobs: calculations at a time.
        strict: raise at the first calculation that fails, instead of leaving it out.
        keep_work: keep the folders of calculations that have been converted.
        command: how the provenance says that this was called.
        report: takes a line about each structure that is left out.
        on_progress: called at the start and whenever something ends.

    Raises:
        ConfigError: no place for the data of OpenMX is known, or files are missing there.
        GenerationError: the output is something else or was begun with other settings, another process works on
            it, nothing could be written, or the run was stopped by a signal.
    """
    output = Path(output)
    if jobs < 1:
        raise ConfigError(f"jobs={jobs} has to be at least 1")
    calculation = openmx_settings(settings)
    inputs = {
        entry.name: openmx_input(entry.atoms, replace(calculation, data_path=None)) for entry in structures
    }
    if program is not None:
        calculation = replace(calculation, data_path=str(_data_path(calculation, program, structures)))
    try:
        if output.exists() and not output.is_dir():
            raise GenerationError(f"{output} is no folder; output is the folder of the database")
        output.mkdir(parents=True, exist_ok=True)
        with _alone(output):
            _compare(output, resume_key(settings, inputs))
            run = _Run(structures, calculation, output, strict, keep_work, report, on_progress)
            run.run(program, jobs)
            return _release(run, settings, command)
    except OSError as error:
        raise GenerationError(f"{output}: the generation stopped ({error})") from error


def _data_path(calculation: OpenmxSettings, program: Program, structures: Sequence[CrystalStructure]) -> Path:
    """The folder of bases and pseudopotentials, checked to have what is needed."""
    given = calculation.data_path
    path = Path(given).absolute() if given else program.default_data_path()
    if path is None:
        raise ConfigError("data_path is needed: the folder DFT_DATA19 of OpenMX, with PAO and VPS in it")
    needed = dict.fromkeys(name for entry in structures for name in calculation.files(entry.atoms))
    missing = [name for name in needed if not (path / name).is_file()]
    if missing:
        raise ConfigError(
            f"data_path: {path} has no {', '.join(missing)}; give the folder DFT_DATA19 of OpenMX, or other bases"
        )
    return path


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Hold the output, so that no second process works on it; the lock goes with the process."""
    with (output / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise GenerationError(f"{output}: another process is working on this output") from error
        yield


def _compare(output: Path, key: dict[str, Any]) -> None:
    """Write the settings, or raise `GenerationError` where the output was begun with others."""
    path = output / "settings.json"
    wanted = json.loads(json.dumps(key))
    if not path.exists():
        foreign = sorted(entry.name for entry in output.iterdir() if entry.name != ".lock")
        if foreign:
            raise GenerationError(f"{output} holds {', '.join(foreign[:5])}; choose another output")
        with replacing(path) as draft:
            draft.write_text(json.dumps(wanted, indent=2) + "\n")
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        differing = [name for name in sorted({*stored, *wanted}) if stored.get(name) != wanted.get(name)]
    except (ValueError, TypeError, AttributeError) as error:
        raise GenerationError(
            f"{path}: not the settings of a database ({error}); choose another output"
        ) from error
    if differing:
        lines = [
            f"  {n}: {stored.get(n, 'not set')} there, {wanted.get(n, 'not set')} now" for n in differing
        ]
        raise GenerationError(
            f"{output} was begun with other settings:\n" + "\n".join(lines) + "\n"
            "go on with the settings it was begun with, or choose another output"
        )


class _Run:
    """Brings structures from inputs to folders, until nothing more can be done."""

    def __init__(
        self,
        structures: Sequence[CrystalStructure],
        calculation: OpenmxSettings,
        output: Path,
        strict: bool,
        keep_work: bool,
        report: Callable[[str], None],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.structures = {entry.name: entry for entry in structures}
        self.calculation, self.output = calculation, output
        self.strict, self.keep_work, self.report, self.on_progress = strict, keep_work, report, on_progress
        self.finished: dict[str, dict[str, Any]] = {}
        self.left_out: dict[str, str] = {}
        self.waiting: list[str] = []

    def run(self, program: Program | None, jobs: int) -> None:
        with _stop_signals() as stopped:
            queue: deque[str] = deque()
            self._progress(0)
            for name in self.structures:
                if stopped:
                    break
                if self._taken_up(name):
                    self._progress(0)
                else:
                    queue.append(name)
            if program is None:
                self.waiting = list(queue)
            elif queue:
                with Calculations(program) as calculations:
                    while (queue or calculations.count) and not stopped:
                        while queue and calculations.count < jobs:
                            name = queue.popleft()
                            self._write_input(name, afresh=True)
                            calculations.start(name, self._work(name))
                            self._progress(calculations.count)
                        for ended in calculations.ended():
                            self._take(ended.key, ended.failure, ended.seconds)
                            self._progress(calculations.count)
                        time.sleep(_POLL)
        if stopped:
            raise GenerationError(
                f"stopped by {signal.Signals(stopped[0]).name} after {len(self.finished)} of "
                f"{len(self.structures)} structures; run the same command again to go on"
            )

    def _taken_up(self, name: str) -> bool:
        """Whether a structure needs no calculation: it is finished, or outputs of one are there."""
        path = self.output / "structures" / name / "provenance.json"
        if path.exists():
            try:
                self.finished[name] = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise GenerationError(f"{path}: cannot be read ({error}); delete its folder") from error
            return True
        if read_outcome(self._work(name)) is not None:
            self._take(name, None, None)
            return True
        if self.calculation.data_path is not None or not (self._work(name) / INPUT).exists():
            self._write_input(name)
        return False

    def _work(self, name: str) -> Path:
        return self.output / "work" / name

    def _write_input(self, name: str, *, afresh: bool = False) -> None:
        folder = self._work(name)
        if afresh:
            shutil.rmtree(folder, ignore_errors=True)
        text = openmx_input(self.structures[name].atoms, self.calculation)
        with replacing(folder / INPUT) as draft:
            draft.write_text(text)

    def _take(self, name: str, failure: str | None, seconds: float | None) -> None:
        """Convert a calculation that has ended, or leave it out."""
        folder = self._work(name)
        outcome = read_outcome(folder) if failure is None else None
        if failure is None and outcome is None:
            failure = f"OpenMX ended without a complete {OUT} and {SCFOUT}; {last_words(folder)}"
        if outcome is not None and outcome.cycles >= self.calculation.max_iter:
            failure = f"the SCF did not converge in {outcome.cycles} cycles (NormRD {outcome.residual})"
        if failure is None and outcome is not None:
            try:
                structure = read_scfout(folder / SCFOUT)
                self._check(structure, self.structures[name], folder / SCFOUT)
            except DataError as error:
                failure = str(error)
            else:
                self.finished[name] = self._write(name, structure, outcome, seconds)
                if not self.keep_work:
                    shutil.rmtree(folder, ignore_errors=True)
        if failure is not None:
            if self.strict:
                raise GenerationError(f"{name}: {failure} (strict=true)")
            self.left_out[name] = failure
            self.report(f"left out {name}: {failure}")

    def _write(
        self, name: str, structure: Structure, outcome: Outcome, seconds: float | None
    ) -> dict[str, Any]:
        """Make the structure folder beside the outputs, then move it as a whole; give its provenance."""
        entry = self.structures[name]
        draft, target = self._work(name) / "structure", self.output / "structures" / name
        shutil.rmtree(draft, ignore_errors=True)
        write_structure(structure, draft)
        used = self.calculation.basis_names()
        content = {
            **entry.origin,
            "engine": "OpenMX" if outcome.version is None else f"OpenMX {outcome.version}",
            "bases": {symbol: used[symbol] for symbol in sorted(set(entry.atoms.symbols))},
            "energy cutoff (Ry)": self.calculation.energy_cutoff,
            "SCF criterion (hartree)": self.calculation.criterion,
            "electronic temperature (K)": self.calculation.electronic_temperature,
            "more keywords": self.calculation.keywords,
            "k-mesh": self.calculation.mesh(entry.atoms.cell.array),
            "spin-orbit coupling": structure.spinful,
            "SCF cycles": outcome.cycles,
            "NormRD": outcome.residual,
            "seconds": None if seconds is None else round(seconds, 1),
            "atoms": len(structure.numbers),
            "blocks": len(structure.edges),
        }
        with replacing(draft / "provenance.json") as path:
            path.write_text(json.dumps(content, indent=1) + "\n")
        target.parent.mkdir(exist_ok=True)
        draft.rename(target)
        sync(target.parent)
        return content

    def _check(self, structure: Structure, entry: CrystalStructure, path: Path) -> None:
        """Raise `DataError` unless the outputs are of this structure and these settings."""
        atoms, settings = entry.atoms, self.calculation
        differing = None
        if not np.array_equal(structure.numbers, atoms.numbers):
            differing = "elements"
        elif not np.allclose(structure.lattice, atoms.cell.array, rtol=0, atol=_SAME_PLACE):
            differing = "lattice"
        elif structure.shells != settings.shells(atoms):
            differing = "basis"
        elif structure.spinful != bool(settings.spin_orbit):
            differing = "spin"
        else:
            moved = (structure.positions - atoms.positions) @ np.linalg.inv(structure.lattice)
            if np.abs((moved - np.rint(moved)) @ structure.lattice).max() > _SAME_PLACE:
                differing = "positions"
        if differing is not None:
            raise DataError(
                f"{path}: the {differing} differ from those of {INPUT}; delete the outputs and compute it again"
            )

    def _progress(self, running: int) -> None:
        done = len(self.finished) + len(self.left_out)
        self.on_progress(Progress(done, running, len(self.structures)))


def _release(run: _Run, settings: CrystalSettings, command: str) -> Summary:
    if not run.finished and run.left_out and not run.waiting:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(run.left_out.items())[:5])
        raise GenerationError(f"nothing could be written, {len(run.left_out)} left out: {reasons}")
    if run.finished:
        content = {
            "command": command,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": settings.in_use(),
            "engines": sorted({entry["engine"] for entry in run.finished.values()}),
            "units": {"hamiltonian": "eV", "positions, lattice": "angstrom"},
            "versions": {
                "python": platform.python_version(),
                "tracegrad": __version__,
                "numpy": np.__version__,
                "ase": ase.__version__,
            },
            "counts": {
                "structures": len(run.finished),
                "left out": len(run.left_out),
                "not yet computed": len(run.waiting),
            },
            "structures": sorted(run.finished),
            "left out": [{"structure": n, "reason": _public(r, run.output)} for n, r in run.left_out.items()],
        }
        with replacing(run.output / "provenance.json") as draft:
            draft.write_text(json.dumps(content, indent=2) + "\n")
    return Summary(run.output, len(run.finished), list(run.left_out), run.waiting)


def _public(reason: str, output: Path) -> str:
    """A reason without the folders of this machine."""
    return reason.replace(f"{output}{os.sep}", "")


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; only the main thread can."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    stopping = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: received.append(number)) for number in stopping]
    try:
        yield received
    finally:
        for number, handler in zip(stopping, before, strict=True):
            signal.signal(number, handler)
