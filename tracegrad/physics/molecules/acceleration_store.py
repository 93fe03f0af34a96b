"""Finished SCF runs on the disk, so that none is computed twice.

A run lies in a file named by the hash of all that fixes it (`ScfTask.key`).
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
    """Runs in one of several folders: read from all of them, written into the first that can be written.

    A damaged file counts as absent. Without a folder nothing is kept.
    """

    def __init__(self, folders: Sequence[Path]):
        self.folders = list(folders)
        self.place = next((folder for folder in self.folders if writable(folder)), None)

    def load(self, task: ScfTask, settings: ScfSettings) -> ScfRun | None:
        """The run of a task, if it is there and whole."""
        name = f"{task.key(settings)}.npz"
        for folder in self.folders:
            run = _read(folder / name)
            if run is not None:
                return run
        return None

    def save(self, task: ScfTask, settings: ScfSettings, run: ScfRun) -> None:
        """Keep a run, whole or not at all.

        Raises:
            TraceGradError: the folder cannot be written after all.
        """
        if self.place is None:
            return
        with replacing(self.place / f"{task.key(settings)}.npz") as draft, draft.open("wb") as file:
            np.savez(file, **{field.name: getattr(run, field.name) for field in fields(ScfRun)})


def baseline_folders(database: Path, setting: str | None) -> list[Path]:
    """Where runs that do not depend on a network are kept, the first place first.

    Args:
        database: file of the molecules.
        setting: "auto", a folder, or None for nowhere. Auto is beside the database (unless it comes with TraceGrad,
            whose folder is left alone), then in the user's folder for caches (`cache_places`).
    """
    if setting is None:
        return []
    if setting != AUTO:
        return [Path(setting).expanduser()]
    return cache_places(database, [], SUFFIX)


def _read(path: Path) -> ScfRun | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {field.name: arrays[field.name] for field in fields(ScfRun)}
            run = ScfRun(
                converged=bool(found["converged"]),
                energy=float(found["energy"]),
                energies=found["energies"],
                errors=found["errors"],
                seconds=found["seconds"],
                wall_seconds=float(found["wall_seconds"]),
                core_seconds=float(found["core_seconds"]),
                occupied=found["occupied"],
            )
    # A .npy file gives an array, which is no context manager (TypeError); zipfile raises RuntimeErrors too.
    except (OSError, KeyError, ValueError, EOFError, TypeError, RuntimeError, BadZipFile, zlib.error):
        return None
    shapes = {run.energies.shape, run.errors.shape, run.seconds.shape}
    return run if len(shapes) == 1 and run.energies.size and run.occupied.ndim == 2 else None
