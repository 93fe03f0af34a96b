"""Orbitals of one molecule against PySCF, and matrices without orbitals."""

import numpy as np
import pytest
from pyscf import scf

from tests.molecules import WATER
from tracegrad.errors import DataError
from tracegrad.physics.molecules.dft import build_molecule
from tracegrad.physics.molecules.levels import molecular_levels


def test_orbitals_of_a_converged_fock_matrix() -> None:
    mol = build_molecule(*WATER)
    field = scf.RHF(mol)
    field.conv_tol = 1e-12
    field.kernel()
    overlap = mol.intor("int1e_ovlp")
    levels = molecular_levels(field.get_fock(dm=field.make_rdm1()), overlap, 10)
    np.testing.assert_allclose(levels.energies, field.mo_energy, atol=1e-6)
    np.testing.assert_allclose(levels.coefficients.T @ overlap @ levels.coefficients, np.eye(24), atol=1e-12)
    assert levels.homo == pytest.approx(field.mo_energy[4], abs=1e-6)
    assert levels.gap == pytest.approx(field.mo_energy[5] - field.mo_energy[4], abs=1e-6)
    assert [levels.label(k) for k in (0, 3, 4, 5, 6, 15)] == (
        ["HOMO-4", "HOMO-1", "HOMO", "LUMO", "LUMO+1", "LUMO+10"]
    )


@pytest.mark.parametrize(
    ("hamiltonian", "overlap", "electrons", "message"),
    [
        (np.eye(2), np.eye(2), 1, "1 electrons cannot be paired in 2 orbitals"),
        (np.eye(2), np.eye(2), 4, "4 electrons cannot be paired in 2 orbitals"),
        (np.eye(2), np.eye(2), 0, "0 electrons"),
        (np.full((2, 2), np.nan), np.eye(2), 2, "not finite; did the training diverge"),
        (np.eye(2), np.ones((2, 2)), 2, "cannot be solved .* are atoms too close"),
    ],
)
def test_what_has_no_levels(hamiltonian, overlap, electrons, message) -> None:
    with pytest.raises(DataError, match=message):
        molecular_levels(hamiltonian, overlap, electrons)
