"""First-order changes of bands by displacements of atoms, against bands of displaced crystals."""

from dataclasses import replace

import numpy as np
import pytest

from tests import crystals
from tests.physics.huckel import Hueckel
from tracegrad.errors import DataError
from tracegrad.physics.bands.couplings import BandCouplings

STEP = 3e-5  # angstrom: levels that lie close move by less than their distance
A = 2.46  # angstrom
LATTICE = [[A, 0, 0], [A / 2, A * 3**0.5 / 2, 0], [0, 0, 15.0]]
HONEYCOMB = crystals.crystal([6, 6], [[0.0, 0, 0], [A / 2, A / 12**0.5, 0]], LATTICE, 5.29)
K_POINT = np.array([2 / 3, 1 / 3, 0.0])


@pytest.fixture(scope="module")
def graphene() -> Hueckel:
    return Hueckel(HONEYCOMB)


def difference(graphene: Hueckel, displacement: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Central difference of all energies at k."""
    energies = []
    for step in (-2, -1, 1, 2):
        moved = graphene.structure(graphene.positions + step * STEP * displacement)
        energies.append(BandCouplings(moved, moved)(k).energies)
    a, b, c, d = energies
    return (a - 8 * b + 8 * c - d) / (12 * STEP)


def test_overlaps_along_a_displacement_are_differences(graphene):
    displacement = np.random.default_rng(0).normal(size=(2, 3))
    a, b, c, d = (
        graphene.structure(graphene.positions + s * STEP * displacement).overlap for s in (-2, -1, 1, 2)
    )
    expected = (a - 8 * b + 8 * c - d) / (12 * STEP)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(graphene.derivative(displacement).overlap, expected, rtol=0, atol=1e-8)


def test_slopes_are_those_of_the_bands(graphene):
    displacement = np.random.default_rng(1).normal(size=(2, 3))
    for k in (np.array([0.11, 0.23, 0.0]), np.array([0.4, 0.0, 0.0])):
        found = BandCouplings(graphene.structure(graphene.positions), graphene.derivative(displacement))(k)
        expected = difference(graphene, displacement, k)
        assert np.abs(expected).max() > 1
        np.testing.assert_allclose(found.slopes, expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.couplings.diagonal().real, expected, rtol=0, atol=1e-6)


def test_a_degenerate_level_splits_by_its_slopes(graphene):
    """The optical phonon moves the Dirac cone away from K: the two levels there split by 2 |g| u."""
    optical = np.array([[0.6, 0.8, 0.0], [-0.6, -0.8, 0.0]])
    found = BandCouplings(graphene.structure(graphene.positions), graphene.derivative(optical))(K_POINT)
    pair = int(np.abs(found.energies + 9).argmin())  # that of p_z
    pair -= int(found.energies[pair] - found.energies[pair - 1] < 1e-7)
    assert np.diff(found.energies[pair : pair + 2])[0] < 1e-7
    low, high = found.slopes[pair : pair + 2]
    assert low == pytest.approx(-high, abs=1e-6)
    moved = graphene.structure(graphene.positions + STEP * optical)
    split = np.diff(BandCouplings(moved, moved)(K_POINT).energies[pair : pair + 2])[0]
    assert high > 1
    assert split / (2 * STEP) == pytest.approx(high, rel=1e-4)  # and a part of second order


def test_states_mix_by_the_couplings(graphene):
    """c_n' has the component g_mn / (E_n - E_m) along c_m: seen in <m|S|n'> at displaced positions."""
    displacement, k = np.random.default_rng(2).normal(size=(2, 3)), np.array([0.11, 0.23, 0.0])
    start = graphene.structure(graphene.positions)
    found = BandCouplings(start, graphene.derivative(displacement))(k)
    # <m|H'|n> of the old states after a step, with H' - E_n S' in place of dH - E_n dS.
    moved = graphene.structure(graphene.positions + STEP * displacement)
    back = graphene.structure(graphene.positions - STEP * displacement)
    slope = replace(
        start,
        hamiltonian=(moved.hamiltonian - back.hamiltonian) / (2 * STEP),
        overlap=(moved.overlap - back.overlap) / (2 * STEP),
    )
    expected = BandCouplings(start, slope)(k)
    np.testing.assert_allclose(np.abs(found.couplings), np.abs(expected.couplings), rtol=0, atol=1e-4)
    gaps = found.energies - found.energies[:, None]
    np.testing.assert_allclose(
        found.couplings - found.couplings.conj().T,
        -gaps * _overlap_couplings(start, graphene.derivative(displacement), k),
        rtol=0,
        atol=1e-9,
    )


def _overlap_couplings(structure, derivative, k: np.ndarray) -> np.ndarray:
    """c_m^H dS c_n."""
    states = BandCouplings(structure, derivative)(k)
    no_h = replace(derivative, hamiltonian=np.zeros_like(derivative.hamiltonian))
    return -BandCouplings(structure, no_h)(k).couplings / states.energies


def test_what_does_not_fit_is_refused(graphene):
    structure, derivative = graphene.structure(graphene.positions), graphene.derivative(np.eye(2, 3))
    with pytest.raises(DataError, match="the derivatives have other edges than H"):
        BandCouplings(structure, replace(derivative, edges=derivative.edges[::-1]))
    with pytest.raises(DataError, match="the overlap has not been read"):
        BandCouplings(structure, replace(derivative, overlap=None))
    lopsided = derivative.hamiltonian + np.random.default_rng(0).normal(size=derivative.hamiltonian.shape)
    with pytest.raises(DataError, match=r"the hamiltonian is not hermitian .*hermitian = True"):
        BandCouplings(structure, replace(derivative, hamiltonian=lopsided))
