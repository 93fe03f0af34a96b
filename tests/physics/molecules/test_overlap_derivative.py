"""Derivatives of the overlap of a molecule against differences."""

import numpy as np
from pyscf import scf

from tests.molecules import WATER
from tracegrad.physics.molecules.dft import build_molecule
from tracegrad.physics.molecules.h0 import molecule_h0_derivative
from tracegrad.physics.molecules.overlap_derivative import overlap_derivative

STEP = 1e-3  # angstrom


def test_overlaps_move_with_their_atoms():
    numbers, positions = WATER
    found = overlap_derivative(build_molecule(numbers, positions))
    assert found.shape == (3, 3, 24, 24)
    for atom, axis in np.ndindex(3, 3):
        step = np.zeros_like(positions)
        step[atom, axis] = STEP
        a, b, c, d = (
            build_molecule(numbers, positions + k * step).intor_symmetric("int1e_ovlp")
            for k in (-2, -1, 1, 2)
        )
        expected = (a - 8 * b + 8 * c - d) / (12 * STEP)
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(found[atom, axis], expected, rtol=0, atol=1e-8)


def test_derivatives_of_the_core_hamiltonian_are_those_of_pyscf():
    numbers, positions = WATER
    molecule = build_molecule(numbers, positions)
    exact = scf.RHF(molecule).nuc_grad_method().hcore_generator(molecule)
    displacement = np.random.default_rng(0).normal(size=positions.shape)
    found = molecule_h0_derivative("core", numbers, positions, displacement)
    expected = sum(np.einsum("x,xij->ij", displacement[atom], exact(atom)) for atom in range(3))
    np.testing.assert_allclose(found, expected * 1.8897261246, rtol=0, atol=1e-7 * np.abs(expected).max())
    assert not molecule_h0_derivative("core", numbers, positions, np.zeros((3, 3))).any()
