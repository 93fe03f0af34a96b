"""H for ABACUS, compared with the literal files of the tests of the reader, and read back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.data.crystals.abacus_files import RYDBERG, dense_cells
from tests.data.crystals.scfout import small_structure
from tracegrad.data.crystal_files.abacus.csr import read_csr
from tracegrad.data.crystal_files.abacus.reader import ABACUSReader
from tracegrad.data.crystal_files.abacus.writer import write_hrs
from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.data.crystals.structure import Structure, edge_order
from tracegrad.errors import DataError

SHELLS = ["Mo-s2p1d1", "S-s1p1"]


def inside(structure: Structure) -> Structure:
    """The structure with all atoms in the cell."""
    return replace(structure, positions=structure.positions + np.array([0.3, 0.3, 5.0]))


@pytest.mark.parametrize("spinful", [False, True])
def test_elements_and_what_is_read_back(tmp_path: Path, spinful: bool) -> None:
    structure = inside(small_structure(spinful))
    assert write_hrs(structure, tmp_path).startswith("hrs1_nao.csr: 1 Mo, 2 S (the order of the structure)")
    sparse = read_csr(tmp_path / "hrs1_nao.csr")
    expected = dense_cells(structure, "hamiltonian")
    assert [tuple(cell) for cell in sparse.cells.tolist()] == sorted(expected)
    for n, cell in enumerate(sorted(expected)):
        dense = np.zeros_like(expected[cell])
        chosen = sparse.cell == n
        dense[sparse.rows[chosen], sparse.columns[chosen]] = sparse.values[chosen]
        np.testing.assert_allclose(dense, expected[cell] / RYDBERG, rtol=0, atol=1e-11)
    found = ABACUSReader(tmp_path, SHELLS).read(tmp_path.name, ["hamiltonian"])
    assert np.array_equal(found.edges, structure.edges)
    np.testing.assert_allclose(found.hamiltonian, structure.hamiltonian, rtol=0, atol=1e-11)
    np.testing.assert_allclose(found.positions, structure.positions, atol=1e-12)
    np.testing.assert_allclose(found.lattice, structure.lattice, atol=1e-12)


def test_atoms_in_another_order_and_outside_of_the_cell(tmp_path: Path) -> None:
    """The eigenvalues stay, and so does the vector of each block."""
    plain = small_structure()
    numbers, order = plain.numbers[[1, 0, 2]], np.array([1, 0, 2])
    edges = np.concatenate([plain.edges[:, :3], order[plain.edges[:, 3:]]], axis=1)
    sorting = edge_order(edges)
    blocks = plain.blocks("hamiltonian")
    structure = replace(
        plain,
        numbers=numbers,
        positions=plain.positions[order],
        edges=edges[sorting],
        hamiltonian=np.concatenate([blocks[n].ravel() for n in sorting]),
        overlap=None,
    )
    assert "2 S, 1 Mo (another order)" in write_hrs(structure, tmp_path)
    found = ABACUSReader(tmp_path, SHELLS).read(tmp_path.name, ["hamiltonian"])
    assert found.numbers.tolist() == [16, 16, 42]
    fractions = found.positions @ np.linalg.inv(found.lattice)
    assert fractions.min() > -1e-9
    assert fractions.max() < 1

    def at_k(one: Structure) -> np.ndarray:
        return np.linalg.eigvalsh(BlochMatrix(one, "hamiltonian").at(np.array([0.1, 0.23, -0.4])).toarray())

    np.testing.assert_allclose(at_k(found), at_k(structure), atol=1e-10)

    def vectors(one: Structure) -> np.ndarray:
        x = one.positions
        found = x[one.edges[:, 4]] + one.edges[:, :3] @ one.lattice - x[one.edges[:, 3]]
        return found[np.lexsort(np.round(found, 8).T)]

    np.testing.assert_allclose(vectors(found), vectors(structure), atol=1e-9)


def test_spin_down_and_a_structure_without_h(tmp_path: Path) -> None:
    structure = small_structure()
    assert write_hrs(structure, tmp_path, "down").startswith("hrs2_nao.csr")
    assert " 2 # number of spin directions\n 2 # spin index\n" in (tmp_path / "hrs2_nao.csr").read_text()
    with pytest.raises(DataError, match="small: the hamiltonian has not been read"):
        write_hrs(replace(structure, hamiltonian=None), tmp_path)


def test_empty_cells_stay(tmp_path: Path) -> None:
    structure = small_structure()
    blocks = structure.blocks("hamiltonian")
    for edge, block in zip(structure.edges, blocks, strict=True):
        block *= edge[:3].tolist() not in ([1, 1, 0], [-1, -1, 0])
    write_hrs(replace(inside(structure), hamiltonian=np.concatenate([b.ravel() for b in blocks])), tmp_path)
    text = (tmp_path / "hrs1_nao.csr").read_text()
    assert " 1 1 0 0\n # CSR values\n\n # CSR column indices\n\n # CSR row pointers\n 0 0 0" in text
    assert len(read_csr(tmp_path / "hrs1_nao.csr").cells) == 5
