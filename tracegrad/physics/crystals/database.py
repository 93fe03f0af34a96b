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
    on_progress: Callable[[CrystalProgress], None] = lambda progress: None,
) -> CrystalSummary:
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
            run = DatabaseRun(structures, calculation, output, strict, keep_work, report, on_progress)
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
    lock = take_lock(output / ".lock")
    if lock is None:
        raise GenerationError(f"{output}: another process is working on this output")
    try:
        yield
    finally:
        os.close(lock)


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
    """A reason without the folders of this machine."""
    return reason.replace(f"{output}{os.sep}", "")
