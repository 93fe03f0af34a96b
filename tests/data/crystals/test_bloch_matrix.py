"""Bloch matrices against the sum of phases and blocks."""

import numpy as np
import pytest

from tests.data.crystals.scfout import small_structure
from tracegrad.data.crystals.bloch_matrix import BlochMatrix


@pytest.mark.parametrize("matrix", ["hamiltonian", "overlap"])
@pytest.mark.parametrize("spinful", [False, True])
def test_sum_over_cells(spinful: bool, matrix: str) -> None:
    structure, k = small_structure(spinful), np.array([0.1, -0.3, 0.45])
    sizes = structure.basis.sizes[structure.numbers]
    starts = np.cumsum(sizes) - sizes
    expected = np.zeros((sizes.sum(), sizes.sum()), dtype=complex)
    spins = np.eye(2 if spinful and matrix == "overlap" else 1)
    for (*cell, i, j), block in zip(structure.edges.tolist(), structure.blocks(matrix), strict=True):
        place = slice(starts[i], starts[i] + sizes[i]), slice(starts[j], starts[j] + sizes[j])
        expected[place] += np.exp(2j * np.pi * np.dot(k, cell)) * np.kron(spins, block)
    np.testing.assert_allclose(BlochMatrix(structure, matrix).at(k).toarray(), expected, atol=1e-13)
