import numpy as np
import pytest
import scipy.linalg
from ase.collections import g2

from tracegrad.errors import DataError
from tracegrad.physics.molecules.density import density
from tracegrad.physics.molecules.dft import build_molecule, fock_label

WATER = g2["H2O"]


@pytest.fixture(scope="module")
def water():
    overlap = build_molecule(WATER.numbers, WATER.positions).intor("int1e_ovlp")
    return fock_label(WATER.numbers, WATER.positions, "b3lyp5", conv_tol=1e-11), overlap


def test_density_of_the_converged_fock_matrix_is_the_density_it_was_built_from(water):
    label, overlap = water
    found = density(label.hamiltonian, overlap, 10)
    np.testing.assert_allclose(found, label.density, atol=1e-5)
    assert found.dtype == np.float64


def test_density_is_a_projector_on_the_lowest_orbitals(water):
    _, overlap = water
    rng = np.random.default_rng(0)
    h = rng.normal(size=overlap.shape)
    h += h.T
    found = density(h, overlap, 8)
    np.testing.assert_allclose(found @ overlap @ found, 2 * found, atol=1e-10)
    assert np.trace(found @ overlap) == pytest.approx(8, abs=1e-10)
    levels = scipy.linalg.eigh(h, overlap, eigvals_only=True)
    assert np.sum(found * h) == pytest.approx(2 * levels[:4].sum(), abs=1e-9)


def test_the_symmetric_part_counts(water):
    label, overlap = water
    skew = np.triu(np.full_like(overlap, 1e-3), 1)
    np.testing.assert_allclose(
        density(label.hamiltonian + skew - skew.T, overlap, 10),
        density(label.hamiltonian, overlap, 10),
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("h", "s", "electrons", "message"),
    [
        (np.eye(3), np.eye(3), 3, "3 electrons do not fill pairs of 3 orbitals"),
        (np.eye(3), np.eye(3), 8, "8 electrons"),
        (np.eye(3), np.eye(3), 0, "0 electrons"),
        (np.full((2, 2), np.nan), np.eye(2), 2, "not finite"),
        (np.eye(2), -np.eye(2), 2, "cannot be solved"),
        (np.eye(2), np.eye(3), 2, r"shape \(2, 2\) and the overlap \(3, 3\)"),
        (np.ones((2, 3)), np.ones((2, 3)), 2, "must be square"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_has_no_density_is_named(h, s, electrons, message):
    with pytest.raises(DataError, match=message):
        density(h, s, electrons)
