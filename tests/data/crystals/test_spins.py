"""Both spins of collinear calculations: names, readers, and the two as one structure."""

from dataclasses import replace

import numpy as np
import pytest

from tests.data.crystals.aims_files import write_calculation
from tests.data.crystals.orbital_files import assert_same_crystal, mos2
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.data.crystals.spins import block_diagonal, named_spin
from tracegrad.data.crystals.structure import check_structure
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import SPINS

K = np.array([0.1, 0.27, 0.0])


def test_names():
    assert [named_spin(name) for name in ("a_up", "b/a_down", "a", "_up", "a_up_2")] == [
        ("a", "up"),
        ("b/a", "down"),
        ("a", None),
        ("_up", None),
        ("a_up_2", None),
    ]


def test_each_calculation_is_two_structures(tmp_path):
    up, down = mos2(seed=0), replace(mos2(seed=1), overlap=mos2(seed=0).overlap)
    for name in ("b", "a"):
        write_calculation(up, tmp_path / name, down=down)
    database = CrystalDatabase(tmp_path, spin="both", overlap=True)
    assert database.names == ["a_up", "a_down", "b_up", "b_down"]
    assert database.calculations == ["a", "b"]
    assert database.rows_of(np.array([1])).tolist() == [2, 3]
    assert [database.spin_of(row) for row in range(4)] == ["up", "down", "up", "down"]
    for row in range(4):
        assert_same_crystal(database[row], (up, down)[row % 2])
    assert [path.name for path in database.files("a_down")][-1] == "rs_hamiltonian_dn.out"
    database.check_files()
    one = CrystalDatabase(tmp_path, spin="down")
    assert one.calculations == one.names == ["a", "b"]
    assert one.identity()["spin"] == "down"
    assert CrystalDatabase(tmp_path, spin="both", include="b").names == ["b_up", "b_down"]
    (tmp_path / "b" / "rs_hamiltonian_dn.out").unlink()
    with pytest.raises(DataError, match=r"rs_hamiltonian_dn\.out: cannot be read"):
        database.check_files()


def matrices(structure):
    return [BlochMatrix(structure, matrix).at(K).toarray() for matrix in ("hamiltonian", "overlap")]


def test_both_spins_as_one_structure():
    """H(k) is block-diagonal in spin with the H(k) of both, and S is that of each."""
    up, down = mos2(seed=0), replace(mos2(seed=1), overlap=mos2(seed=0).overlap)
    both = block_diagonal(up, down, "both")
    check_structure(both, "both")
    assert (both.name, both.spinful) == ("both", True)
    h, s = matrices(both)
    expected, own = np.zeros_like(h), [matrices(one) for one in (up, down)]
    size = len(h) // 2
    starts, sizes = np.cumsum([0, *both.basis.sizes[both.numbers]]), both.basis.sizes[both.numbers]
    rows = [
        np.concatenate(
            [np.arange(a + k * n // 2, a + (k + 1) * n // 2) for a, n in zip(starts, sizes, strict=False)]
        )
        for k in range(len(SPINS))
    ]
    for (of_spin, _), place in zip(own, rows, strict=True):
        assert len(of_spin) == size
        expected[np.ix_(place, place)] = of_spin
    assert np.abs(h - expected).max() < 1e-12
    for (_, overlap), place in zip(own, rows, strict=True):
        assert np.abs(s[np.ix_(place, place)] - overlap).max() < 1e-12


def test_pairs_of_one_spin_only_are_zero_for_the_other():
    """Codes leave out blocks without elements, and these may differ between the spins."""
    up = mos2()
    far = np.abs(up.edges[:, :3]).sum(1) < 2
    kept = np.repeat(far, [block.size for block in up.blocks("hamiltonian")])
    down = replace(up, edges=up.edges[far], hamiltonian=up.hamiltonian[kept], overlap=None)
    both = block_diagonal(up, down, "both")
    assert np.array_equal(both.edges, up.edges)
    zeros = [np.abs(block[len(block) // 2 :]).max() == 0 for block in both.blocks("hamiltonian")]
    assert np.array_equal(zeros, ~far)


def test_structures_that_are_not_two_spins_of_one():
    with pytest.raises(DataError, match=r"a and b: not two spins of one structure"):
        block_diagonal(mos2(name="a"), replace(mos2(name="b"), positions=mos2().positions + 0.1), "both")
    with pytest.raises(DataError, match=r"not two spins of one structure"):
        block_diagonal(mos2(spinful=True), mos2(spinful=True), "both")
