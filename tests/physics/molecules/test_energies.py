"""Energy, forces and properties of densities, against PySCF's SCF and finite differences."""

import numpy as np
import pytest
from pyscf import dft
from pyscf.lo import orth

from tests import molecules
from tracegrad.physics.molecules.density import density
from tracegrad.physics.molecules.dft import build_molecule, fock_label
from tracegrad.physics.molecules.energies import (
    EnergyFunctional,
    commutator_norm,
    dipole,
    loewdin_charges,
    mulliken_charges,
    scf_residual,
)
from tracegrad.units import ANGSTROM_PER_BOHR

NUMBERS, POSITIONS = molecules.WATER


@pytest.fixture(scope="module")
def label():
    return fock_label(NUMBERS, POSITIONS, "b3lyp", conv_tol=1e-13, with_forces=True)


def energy_at(hamiltonian: np.ndarray, positions: np.ndarray = POSITIONS, **options):
    return EnergyFunctional(build_molecule(NUMBERS, positions), "b3lyp")(hamiltonian, **options)


def test_the_converged_hamiltonian_gives_the_converged_energy_and_forces(label):
    found = energy_at(label.hamiltonian, forces=True)
    assert found.energy == pytest.approx(label.energy, abs=1e-10)
    np.testing.assert_allclose(found.forces, label.forces, atol=1e-6)
    np.testing.assert_allclose(found.density, label.density, atol=1e-6)


def test_the_error_of_the_energy_is_quadratic(label):
    noise = np.random.default_rng(0).normal(size=label.hamiltonian.shape)
    noise = noise + noise.T
    errors = [energy_at(label.hamiltonian + h * noise).energy - label.energy for h in (1e-3, 2e-3)]
    assert errors[0] > 0
    assert errors[1] / errors[0] == pytest.approx(4, rel=0.05)


def test_steps_approach_the_converged_state(label):
    noise = np.random.default_rng(1).normal(size=label.hamiltonian.shape)
    start = label.hamiltonian + 1e-2 * (noise + noise.T)
    energies, forces = [], []
    for steps in (0, 8):
        found = energy_at(start, steps=steps, forces=True)
        energies.append(found.energy - label.energy)
        forces.append(np.abs(found.forces - label.forces).max())
    assert 0 < energies[1] < energies[0] / 10
    assert forces[1] < forces[0] / 3


def test_forces_are_the_derivative_of_the_energy_whose_orbitals_follow_the_atoms(label):
    """E[D] with D = S^(-1/2) P S^(-1/2) and P fixed has the gradient with W = D F D / 2 to first order of [F, D].

    Where D is converged, the finite difference is the force whatever way D follows; grid and weights stay as at each
    position, so that the tolerance is that of the grid.
    """
    functional = EnergyFunctional(build_molecule(NUMBERS, POSITIONS), "b3lyp")
    forces = functional(label.hamiltonian, forces=True).forces
    values, vectors = np.linalg.eigh(functional.overlap)
    root = (vectors * np.sqrt(values)) @ vectors.T
    orthogonal = root @ label.density @ root
    step = 1e-3
    for atom, axis in ((0, 2), (1, 1)):
        energies = []
        for sign in (1, -1):
            moved = POSITIONS.copy()
            moved[atom, axis] += sign * step * ANGSTROM_PER_BOHR
            molecule = build_molecule(NUMBERS, moved)
            back = np.linalg.inv(_root(molecule.intor("int1e_ovlp")))
            field = dft.RKS(molecule, xc="b3lypg")
            energies.append(field.energy_tot(dm=back @ orthogonal @ back))
        assert forces[atom, axis] == pytest.approx(-(energies[0] - energies[1]) / (2 * step), abs=2e-4)


def _root(overlap: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(overlap)
    return (vectors * np.sqrt(values)) @ vectors.T


def test_charges_and_dipole(label):
    molecule = build_molecule(NUMBERS, POSITIONS)
    overlap = molecule.intor("int1e_ovlp")
    field = dft.RKS(molecule)
    _, expected = field.mulliken_pop(molecule, label.density, overlap, verbose=0)
    np.testing.assert_allclose(mulliken_charges(molecule, label.density, overlap), expected, atol=1e-12)
    orthogonal = orth.lowdin(overlap)
    inverse = np.linalg.inv(orthogonal)
    _, expected = field.mulliken_pop(
        molecule, inverse @ label.density @ inverse.T, np.eye(len(overlap)), verbose=0
    )
    np.testing.assert_allclose(loewdin_charges(molecule, label.density, overlap), expected, atol=1e-10)
    expected = field.dip_moment(molecule, label.density, unit="AU", verbose=0)
    np.testing.assert_allclose(dipole(molecule, label.density), expected, atol=1e-10)


def test_a_density_without_steps_is_that_of_the_hamiltonian(label):
    found = energy_at(label.hamiltonian + 0.01 * np.eye(len(label.hamiltonian)))
    overlap = build_molecule(NUMBERS, POSITIONS).intor("int1e_ovlp")
    expected = density(label.hamiltonian + 0.01 * np.eye(len(overlap)), overlap, 10)
    np.testing.assert_allclose(found.density, expected, atol=1e-12)
    assert found.forces is None


def test_measures_without_labels(label):
    functional = EnergyFunctional(build_molecule(NUMBERS, POSITIONS), "b3lyp")
    found = functional(label.hamiltonian)
    assert scf_residual(label.hamiltonian, found) < 1e-6
    assert commutator_norm(functional.overlap, found) < 1e-6
    noise = np.random.default_rng(2).normal(size=label.hamiltonian.shape)
    noise = 1e-3 * (noise + noise.T)
    norms = []
    for scale in (1, 2):
        h = label.hamiltonian + scale * noise
        found = functional(h)
        assert scf_residual(h, found) == pytest.approx(np.abs(found.fock - h).mean())
        s = functional.overlap
        root = _root(s)
        literal = np.linalg.solve(root, found.fock @ found.density @ s - s @ found.density @ found.fock)
        literal = np.linalg.solve(root, literal.T)
        norms.append(commutator_norm(s, found))
        assert norms[-1] == pytest.approx(np.sqrt((literal**2).mean()), rel=1e-8)
    assert norms[1] == pytest.approx(2 * norms[0], rel=0.05)  # linear in the error of H
