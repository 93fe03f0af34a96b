"""One run of the generation of a database of crystals: from inputs over calculations to structure folders.

A structure is finished if its folder exists, and a calculation if its outputs do; neither is computed again.
"""

import json
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracegrad.data.crystals.deeph import write_structure
from tracegrad.data.crystals.openmx import read_scfout
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import DataError, GenerationError
from tracegrad.physics.crystals.openmx_input import OpenmxSettings, openmx_input
from tracegrad.physics.crystals.openmx_run import (
    INPUT,
    OUT,
    SCFOUT,
    Calculations,
    OpenmxOutcome,
    Program,
    last_words,
    read_outcome,
)
from tracegrad.physics.crystals.structures import CrystalStructure
from tracegrad.system.signals import stop_signals
from tracegrad.system.whole_files import replacing, sync

_SAME_PLACE = 1e-5  # angstrom, tolerance of positions in the outputs; inputs have 12 digits
_POLL = 0.1  # seconds between looks at the running calculations


@dataclass(frozen=True)
class CrystalProgress:
    """Numbers of structures that are done (finished or failed), running, and in the database."""

    done: int
    running: int
    total: int


class DatabaseRun:
    """Computes structures and writes their folders, until all are finished, left out or waiting for a calculation.

    Arguments: see `generate_crystals`.

    Attributes:
        finished: name -> provenance of each finished structure.
        left_out: name -> reason.
        waiting: names without a calculation, if there is no program.
    """

    def __init__(
        self,
        structures: Sequence[CrystalStructure],
        calculation: OpenmxSettings,
        output: Path,
        strict: bool,
        keep_work: bool,
        report: Callable[[str], None],
        on_progress: Callable[[CrystalProgress], None],
    ) -> None:
        self.structures = {entry.name: entry for entry in structures}
        self.calculation, self.output = calculation, output
        self.strict, self.keep_work, self.report, self.on_progress = strict, keep_work, report, on_progress
        self.finished: dict[str, dict[str, Any]] = {}
        self.left_out: dict[str, str] = {}
        self.waiting: list[str] = []

    def run(self, program: Program | None, jobs: int) -> None:
        """Compute with at most ``jobs`` parallel calculations; without a program only write and convert files.

        Raises:
            GenerationError: stopped by a signal, or a calculation has failed and ``strict`` is set.
        """
        with stop_signals() as stopped:
            queue: deque[str] = deque()
            self._progress(0)
            for name in self.structures:
                if stopped:
                    break
                if self._already_computed(name):
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
                            self._convert(ended.key, ended.failure, ended.seconds)
                            self._progress(calculations.count)
                        time.sleep(_POLL)
        if stopped:
            raise GenerationError(
                f"stopped by {signal.Signals(stopped[0]).name} after {len(self.finished)} of "
                f"{len(self.structures)} structures; run the same command again to go on"
            )

    def _already_computed(self, name: str) -> bool:
        """Whether a structure needs no calculation, because it is finished or its outputs exist (then convert them).

        Otherwise its input is written.
        """
        path = self.output / "structures" / name / "provenance.json"
        if path.exists():
            try:
                self.finished[name] = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise GenerationError(f"{path}: cannot be read ({error}); delete its folder") from error
            return True
        if read_outcome(self._work(name)) is not None:
            self._convert(name, None, None)
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

    def _convert(self, name: str, failure: str | None, seconds: float | None) -> None:
        """Convert the outputs of a calculation that has ended, or leave its structure out."""
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
        self, name: str, structure: Structure, outcome: OpenmxOutcome, seconds: float | None
    ) -> dict[str, Any]:
        """Write the structure folder beside the outputs, then move it to its place; return its provenance."""
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
        """Raise `DataError` unless the outputs belong to this structure and these settings."""
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
        self.on_progress(CrystalProgress(done, running, len(self.structures)))
