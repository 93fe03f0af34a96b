"""Generates a database of crystals with OpenMX: inputs, calculations and structure folders; continues after a stop.

An output folder contains

| entry                     | content                                                             |
|---------------------------|---------------------------------------------------------------------|
| ``settings.json``         | its settings and a hash of its inputs                               |
| ``work/NAME/``            | input and outputs of a calculation                                  |
| ``structures/NAME/``      | the finished structure in the format of DeepH, with provenance.json |
| ``provenance.json``       | how the database was computed, its structures and those left out    |

There is no list of what is done: a structure is finished if its folder exists, and a calculation if its outputs do.
"""

import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ase
import numpy as np

from tracegrad import __version__
from tracegrad.errors import ConfigError, GenerationError
from tracegrad.physics.crystals.database_run import CrystalProgress, DatabaseRun
from tracegrad.physics.crystals.openmx_input import OpenmxSettings, openmx_input
from tracegrad.physics.crystals.openmx_run import Program
from tracegrad.physics.crystals.settings import CrystalSettings, openmx_settings, resume_key
from tracegrad.physics.crystals.structures import CrystalStructure
from tracegrad.system.locks import take_lock
from tracegrad.system.whole_files import replacing


@dataclass(frozen=True)
class CrystalSummary:
    """The state of a database: number of finished structures, names of those left out and of those not computed."""

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
    on_progress: Callable[[CrystalProgress], None] = lambda progress: None,
) -> CrystalSummary:
    """Write inputs, run OpenMX, and convert finished calculations into structure folders.

    Continues an output folder with the same settings. Without a program, the inputs are written and finished
    calculations, which the user has run elsewhere, are converted.

    Args:
        structures: the crystals to compute.
        settings: of the calculations and, for the provenance, of the structures.
        output: folder of the database.
        program: OpenMX, or None.
        jobs: number of parallel calculations.
        strict: raise at the first calculation that fails, instead of leaving its structure out.
        keep_work: keep the folders of calculations that have been converted.
        command: command line for the provenance.
        report: receives a line about each structure that is left out.
        on_progress: called at the start and whenever a calculation starts or ends.

    Raises:
        ConfigError: the folder of OpenMX's bases and pseudopotentials is unknown, or lacks files.
        GenerationError: the output is no such folder or has other settings, another process uses it, every structure
            was left out, or the run was stopped by a signal.
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
        with _exclusive_lock(output):
            _compare(output, resume_key(settings, inputs))
            run = DatabaseRun(structures, calculation, output, strict, keep_work, report, on_progress)
            run.run(program, jobs)
            return _release(run, settings, command)
    except OSError as error:
        raise GenerationError(f"{output}: the generation stopped ({error})") from error


def _data_path(calculation: OpenmxSettings, program: Program, structures: Sequence[CrystalStructure]) -> Path:
    """The folder of bases and pseudopotentials, after a check that it has the files for all structures."""
    setting = calculation.data_path
    path = Path(setting).absolute() if setting else program.default_data_path()
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
def _exclusive_lock(output: Path) -> Iterator[None]:
    """Lock the output folder against other processes; the lock ends with the process, even if it is killed."""
    lock = take_lock(output / ".lock")
    if lock is None:
        raise GenerationError(f"{output}: another process is working on this output")
    try:
        yield
    finally:
        os.close(lock)


def _compare(output: Path, key: dict[str, Any]) -> None:
    """Write the settings into a new output; raise `GenerationError` if an existing output has others."""
    path = output / "settings.json"
    current = json.loads(json.dumps(key))
    if not path.exists():
        foreign = sorted(entry.name for entry in output.iterdir() if entry.name != ".lock")
        if foreign:
            raise GenerationError(f"{output} holds {', '.join(foreign[:5])}; choose another output")
        with replacing(path) as draft:
            draft.write_text(json.dumps(current, indent=2) + "\n")
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        differing = [name for name in sorted({*stored, *current}) if stored.get(name) != current.get(name)]
    except (ValueError, TypeError, AttributeError) as error:
        raise GenerationError(
            f"{path}: not the settings of a database ({error}); choose another output"
        ) from error
    if differing:
        lines = [
            f"  {n}: {stored.get(n, 'not set')} there, {current.get(n, 'not set')} now" for n in differing
        ]
        raise GenerationError(
            f"{output} was begun with other settings:\n" + "\n".join(lines) + "\n"
            "continue with those settings, or choose another output"
        )


def _release(run: DatabaseRun, settings: CrystalSettings, command: str) -> CrystalSummary:
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
    return CrystalSummary(run.output, len(run.finished), list(run.left_out), run.waiting)


def _public(reason: str, output: Path) -> str:
    """A reason with paths relative to the output, for the provenance."""
    return reason.replace(f"{output}{os.sep}", "")
