"""The core, which loads a network and predicts with it, runs without the packages of extras and without Lightning."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import DEEPH_E3, write_run
from tests.processes import without

CORE = """
import sys
import numpy as np
import tracegrad
from tracegrad.extras import MissingExtraError

molecules, crystals = tracegrad.load_model("molecules"), tracegrad.load_model("crystals")
h = molecules.hamiltonian(np.array([8, 1, 1]), np.array([[0.0, 0.0, 0.1], [0.0, 0.8, -0.5], [0.0, -0.8, -0.5]]))
print(tuple(h.shape))
numbers, positions, lattice = np.array([6, 6]), np.array([[0.0, 0, 0], [1.42, 0, 0]]), 2.46 * np.eye(3)
edges = np.array([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0]])
print([block.shape for block in crystals.hamiltonian(numbers, positions, lattice, edges)])

from tracegrad.hamiltonian.neighbours import edges_within_range
from tracegrad.physics.bands.kpath import standard_path
for call in (
    lambda: molecules.initial_density(None),
    lambda: edges_within_range(numbers, positions, lattice, np.array([True] * 3), crystals.basis),
    lambda: standard_path(lattice, np.array([True] * 3)),
    lambda: __import__("tracegrad.physics.geometry_files.reading"),
    lambda: __import__("tracegrad.physics.crystals.twist"),
    lambda: __import__("tracegrad.physics.molecules.dft"),
):
    try:
        call()
    except MissingExtraError as error:
        print(error.name, str(error).partition("; ")[2])
print(sorted({"ase", "lightning", "pyscf", "submitit", "wandb", "hydra", "matplotlib"} & sys.modules.keys()))
"""


@pytest.mark.slow
def test_the_core_needs_no_extra_and_no_lightning(tmp_path: Path) -> None:
    write_run(tmp_path / "molecules")
    write_run(tmp_path / "crystals", DEEPH_E3)
    done = subprocess.run(
        [sys.executable, "-S", "-c", CORE],
        env=without(tmp_path / "site", "pyscf", "ase", "wandb", "submitit", "lightning", "pytorch_lightning"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    dft = "pip install 'tracegrad[dft]'"
    assert done.stdout.splitlines() == [
        "(24, 24)",
        "[(13, 13), (13, 13), (13, 13), (13, 13)]",
        *(f"{package} {dft}" for package in ("pyscf", "ase", "ase", "ase", "ase", "pyscf")),
        "[]",
    ]
