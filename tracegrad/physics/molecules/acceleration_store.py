"""Stores finished SCF runs on disk, so that none is computed twice.

The file of a run is named by the hash of everything that determines the run (`ScfTask.key`).
"""

import zlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from tracegrad.data.cache.lookup import AUTO, cache_places, writable
from tracegrad.physics.molecules.acceleration import ScfRun, ScfSettings
from tracegrad.physics.molecules.acceleration_task import ScfTask
from tracegrad.system.whole_files import replacing

SUFFIX = ".tracegrad-scf"


class ScfStore:
    """Reads runs from several folders and writes them into the first of these that is writable.

    A damaged file counts as absent. Without a folder nothing is stored.
    """

    def __init__(self, folders: Sequence[Path]):
        self.folders = list(folders)
        self.place = next((folder for folder in self.folders if writable(folder)), None)

    def load(self, task: ScfTask, settings: ScfSettings) -> ScfRun | None:
        """The stored run of a task; None if there is none or its file is damaged."""
        name = f"{task.key(settings)}.npz"
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
        with replacing(self.place / f"{task.key(settings)}.npz") as draft, draft.open("wb") as file:
            np.savez(file, **{field.name: getattr(run, field.name) for field in fields(ScfRun)})


def baseline_folders(database: Path, setting: str | None) -> list[Path]:
    """Folders for runs that do not depend on a network, in the order in which they are tried.

    Args:
        database: file of the molecules.
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
            )
    # np.load gives a .npy file as an array, which is no context manager (TypeError); zipfile may raise RuntimeErrors.
    except (OSError, KeyError, ValueError, EOFError, TypeError, RuntimeError, BadZipFile, zlib.error):
        return None
    shapes = {run.energies.shape, run.errors.shape, run.seconds.shape}
    return run if len(shapes) == 1 and run.energies.size and run.occupied.ndim == 2 else None
