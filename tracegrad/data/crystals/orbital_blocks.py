"""Blocks of pairs of atoms from sparse matrices whose elements name two orbitals and a cell."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, Shaped

from tracegrad.data.crystals.structure import edge_order, reordered, species_entries
from tracegrad.elements import SYMBOLS
from tracegrad.errors import BasisError
from tracegrad.hamiltonian.basis import CONVENTIONS, OrbitalBasis, shells_name
from tracegrad.hamiltonian.blocks import block_starts


@dataclass(frozen=True)
class CellOrbitals:
    """The orbitals of a cell in the order of a file, of a code that orders the orbitals of a shell as m = -l .. l.

    Args:
        numbers: atomic numbers.
        shells: ascending degrees of the shells of each element (by atomic number).
        atoms: atom of each orbital, from 0.
        places: place of each orbital among those of its atom in the order of `Structure`.
        signs: sign of the function of the file relative to the standard real harmonic.
    """

    numbers: Int64[np.ndarray, " atoms"]
    shells: dict[int, tuple[int, ...]]
    atoms: Int64[np.ndarray, " orbitals"]
    places: Int64[np.ndarray, " orbitals"]
    signs: Float[np.ndarray, " orbitals"]

    @property
    def basis(self) -> OrbitalBasis:
        """The basis in the order of `Structure`, without spin."""
        return OrbitalBasis.openmx(self.shells)


def cell_orbitals(
    numbers: Int64[np.ndarray, " atoms"],
    degrees: Sequence[Sequence[int]],
    sign: Callable[[int], int],
    where: str,
) -> CellOrbitals:
    """The orbitals of a cell from the degrees of the shells of each atom in the order of the file.

    Args:
        numbers: atomic numbers.
        degrees: degrees of the shells of each atom; every shell has the orbitals m = -l .. l.
        sign: sign of the function of the file with this m relative to the standard one, +1 or -1.
        where: source of the degrees in messages.

    Raises:
        BasisError: two atoms of one element have different shells.
    """
    shells: dict[int, tuple[int, ...]] = {}
    places: list[int] = []
    magnetic: list[int] = []
    for atom, (number, in_file) in enumerate(zip(numbers.tolist(), degrees, strict=True)):
        ascending = tuple(sorted(in_file))
        known = shells.setdefault(number, ascending)
        if known != ascending:
            raise BasisError(
                f"{where}: atom {atom + 1} ({SYMBOLS[number]}) has shells {shells_name(ascending)}, but an earlier "
                f"one of this element {shells_name(known)}; one basis for each element is supported, so compute both "
                "kinds of atoms with the same"
            )
        order = np.argsort(in_file, kind="stable")
        starts = np.empty(len(in_file), dtype=np.int64)
        starts[order] = np.cumsum([0, *(2 * degree + 1 for degree in ascending)])[:-1]
        for start, degree in zip(starts.tolist(), in_file, strict=True):
            positions = CONVENTIONS["openmx"].get(degree, tuple(range(2 * degree + 1)))
            places += [start + position for position in positions]
            magnetic += range(-degree, degree + 1)
    sizes = [sum(2 * degree + 1 for degree in in_file) for in_file in degrees]
    return CellOrbitals(
        numbers,
        {number: shells[number] for number in sorted(shells)},
        np.repeat(np.arange(len(numbers)), sizes),
        np.array(places, dtype=np.int64),
        np.array([sign(m) for m in magnetic], dtype=np.float64),
    )


def pair_blocks(
    orbitals: CellOrbitals,
    cells: Int64[np.ndarray, "cells 3"],
    cell: Int64[np.ndarray, " elements"],
    rows: Int64[np.ndarray, " elements"],
    columns: Int64[np.ndarray, " elements"],
    values: Mapping[str, Shaped[np.ndarray, " elements"]],
) -> tuple[Int64[np.ndarray, "pairs 5"], dict[str, Shaped[np.ndarray, " entries"]]]:
    """Edges and entries of dense blocks, in the orders of `Structure` without spin; elements that are absent are 0.

    Args:
        orbitals: the orbitals of a cell.
        cells: R of each cell.
        cell: position in ``cells`` of the cell of each element, <row in cell 0| |column in cell R>.
        rows, columns: orbitals of each element, from 0.
        values: elements of each matrix by a name.
    """
    numbers, atoms = orbitals.numbers, len(orbitals.numbers)
    pair = (cell * atoms + orbitals.atoms[rows]) * atoms + orbitals.atoms[columns]
    pairs, edge = np.unique(pair, return_inverse=True)
    edges = np.concatenate(
        [cells[pairs // atoms**2], (pairs // atoms % atoms)[:, None], (pairs % atoms)[:, None]], axis=1
    )
    basis = orbitals.basis
    starts = block_starts(edges[:, 3:].T, numbers, basis)
    widths = basis.sizes[numbers[edges[:, 4]]]
    where = starts[edge] + orbitals.places[rows] * widths[edge] + orbitals.places[columns]
    signs = orbitals.signs[rows] * orbitals.signs[columns]
    order = edge_order(edges)
    blocks = {}
    for name, elements in values.items():
        entries = np.zeros(starts[-1], dtype=elements.dtype)
        entries[where] = signs * elements
        blocks[name] = reordered(entries, starts, order)
    return edges[order], blocks


def join_spins(
    edges: Int64[np.ndarray, "pairs 5"],
    numbers: Int64[np.ndarray, " atoms"],
    basis: OrbitalBasis,
    parts: Sequence[Sequence[Shaped[np.ndarray, " entries"]]],
) -> Shaped[np.ndarray, " spinful"]:
    """Entries of the blocks [[uu, ud], [du, dd]].

    Args:
        edges: rows [Rx, Ry, Rz, i, j].
        numbers: atomic numbers.
        basis: the basis without spin.
        parts: entries without spin, [[uu, ud], [du, dd]].
    """
    spinful = OrbitalBasis.openmx(basis.shells, spinful=True)
    joined = np.empty(4 * len(parts[0][0]), dtype=np.complex128)
    both = zip(species_entries(edges, numbers, basis), species_entries(edges, numbers, spinful), strict=True)
    for (_, source), (_, where) in both:
        _, rows, columns = source.shape
        for s, t in np.ndindex(2, 2):
            joined[where[:, s * rows : (s + 1) * rows, t * columns : (t + 1) * columns]] = parts[s][t][source]
    return joined
