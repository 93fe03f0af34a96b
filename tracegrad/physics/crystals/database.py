"""Generates a database of crystals with a DFT code: inputs, calculations, structure folders; continues after a stop.

An output folder contains

| entry                     | content                                                             |
|---------------------------|---------------------------------------------------------------------|
| ``settings.json``         | its settings and a hash of its inputs                               |
| ``work/NAME/``            | input and outputs of a calculation                                  |
| ``structures/NAME/``      | the finished structure in the format of DeepH, with provenance.json |
| ``provenance.json``       | how the database was computed, its structures and those left out    |

There is no list of what is done: a structure is finished if its folder exists, and a calculation if its outputs do.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tracegrad.errors import GenerationError
from tracegrad.physics.continuing import check_same_settings, versions
from tracegrad.physics.crystals.calculations import ProgramSettings
from tracegrad.physics.crystals.database_run import DatabaseRun
from tracegrad.physics.crystals.engine import Engine
from tracegrad.physics.crystals.settings import CrystalSettings
from tracegrad.physics.crystals.structures import CrystalStructure
from tracegrad.system.locks import take_lock
from tracegrad.system.text_files import write_json


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
    engine: Engine,
    output: str | Path,
    running: ProgramSettings | None = None,
    *,
    strict: bool = False,
    keep_work: bool = True,
    command: str = "",
    report: Callable[[str], None] = print,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> CrystalSummary:
    """Write inputs, run the DFT code, and convert finished calculations into structure folders.

    Continues an output folder with the same settings. Where the code is not installed, the inputs are written and
    finished calculations, which the user has run elsewhere, are converted.

    Args:
        structures: the crystals to compute.
        settings: of the structures, for the provenance.
        engine: the DFT code with its settings.
        output: folder of the database.
        running: how its program is run; None: one process of one thread at a time.
        strict: raise at the first calculation that fails, instead of leaving its structure out.
        keep_work: keep the folders of calculations that have been converted.
        command: command line for the provenance.
        report: receives a line about each structure that is left out.
        on_progress: called at the start and whenever a calculation starts or ends, with the number of structures that
            are done (finished or left out) and of all structures.

    Raises:
        ConfigError: the installation of the code lacks files.
        GenerationError: the output is no such folder or has other settings, another process uses it, every structure
            was left out, or the run was stopped by a signal.
    """
    output = Path(output)
    all_settings = {**engine.settings(), **asdict(settings)}
    digest = hashlib.sha256()
    for entry in structures:
        digest.update(f"{entry.name}\0{engine.input_text(entry.atoms, settings.spin)}\0".encode())
    run = DatabaseRun(structures, settings.spin, engine, output, strict, keep_work, report, on_progress)
    running = running or ProgramSettings()
    if running.command(engine) is not None:
        engine.check_installation(entry.atoms for entry in structures)
    try:
        if output.exists() and not output.is_dir():
            raise GenerationError(f"{output} is no folder; output is the folder of the database")
        output.mkdir(parents=True, exist_ok=True)
        with _exclusive_lock(output):
            _compare(output, {**all_settings, "inputs (sha256)": digest.hexdigest()})
            run.run(running)
            return _release(run, all_settings, command)
    except OSError as error:
        raise GenerationError(f"{output}: the generation stopped ({error})") from error


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
    if not path.exists():
        foreign = sorted(entry.name for entry in output.iterdir() if entry.name != ".lock")
        if foreign:
            raise GenerationError(f"{output} holds {', '.join(foreign[:5])}; choose another output")
        write_json(path, key)
        return
    try:
        stored = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise GenerationError(
            f"{path}: not the settings of a database ({error}); choose another output"
        ) from error
    check_same_settings(str(output), stored, key, "or choose another output")


def _release(run: DatabaseRun, settings: dict[str, Any], command: str) -> CrystalSummary:
    if not run.finished and run.left_out and not run.waiting:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(run.left_out.items())[:5])
        raise GenerationError(f"nothing could be written, {len(run.left_out)} left out: {reasons}")
    if run.finished:
        content = {
            "command": command,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": settings,
            "engines": sorted({entry["engine"] for entry in run.finished.values()}),
            "units": {"hamiltonian": "eV", "positions, lattice": "angstrom"},
            "versions": versions("numpy", "ase"),
            "counts": {
                "structures": len(run.finished),
                "left out": len(run.left_out),
                "not yet computed": len(run.waiting),
            },
            "structures": sorted(run.finished),
            "left out": [{"structure": n, "reason": _public(r, run.output)} for n, r in run.left_out.items()],
        }
        write_json(run.output / "provenance.json", content)
    return CrystalSummary(run.output, len(run.finished), list(run.left_out), run.waiting)


def _public(reason: str, output: Path) -> str:
    """A reason with paths relative to the output, for the provenance."""
    return reason.replace(f"{output}{os.sep}", "")
