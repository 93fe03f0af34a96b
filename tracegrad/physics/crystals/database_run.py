"""One run of the generation of a database of crystals: from inputs over calculations to structure folders.

A structure is finished if its folder exists, and a calculation if its outputs do; neither is computed again.
"""

import json
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tracegrad.data.crystal_files.deeph import write_structure
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import DataError, GenerationError
from tracegrad.physics.crystals.calculations import Calculations, ProgramSettings, last_words
from tracegrad.physics.crystals.engine import Engine, FinishedOutputs
from tracegrad.physics.crystals.structures import CrystalStructure
from tracegrad.system.signals import stop_signals
from tracegrad.system.text_files import write_json
from tracegrad.system.whole_files import sync

_SAME_PLACE = 1e-5  # angstrom, tolerance of positions in the outputs; inputs have 12 digits
_POLL = 0.1  # seconds between looks at the running calculations


@dataclass
class DatabaseRun:
    """Computes structures and writes their folders, until all are finished, left out or waiting for a calculation.

    Args: see `generate_crystals`.

    Attributes:
        finished: name -> provenance of each finished structure.
        left_out: name -> reason.
        waiting: names without a calculation, if the code is not installed.
    """

    entries: Sequence[CrystalStructure]
    spin_orbit: bool
    engine: Engine
    output: Path
    strict: bool
    keep_work: bool
    report: Callable[[str], None]
    on_progress: Callable[[int, int], None]
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.structures = {entry.name: entry for entry in self.entries}

    def run(self, settings: ProgramSettings) -> None:
        """Compute all structures; without the program of the engine only write inputs and convert outputs.

        Raises:
            GenerationError: stopped by a signal, or a calculation has failed and ``strict`` is set.
        """
        command = settings.command(self.engine)
        with stop_signals() as stopped:
            queue: deque[str] = deque()
            self._progress()
            for name in self.structures:
                if stopped:
                    break
                if self._already_computed(name):
                    self._progress()
                else:
                    queue.append(name)
            if command is None:
                self.waiting = list(queue)
            elif queue:
                with Calculations(self.engine, command, settings) as calculations:
                    while (queue or calculations.count) and not stopped:
                        while queue and calculations.count < settings.jobs:
                            name = queue.popleft()
                            shutil.rmtree(self._work(name), ignore_errors=True)
                            self._write_input(name)
                            calculations.start(name, self._work(name))
                            self._progress()
                        for ended in calculations.ended():
                            self._convert(ended.name, ended.failure, ended.seconds)
                            self._progress()
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
        if self.engine.finished(self._work(name)) is not None:
            self._convert(name, None, None)
            return True
        self._write_input(name)
        return False

    def _work(self, name: str) -> Path:
        return self.output / "work" / name

    def _write_input(self, name: str) -> None:
        self.engine.write_input(self.structures[name].atoms, self.spin_orbit, self._work(name))

    def _convert(self, name: str, failure: str | None, seconds: float | None) -> None:
        """Convert the outputs of a calculation that has ended, or leave its structure out."""
        folder = self._work(name)
        try:
            if failure is not None:
                raise DataError(failure)
            outputs = self.engine.finished(folder)
            if outputs is None:
                names = " and ".join(self.engine.output_names)
                raise DataError(
                    f"{self.engine.title} ended without a complete {names}; {last_words(self.engine, folder)}"
                )
            if outputs.failure is not None:
                raise DataError(outputs.failure)
            structure = self.engine.read(folder)
            self._check(structure, self.structures[name], folder)
        except DataError as error:
            if self.strict:
                raise GenerationError(f"{name}: {error} (strict=true)") from error
            self.left_out[name] = str(error)
            self.report(f"left out {name}: {error}")
        else:
            self.finished[name] = self._write(name, structure, outputs, seconds)
            if not self.keep_work:
                shutil.rmtree(folder, ignore_errors=True)

    def _write(
        self, name: str, structure: Structure, outputs: FinishedOutputs, seconds: float | None
    ) -> dict[str, Any]:
        """Write the structure folder beside the outputs, then move it to its place; return its provenance."""
        entry = self.structures[name]
        draft, target = self._work(name) / "structure", self.output / "structures" / name
        shutil.rmtree(draft, ignore_errors=True)
        write_structure(structure, draft)
        content = {
            **entry.origin,
            "engine": outputs.version,
            **self.engine.describe(entry.atoms),
            "spin-orbit coupling": structure.spinful,
            **outputs.facts,
            "seconds": None if seconds is None else round(seconds, 1),
            "atoms": len(structure.numbers),
            "blocks": len(structure.edges),
        }
        write_json(draft / "provenance.json", content, indent=1)
        target.parent.mkdir(exist_ok=True)
        draft.rename(target)
        sync(target.parent)
        return content

    def _check(self, structure: Structure, entry: CrystalStructure, folder: Path) -> None:
        """Raise `DataError` unless the outputs belong to this structure and these settings."""
        atoms = entry.atoms
        differing = None
        if not np.array_equal(structure.numbers, atoms.numbers):
            differing = "elements"
        elif not np.allclose(structure.lattice, atoms.cell.array, rtol=0, atol=_SAME_PLACE):
            differing = "lattice"
        elif structure.shells != self.engine.shells(atoms):
            differing = "basis"
        elif structure.spinful != self.spin_orbit:
            differing = "spin"
        else:
            moved = (structure.positions - atoms.positions) @ np.linalg.inv(structure.lattice)
            if np.abs((moved - np.rint(moved)) @ structure.lattice).max() > _SAME_PLACE:
                differing = "positions"
        if differing is not None:
            raise DataError(
                f"{folder / self.engine.output_names[-1]}: the {differing} differ from those of "
                f"{self.engine.input_name}; delete the outputs and compute it again"
            )

    def _progress(self) -> None:
        self.on_progress(len(self.finished) + len(self.left_out), len(self.structures))
