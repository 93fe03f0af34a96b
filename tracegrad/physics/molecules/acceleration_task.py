"""One SCF as a task of a worker process. This module does not import torch, so that workers start fast."""

import hashlib
import importlib
import importlib.metadata
import json
import platform
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Int

from tracegrad.physics.molecules.acceleration import ScfRun, ScfSettings, solve

FORMAT = 1


@dataclass(frozen=True)
class ScfTask:
    """One SCF to compute: a molecule (angstrom, hartree) and the start of its SCF, see `acceleration.solve`."""

    row: int
    numbers: Int[np.ndarray, " n_atoms"]
    positions: Float[np.ndarray, "n_atoms 3"]
    reference: Float[np.ndarray, "n n"]
    start: str
    hamiltonian: Float[np.ndarray, "n n"] | None = None

    def key(self, settings: ScfSettings) -> str:
        """Hash of everything that determines the run: molecule, label, start, settings, version of PySCF, machine.

        The machine is included because of the measured times, which cannot be compared with those of another one.
        """
        described = settings.describe() | {
            "format": FORMAT,
            "start": self.start,
            "pyscf": importlib.metadata.version("pyscf"),
            "machine": machine(settings.gpu),
        }
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        digest.update(self.numbers.astype("<i8").tobytes())
        for matrix in (self.positions, self.reference, self.hamiltonian):
            if matrix is not None:
                digest.update(np.ascontiguousarray(matrix, dtype="<f8").tobytes())
        return digest.hexdigest()[:32]


def run_task(task: ScfTask, settings: ScfSettings) -> ScfRun:
    """Compute the run of a task, in a worker process."""
    return solve(
        task.numbers,
        task.positions,
        task.reference,
        settings,
        task.start,
        task.hamiltonian,
        name=f"row {task.row}",
    )


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
