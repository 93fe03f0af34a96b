"""Stores finished SCF runs on disk, so that none is computed twice.

The file of a run is named by the hash of everything that determines the run (`run_key`).
"""

import hashlib
import importlib
import importlib.metadata
import json
import platform
import zlib
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from tracegrad.data.cache.lookup import AUTO, cache_places, writable
from tracegrad.physics.molecules.acceleration import ScfRun, ScfSettings, ScfTask
from tracegrad.system.whole_files import replacing

SUFFIX = ".tracegrad-scf"
FORMAT = 2


class ScfStore:
    """Reads runs from several folders and writes them into the first of these that is writable.

    A damaged file counts as absent. Without a folder nothing is stored.
    """

    def __init__(self, folders: Sequence[Path]):
        self.folders = list(folders)
        self.place = next((folder for folder in self.folders if writable(folder)), None)

    def load(self, task: ScfTask, settings: ScfSettings) -> ScfRun | None:
        """The stored run of a task; None if there is none or its file is damaged."""
        name = f"{run_key(task, settings)}.npz"
        for folder in self.folders:
            run = _read(folder / name)
            if run is not None:
                return run
        return None

    def save(self, task: ScfTask, settings: ScfSettings, run: ScfRun) -> None:
        """Write the file of a run completely or not at all.

        Raises:
            TraceGradError: the file cannot be written, such as on a full disk.
        """
        if self.place is None:
            return
        with replacing(self.place / f"{run_key(task, settings)}.npz") as draft, draft.open("wb") as file:
            np.savez(file, **{field.name: getattr(run, field.name) for field in fields(ScfRun)})


def baseline_folders(database: Path, setting: str | None) -> list[Path]:
    """Folders for runs that do not depend on a network, in the order in which they are tried.

    Args:
        setting: "auto", a folder, or None for no folder. "auto" is beside the database (unless the database comes
            with TraceGrad), then in the user's folder for caches (`cache_places`).
    """
    if setting is None:
        return []
    if setting != AUTO:
        return [Path(setting).expanduser()]
    return cache_places(database, [], SUFFIX)


def _read(path: Path) -> ScfRun | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            stored = {field.name: arrays[field.name] for field in fields(ScfRun)}
            run = ScfRun(
                converged=bool(stored["converged"]),
                energy=float(stored["energy"]),
                energies=stored["energies"],
                errors=stored["errors"],
                seconds=stored["seconds"],
                wall_seconds=float(stored["wall_seconds"]),
                core_seconds=float(stored["core_seconds"]),
                occupied=stored["occupied"],
                direct_energies=stored["direct_energies"],
                residuals=stored["residuals"],
                forces=stored["forces"],
            )
    # np.load gives a .npy file as an array, which is no context manager (TypeError); zipfile may raise RuntimeErrors.
    except (OSError, KeyError, ValueError, EOFError, TypeError, RuntimeError, BadZipFile, zlib.error):
        return None
    shapes = {run.energies.shape, run.errors.shape, run.seconds.shape}
    whole = run.forces.ndim == 3 and run.direct_energies.shape == run.forces.shape[:1]
    return run if len(shapes) == 1 and run.energies.size and run.occupied.ndim == 2 and whole else None


def run_key(task: ScfTask, settings: ScfSettings) -> str:
    """Hash of everything that determines a run: molecule, label, start, settings, version of PySCF, machine.

    The machine is included because of the measured times, which cannot be compared with those of another one.
    """
    described = settings.describe() | {
        "format": FORMAT,
        "start": task.start,
        "pyscf": importlib.metadata.version("pyscf"),
        "machine": machine(settings.gpu),
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    digest.update(task.numbers.astype("<i8").tobytes())
    for matrix in (task.positions, task.reference, task.hamiltonian):
        if matrix is not None:
            digest.update(np.ascontiguousarray(matrix, dtype="<f8").tobytes())
    return digest.hexdigest()[:32]


@cache
def machine(gpu: bool) -> str:
    """Model of the processor, and with ``gpu`` of the GPU too: times are comparable where these are equal."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        lines = []
    processor = lines[0] if lines else platform.processor() or platform.machine()
    if not gpu:
        return processor
    import torch  # imported here, because workers without a GPU do not need it

    gpu4pyscf = importlib.import_module("gpu4pyscf")
    return f"{processor}, {torch.cuda.get_device_name()}, gpu4pyscf {gpu4pyscf.__version__}"
