import numpy as np
import pytest
import scipy.linalg
from ase.collections import g2

from tracegrad.errors import BasisError, DataError, GenerationError
from tracegrad.physics.molecules.dft import build_molecule, check_geometry, fock_label
from tracegrad.units import BOHR_PER_ANGSTROM

WATER = g2["H2O"]
HYDROGEN = np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.8]])


@pytest.fixture(scope="module")
def water():
    return {name: fock_label(WATER.numbers, WATER.positions, name) for name in ("b3lyp", "b3lyp5")}


def occupied_levels(hamiltonian):
    overlap = build_molecule(WATER.numbers, WATER.positions).intor("int1e_ovlp")
    return scipy.linalg.eigh(hamiltonian, overlap, eigvals_only=True)[:5]


def test_the_two_functionals_differ_as_vwn5_and_vwn_rpa_do(water):
    shift = occupied_levels(water["b3lyp5"].hamiltonian) - occupied_levels(water["b3lyp"].hamiltonian)
    np.testing.assert_allclose(shift, 3.6e-3, atol=1e-4)
    assert water["b3lyp5"].energy - water["b3lyp"].energy == pytest.approx(0.0371, abs=2e-4)


def test_a_label_is_a_symmetric_matrix_with_a_gap_above_the_occupied_levels(water):
    label = water["b3lyp5"]
    assert label.converged
    assert label.hamiltonian.shape == (24, 24)
    assert label.hamiltonian.dtype == np.float64
    np.testing.assert_allclose(label.hamiltonian, label.hamiltonian.T, atol=1e-12)
    levels = occupied_levels(label.hamiltonian)
    assert levels[0] == pytest.approx(-19.1, abs=0.1)
    assert levels[-1] == pytest.approx(-0.28, abs=0.03)
    assert label.forces is None


def test_the_meaning_of_b3lyp_does_not_follow_the_pyscf_configuration(water, monkeypatch):
    from pyscf.dft import libxc

    monkeypatch.setitem(libxc.XC_CODES, "B3LYP", "B3LYP5")
    label = fock_label(WATER.numbers, WATER.positions, "b3lyp", density_guess=water["b3lyp"].density)
    assert label.energy == pytest.approx(water["b3lyp"].energy, abs=1e-7)


def test_forces_are_the_slope_of_the_energy():
    numbers, positions = HYDROGEN
    step = 1e-3
    label = fock_label(numbers, positions, "b3lyp", conv_tol=1e-11, with_forces=True)
    ends = []
    for sign in (1, -1):
        moved = positions.copy()
        moved[1, 2] += sign * step
        ends.append(fock_label(numbers, moved, "b3lyp", conv_tol=1e-11).energy)
    slope = (ends[0] - ends[1]) / (2 * step * BOHR_PER_ANGSTROM)
    # The gradient neglects that the integration grid moves with the atoms.
    assert label.forces[1, 2] == pytest.approx(-slope, abs=1e-5)


def test_a_density_guess_saves_cycles(water):
    again = fock_label(WATER.numbers, WATER.positions, "b3lyp", density_guess=water["b3lyp"].density)
    assert again.cycles < water["b3lyp"].cycles
    np.testing.assert_allclose(again.hamiltonian, water["b3lyp"].hamiltonian, atol=1e-5)


def test_an_scf_without_enough_cycles_says_so():
    label = fock_label(*HYDROGEN, "b3lyp", max_cycle=1, with_forces=True)
    assert not label.converged
    assert label.forces is None


def test_an_odd_number_of_electrons_is_refused():
    with pytest.raises(GenerationError, match=r"^radical: 9 electrons"):
        fock_label(np.array([8, 1]), HYDROGEN[1], "b3lyp", name="radical")


def test_an_unknown_functional_is_refused():
    with pytest.raises(GenerationError, match="'pbe0' is unknown"):
        fock_label(*HYDROGEN, "pbe0")


@pytest.mark.parametrize(
    ("numbers", "positions", "error", "message"),
    [
        ([79, 1, 1], WATER.positions, BasisError, "element Au"),
        ([1, 1], [[0, 0, 0], [0, 0, 0.074]], DataError, "0 and 1 are 0.074 angstrom apart"),
        ([1, 1], [[0, 0, 0], [0, 0, np.nan]], DataError, "not a finite number"),
        ([], np.zeros((0, 3)), DataError, "at least one atom"),
    ],
)
def test_geometries_without_a_label_are_named(numbers, positions, error, message):
    with pytest.raises(error, match=f"^mine: .*{message}"):
        check_geometry(np.array(numbers, int), np.array(positions, float), "mine")
