"""Bloch matrices of crystals, M(k) = sum_R exp(2 pi i k.R) M(R).

k and the cells R are in units of the reciprocal lattice vectors and of the lattice vectors. The orbitals are ordered
by atoms, as in the files. With spin-orbit coupling the orbitals of each atom come twice, first with spin up and then
with spin down, and the overlap is S (x) 1_2.
"""

import numpy as np
from jaxtyping import Float, Int64, Shaped
from scipy.sparse import csr_array

from tracegrad.data.crystals.structure import Structure, species_entries
from tracegrad.errors import DataError


class BlochMatrix:
    """One matrix of a structure, M(k) = sum_R exp(2 pi i k.R) M(R), which can be evaluated at any k.

    The numbers of all M(R) are in a sparse table [nonzero elements of M, cells R]; its product with the phases is
    M(k).

    Args:
        structure: with the matrix.
        matrix: "hamiltonian" or "overlap".
    """

    def __init__(self, structure: Structure, matrix: str) -> None:
        self.cells, cell_of_edge = np.unique(structure.edges[:, :3], axis=0, return_inverse=True)
        sizes = structure.basis.sizes[structure.numbers]
        self.size = int(sizes.sum())
        rows, columns, cells, values = _triples(structure, matrix, np.cumsum(sizes) - sizes)
        places, place = np.unique(rows * self.size + columns, return_inverse=True)
        table = (values, (place, cell_of_edge.ravel()[cells]))
        self._table = csr_array(table, shape=(len(places), len(self.cells)))
        self._columns = places % self.size
        self._starts = np.searchsorted(places, self.size * np.arange(self.size + 1))

    def at(self, k: Float[np.ndarray, " 3"]) -> csr_array:
        """M(k), complex, of shape (size, size); k in units of the reciprocal lattice vectors."""
        phases = np.exp(2j * np.pi * (self.cells @ k))
        shape = (self.size, self.size)
        return csr_array((self._table @ phases, self._columns, self._starts), shape=shape)

    def in_cell(self, position: int) -> csr_array:
        """M(R) of the cell ``cells[position]``, of shape (size, size)."""
        column = self._table[:, [position]].tocoo()
        places = column.coords[0]
        rows = np.searchsorted(self._starts, places, side="right") - 1
        return csr_array((column.data, (rows, self._columns[places])), shape=(self.size, self.size))


def _triples(
    structure: Structure, matrix: str, starts: Int64[np.ndarray, " atoms"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Shaped[np.ndarray, " numbers"]]:
    """Row, column, edge and value of every matrix element; ``starts`` are the first rows of the atoms."""
    basis, edges = structure.basis_of(matrix), structure.edges
    values = getattr(structure, matrix)
    if values is None:
        raise DataError(f"{structure.name}: the {matrix} has not been read; bands need H and S")
    copies = structure.basis.spins // basis.spins  # S is the same for both spins
    parts: list[tuple[np.ndarray, ...]] = []
    for chosen, where in species_entries(edges, structure.numbers, basis):
        _, height, width = where.shape
        for spin in range(copies):
            row = starts[edges[chosen, 3]][:, None] + np.arange(height) + spin * height
            column = starts[edges[chosen, 4]][:, None] + np.arange(width) + spin * width
            places = np.broadcast_arrays(row[:, :, None], column[:, None, :], chosen[:, None, None])
            parts.append((*(place.ravel() for place in places), values[where].ravel()))
    rows, columns, cells, numbers = (np.concatenate(part) for part in zip(*parts, strict=True))
    return rows, columns, cells, numbers
