"""Replacements of `solve` for tests; in a separate module, so that workers start without pytest and torch."""

import os
import signal
import time

import numpy as np

from tracegrad.errors import GenerationError
from tracegrad.physics.molecules.acceleration import ScfRun, ScfSettings, ScfTask

KILLED, FAILED, SLOW = 1, 2, 3


def made_up_run(cycles: int = 3, energy: float = -1.0, converged: bool = True, **changes) -> ScfRun:
    """A run whose errors decrease tenfold in each cycle."""
    k = np.arange(cycles + 1.0)
    values = {
        "converged": converged,
        "energy": energy,
        "energies": energy + 0.1**k,
        "errors": 0.1**k,
        "seconds": k + 1,
        "wall_seconds": cycles + 2.0,
        "core_seconds": cycles + 1.5,
        "occupied": np.eye(4, 2),
        "direct_energies": np.zeros(0),
        "residuals": np.zeros(0),
        "forces": np.zeros((0, 2, 3)),
    }
    return ScfRun(**(values | changes))


def unreliable(task: ScfTask, settings: ScfSettings) -> ScfRun:
    """The same, but the process of some rows dies and others raise."""
    if task.row == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if task.row == FAILED:
        raise GenerationError("no such molecule")
    if task.row == SLOW:
        time.sleep(60)
    return made_up_run(task.row)
