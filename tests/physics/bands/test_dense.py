"""Eigenproblems whose overlap matrix is nearly singular."""

import numpy as np
import pytest
import scipy.linalg

from tests.physics.bands.toys import graphene
from tracegrad.errors import DataError
from tracegrad.physics.bands.dense import all_states, count_ghosts, deepest_level


def hermitian(size: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(size, size)) + 1j * random.normal(size=(size, size))
    return (matrix + matrix.conj().T) / 2


def overlap_of(values: np.ndarray) -> np.ndarray:
    vectors = scipy.linalg.eigh(hermitian(len(values), 1))[1]
    return (vectors * values) @ vectors.conj().T


def test_what_is_left_is_the_eigenproblem_of_the_other_directions():
    values = np.array([1e-12, 1e-9, 0.2, 0.5, 1.0, 1.5])
    hamiltonian, overlap = hermitian(6, 0), overlap_of(values)
    found = all_states(hamiltonian, overlap, "here", 1e-8)
    assert (found.dropped, len(found.states.energies)) == (2, 4)
    assert found.smallest_overlap == pytest.approx(0, abs=1e-11)
    kept = scipy.linalg.eigh(overlap)[1][:, 2:]
    projected = [kept.conj().T @ matrix @ kept for matrix in (hamiltonian, overlap)]
    assert np.abs(found.states.energies - scipy.linalg.eigh(*projected, eigvals_only=True)).max() < 1e-12
    vectors = found.states.vectors
    assert np.abs(vectors.conj().T @ overlap @ vectors - np.eye(4)).max() < 1e-12
    norms = [1 / (np.abs(c) ** 2).sum() for c in vectors.T]
    assert found.states.mean_overlaps == pytest.approx(norms)


def test_nothing_is_projected_out_of_a_good_basis():
    hamiltonian, overlap = hermitian(4, 0), overlap_of(np.array([0.3, 0.5, 1.0, 1.5]))
    found = all_states(hamiltonian, overlap, "here")
    assert found.dropped == 0
    assert np.array_equal(found.states.energies, scipy.linalg.eigh(hamiltonian, overlap)[0])
    again = all_states(hamiltonian, overlap, "here", smallest=0.3)
    assert np.array_equal(again.states.energies, found.states.energies)


@pytest.mark.parametrize(
    ("values", "threshold", "message"),
    [
        ([-1e-3, 1.0, 1.0], 1e-8, r"here: S is not positive definite \(smallest eigenvalue -1.0e-03\)"),
        ([-1e-12, 1.0, 1.0], 0.0, "here: S is not positive definite"),
        (
            [0.1, 0.2, 0.3],
            0.5,
            r"here: all eigenvalues of S are below overlap_threshold=0.5 \(the largest is 3",
        ),
    ],
)
def test_bad_overlaps(values, threshold, message):
    with pytest.raises(DataError, match=message):
        all_states(hermitian(3, 0), overlap_of(np.array(values)), "here", threshold)


def test_ghosts():
    energies, overlaps = np.array([-60.0, -8.0, -3.0, 4.0]), np.array([0.9, 0.01, 0.5, 0.001])
    assert deepest_level(graphene(on_site=2.0)) == -13.0
    assert count_ghosts(energies, overlaps, level=0.0, deepest=-13.0) == 2
    assert count_ghosts(energies, overlaps, level=5.0, deepest=-100.0) == 2
    assert count_ghosts(energies, overlaps, level=-70.0, deepest=-13.0) == 0
