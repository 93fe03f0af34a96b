"""DFT data of PySCF in the layouts of MD17 and nablaDFT, with reference energies and rotated copies.

The files are not in the repository. They are looked for in ``TRACEGRAD_REAL_FILES``, else in the folder
``shared/data`` beside the repository.
"""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from tests.molecules import wigner_d
from tracegrad.data.molecules.database import Molecule, MoleculeDatabase
from tracegrad.data.molecules.md17 import MD17Database
from tracegrad.data.molecules.nabladft import NablaDFTDatabase
from tracegrad.hamiltonian.basis import CONVENTIONS, DEF2_SVP
from tracegrad.physics.molecules.dft import fock_label
from tracegrad.physics.molecules.levels import molecular_levels
from tracegrad.physics.molecules.solved import solve_molecule
from tracegrad.physics.molecules.stored_integrals import check_stored_integrals

FILES = Path(os.environ.get("TRACEGRAD_REAL_FILES", Path(__file__).parents[4] / "shared" / "data"))
FOLDER = FILES / "dft" / "molecules"
pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason="needs files of real runs"),
    pytest.mark.slow,
]
READERS: dict[str, tuple[type[MoleculeDatabase], float]] = {
    "schnorb_layout_water": (MD17Database, 5e-7),
    "schnorb_layout_ethanol": (MD17Database, 5e-7),
    "nabladft_layout": (NablaDFTDatabase, 5e-6),  # single precision
}


def opened(name: str) -> tuple[MoleculeDatabase, list[dict]]:
    reader, _ = READERS[name]
    return reader(FOLDER / f"{name}.db"), json.loads((FOLDER / f"{name}_reference.json").read_text())


@pytest.mark.parametrize("name", READERS)
def test_orbital_energies(name: str) -> None:
    database, references = opened(name)
    assert len(database) == len(references)
    for row, reference in enumerate(references):
        molecule = database[row]
        solved = solve_molecule(molecule, str(row))
        assert (solved.size, solved.occupied) == (reference["norb"], reference["nocc"])
        tolerance = READERS[name][1]
        np.testing.assert_allclose(solved.energies, reference["mo_energies_hartree"], rtol=0, atol=tolerance)
        overlap = np.zeros((solved.size, solved.size))
        overlap[np.tril_indices(solved.size)] = solved.overlap
        overlap += np.tril(overlap, -1).T
        levels = molecular_levels(molecule.hamiltonian, overlap, 2 * solved.occupied)
        assert levels.homo == pytest.approx(reference["homo_hartree"], abs=tolerance)
        assert levels.lumo == pytest.approx(reference["lumo_hartree"], abs=tolerance)
        check_stored_integrals(database, row)


def representation(numbers: np.ndarray, rotation: torch.Tensor) -> np.ndarray:
    """The matrix D of a rotation for all orbitals of a molecule in PySCF's order, shell by shell."""
    blocks = []
    for z in numbers.tolist():
        for degree in DEF2_SVP[z]:
            # component m of the standard order stands at positions[m + l] of PySCF's.
            positions = list(CONVENTIONS["pyscf"].get(degree, range(2 * degree + 1)))
            block = np.zeros((2 * degree + 1, 2 * degree + 1))
            block[np.ix_(positions, positions)] = wigner_d(degree, rotation).numpy()
            blocks.append(block)
    return scipy.linalg.block_diag(*blocks)


@pytest.mark.parametrize(
    ("name", "pairs", "of_h", "of_s"),
    [
        ("schnorb_layout_water", [(0, 1), (2, 3), (4, 5)], 1.2e-7, 1e-10),
        ("nabladft_layout", [(1, 2)], 1.3e-5, 2e-7),
    ],
)
def test_rotated_copies(name: str, pairs: list[tuple[int, int]], of_h: float, of_s: float) -> None:
    """D H D^T of a molecule is the H of its rotated copy, which shows order and signs of the orbitals.

    The grids of DFT, which do not rotate with the molecule, limit H.
    """
    database, references = opened(name)
    for first, second in pairs:
        numbers = re.search(r"R = (\[\[.*\]\])", references[second]["note"])
        assert numbers is not None
        rotation = torch.tensor(json.loads(numbers[1]), dtype=torch.float64)
        one, other = database[first], database[second]
        moved = one.positions @ rotation.numpy().T - other.positions
        assert np.ptp(moved, axis=0) == pytest.approx([0.0] * 3, abs=1e-6)
        d = representation(one.numbers, rotation)
        np.testing.assert_allclose(d @ one.hamiltonian @ d.T, other.hamiltonian, rtol=0, atol=of_h)
        s, s_moved = (database.stored_integrals(row)["int1e_ovlp"] for row in (first, second))
        np.testing.assert_allclose(d @ s @ d.T, s_moved, rtol=0, atol=of_s)


@pytest.mark.parametrize(
    ("name", "row", "functional", "tolerance"),
    [("schnorb_layout_water", 0, "pbe", 5e-6), ("nabladft_layout", 4, "wb97x-d", 5e-6)],
)
def test_the_functional_is_that_of_the_labels(name: str, row: int, functional: str, tolerance: float) -> None:
    """The difference is that of integration grids of level 3 and 4."""
    database, references = opened(name)
    molecule: Molecule = database[row]
    label = fock_label(molecule.numbers, molecule.positions, functional)
    np.testing.assert_allclose(label.hamiltonian, molecule.hamiltonian, rtol=0, atol=tolerance)
    assert label.energy == pytest.approx(references[row]["energy_hartree"], abs=tolerance)


def test_units() -> None:
    """O-H bonds of water in angstrom, and that of HF, which the file has in bohr."""
    water, fluoride = opened("schnorb_layout_water")[0][0], opened("nabladft_layout")[0][4]
    assert np.linalg.norm(water.positions[1:] - water.positions[0], axis=1) == pytest.approx(
        [0.96] * 2, abs=0.1
    )
    assert np.linalg.norm(fluoride.positions[1] - fluoride.positions[0]) == pytest.approx(0.92, abs=0.15)
