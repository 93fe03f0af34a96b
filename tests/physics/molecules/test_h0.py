"""H0 of molecules: literal formulas, equivariance, and its cache."""

import numpy as np
import pytest
from pyscf import dft, scf

from tests import molecules
from tests.molecules import dense_rotation, random_rotation
from tracegrad.data.loading.datamodule import database_path
from tracegrad.data.qh9.database import QH9Database
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.h0 import NAMES
from tracegrad.physics.molecules.cached_molecules import prepare_molecules
from tracegrad.physics.molecules.dft import build_molecule
from tracegrad.physics.molecules.h0 import h0_entries, molecule_h0
from tracegrad.physics.molecules.row_matrices import SymmetricMatrices, molecular_overlap

DEMO = database_path("embedded:demo_dynamic.db")


def test_the_core_hamiltonian():
    numbers, positions = molecules.WATER
    molecule = build_molecule(numbers, positions)
    expected = molecule.intor("int1e_kin") + molecule.intor("int1e_nuc")
    np.testing.assert_allclose(molecule_h0("core", numbers, positions), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["minao-b3lyp5", "minao-b3lyp"])
def test_the_fock_matrix_of_the_guess_is_where_the_scf_starts(name):
    """The first Fock matrix of an SCF, kept by a callback."""
    numbers, positions = molecules.WATER
    field = dft.RKS(build_molecule(numbers, positions), xc={"minao-b3lyp": "b3lypg"}.get(name, "b3lyp5"))
    seen = []
    field.get_fock, original = (lambda *a, **o: seen.append(original(*a, **o)) or seen[-1]), field.get_fock
    field.max_cycle = 0
    field.kernel()
    np.testing.assert_allclose(molecule_h0(name, numbers, positions), seen[0], atol=1e-9)


def test_the_superposition_of_atomic_potentials_is_close_to_h():
    """Its lowest level is right within a hartree; that of the core Hamiltonian lies more than 5 hartree too low."""
    database = QH9Database(DEMO)
    molecule = database[0]
    overlap = molecular_overlap(molecule)
    levels = {
        name: scf.hf.eig(molecule_h0(name, molecule.numbers, molecule.positions), overlap)[0][0]
        for name in ("sap", "core")
    }
    true = scf.hf.eig(molecule.hamiltonian, overlap)[0][0]
    assert abs(levels["sap"] - true) < 1
    assert abs(levels["core"] - true) > 5


@pytest.mark.parametrize(("name", "tolerance"), [("core", 1e-10), ("sap", 1e-3), ("minao-b3lyp5", 1e-3)])
def test_rotations(basis, name, tolerance):
    """The integration grids of PySCF do not turn with a molecule, which limits the two of them."""
    numbers, positions = molecules.WATER
    rotation = random_rotation(3)
    u = dense_rotation(numbers, basis, rotation).numpy()
    turned = molecule_h0(name, numbers, positions @ rotation.numpy().T)
    np.testing.assert_allclose(turned, u @ molecule_h0(name, numbers, positions) @ u.T, atol=tolerance)


def test_an_unknown_name():
    with pytest.raises(ConfigError, match="H0 is 'huckel'; choose core, sap"):
        molecule_h0("huckel", *molecules.WATER)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_computed_once(name, tmp_path):
    database, kind = QH9Database(DEMO), h0_entries(name)
    path = tmp_path / f"a{kind.suffix}"
    lines: list[str] = []
    for _ in range(2):
        stored = prepare_molecules(database, kind, [0, 1], [path], report=lines.append)
        matrices = SymmetricMatrices(stored)
        for row in (0, 1):
            molecule = database[row]
            expected = molecule_h0(name, molecule.numbers, molecule.positions)
            np.testing.assert_allclose(matrices(molecule), expected, rtol=0, atol=1e-12)
        stored.close()
    assert [line.split(" for ")[0] for line in lines] == [f"computing H0 ({name}) of 2 molecules"]
