"""Blocks of pairs of atoms from the sparse matrices of ABACUS, whose order and signs of orbitals are stated here."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64, Shaped

from tracegrad.data.crystal_files.abacus.csr import SparseCells
from tracegrad.data.crystals.orbital_blocks import CellOrbitals, join_spins, pair_blocks
from tracegrad.hamiltonian.basis import CONVENTIONS
from tracegrad.units import EV_PER_RYDBERG_ABACUS

# Elements of a matrix: R of the cells, and for each element its cell, row, column and value.
_Elements = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def abacus_orbitals(numbers: Int64[np.ndarray, " atoms"], shells: dict[int, tuple[int, ...]]) -> CellOrbitals:
    """The orbitals of a cell in the order of ABACUS, with its signs.

    Args:
        numbers: atomic numbers in the order of ABACUS.
        shells: ascending degrees of the shells of each element (by atomic number).
    """
    of_element: dict[int, tuple[list[int], list[int]]] = {}
    for number, degrees in shells.items():
        places: list[int] = []
        signs: list[int] = []
        for degree in degrees:
            in_order = CONVENTIONS["openmx"].get(degree, tuple(range(2 * degree + 1)))
            start = len(places)
            for m in (0, *(sign * m for m in range(1, degree + 1) for sign in (1, -1))):
                places.append(start + in_order[degree + m])
                signs.append((-1) ** m)
        of_element[number] = places, signs
    each = [of_element[number] for number in numbers.tolist()]
    return CellOrbitals(
        numbers,
        shells,
        np.repeat(np.arange(len(numbers)), [len(places) for places, _ in each]),
        np.concatenate([places for places, _ in each]).astype(np.int64),
        np.concatenate([signs for _, signs in each]).astype(np.float64),
    )


def abacus_blocks(
    orbitals: CellOrbitals, sparse: Mapping[str, SparseCells], *, spinful: bool
) -> tuple[Int64[np.ndarray, "pairs 5"], dict[str, Shaped[np.ndarray, " entries"]]]:
    """Edges and entries of "hamiltonian" (eV) and "overlap" in the orders of `Structure`.

    Elements that one of the matrices lacks are 0 in it, so that both have the same pairs; H has more than S.

    Args:
        orbitals: the orbitals of a cell, see `abacus_orbitals`.
        sparse: the matrices of the files, rydberg; with ``spinful`` they have two rows for each orbital, spin up and
            spin down.
        spinful: with nspin 4.
    """
    parts: dict[str, _Elements] = {}
    for matrix, one in sparse.items():
        if spinful:
            parts |= _spin_parts(matrix, one)
        else:
            parts[matrix] = (one.cells, one.cell, one.rows, one.columns, one.values)
    edges, blocks = pair_blocks(orbitals, *_common_elements(parts, len(orbitals.atoms)))
    if spinful and "hamiltonian" in sparse:
        spins = [[blocks.pop(f"hamiltonian {s}{t}") for t in "ud"] for s in "ud"]
        blocks["hamiltonian"] = join_spins(edges, orbitals.numbers, orbitals.basis, spins)
    if "hamiltonian" in blocks:
        blocks["hamiltonian"] = EV_PER_RYDBERG_ABACUS * blocks["hamiltonian"]
    return edges, blocks


def _spin_parts(matrix: str, one: SparseCells) -> dict[str, _Elements]:
    """Elements of H for each pair of spins, and of S for spin up; rows and columns are orbitals."""
    parts: dict[str, _Elements] = {}
    for s, t in np.ndindex(2, 2):
        chosen = (one.rows % 2 == s) & (one.columns % 2 == t)
        values = one.values[chosen]
        elements = (one.cells, one.cell[chosen], one.rows[chosen] // 2, one.columns[chosen] // 2)
        if matrix == "hamiltonian":
            parts[f"{matrix} {'ud'[s]}{'ud'[t]}"] = (*elements, values)
        elif s == t == 0:
            parts[matrix] = (*elements, values.real)
    return parts


def _common_elements(
    parts: Mapping[str, _Elements], size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Shaped[np.ndarray, " elements"]]]:
    """Cells, and cell, row, column and values of all elements that any of the matrices has, and of their daggers."""
    reach = np.max([np.abs(cells).max(0) for cells, *_ in parts.values()], axis=0)
    extent = tuple((2 * reach + 1).tolist())
    last = int(np.prod(extent)) - 1
    codes, mirrored = {}, []
    for name, (cells, cell, rows, columns, _) in parts.items():
        place = np.ravel_multi_index((cells + reach).T, extent)[cell]
        codes[name] = (place * size + rows) * size + columns
        mirrored.append(((last - place) * size + columns) * size + rows)
    elements = np.unique(np.concatenate([*codes.values(), *mirrored]))
    values = {}
    for name, code in codes.items():
        numbers = parts[name][-1]
        values[name] = np.zeros(len(elements), dtype=numbers.dtype)
        values[name][np.searchsorted(elements, code)] = numbers
    places, cell = np.unique(elements // size**2, return_inverse=True)
    cells = np.stack(np.unravel_index(places, extent), axis=1) - reach
    return cells, cell, elements // size % size, elements % size, values
