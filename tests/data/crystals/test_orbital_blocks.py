import numpy as np
import pytest

from tracegrad.data.crystals.orbital_blocks import cell_orbitals, pair_blocks
from tracegrad.errors import BasisError


def test_shells_of_a_file_need_not_ascend():
    """s p s d, m = -l .. l, becomes s s p d with p as x, y, z and d as z2, x2-y2, xy, xz, yz."""
    orbitals = cell_orbitals(np.array([42]), [[0, 1, 0, 2]], lambda m: -1 if m % 2 else 1, "file")
    assert orbitals.shells == {42: (0, 0, 1, 2)}
    names = ["s1", "y", "z", "x", "s2", "xy", "yz", "z2", "xz", "x2-y2"]
    in_order = ["s1", "s2", "x", "y", "z", "z2", "x2-y2", "xy", "xz", "yz"]
    assert orbitals.places.tolist() == [in_order.index(name) for name in names]
    assert orbitals.signs.tolist() == [1, -1, 1, -1, 1, 1, -1, 1, -1, 1]


def test_elements_that_are_absent_are_zero():
    orbitals = cell_orbitals(np.array([16, 16]), [[0, 1], [0, 1]], lambda m: -1 if m == 1 else 1, "file")
    cells = np.array([[0, 0, 0], [0, 0, 1], [0, 0, -1]])
    # <x of atom 2| |s of atom 1, R> and <z of atom 1| |z of atom 1>
    edges, blocks = pair_blocks(
        orbitals, cells, np.array([1, 0]), np.array([7, 2]), np.array([0, 2]), {"H": np.array([3.0, 2.0])}
    )
    assert edges.tolist() == [[0, 0, 0, 0, 0], [0, 0, 1, 1, 0]]
    expected = np.zeros((2, 4, 4))
    expected[0, 3, 3] = 2.0
    expected[1, 1, 0] = -3.0
    np.testing.assert_array_equal(blocks["H"], expected.ravel())


def test_two_bases_of_one_element():
    with pytest.raises(BasisError, match=r"file: atom 2 \(S\) has shells s1p2, but an earlier one .* s1p1"):
        cell_orbitals(np.array([16, 16]), [[0, 1], [0, 1, 1]], lambda m: 1, "file")
