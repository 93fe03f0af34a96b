"""Hamiltonians for ABACUS: the file ``hrs1_nao.csr``, from which ABACUS starts with ``init_chg hr``."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64, Shaped

from tracegrad.data.crystal_files.abacus.blocks import abacus_orbitals
from tracegrad.data.crystals.reader import checked_spin
from tracegrad.data.crystals.structure import Structure, species_entries
from tracegrad.elements import SYMBOLS
from tracegrad.errors import DataError
from tracegrad.system.whole_files import replacing
from tracegrad.units import EV_PER_RYDBERG_ABACUS

_VALUES, _INDICES = 6, 16  # numbers in a line
_ON_FACE = 1e-8  # fractions; an atom this close below 0 is not moved to 1
_BOX = (
    "CSR Format",
    "The outer loop corresponds to the cells R of the lattice. Each one",
    "begins with Rx, Ry, Rz and the number of its nonzero elements; then",
    "come the values, their columns and the row pointers.",
)


def write_hrs(structure: Structure, folder: str | Path, spin: str | None = None) -> str:
    """Write H in the newer layout of ABACUS, rydberg, and return a line about the atoms.

    The atoms are ordered by element, in the order in which the elements occur, and moved into the cell, as ABACUS
    does it: the STRU of the calculation needs them so, with orbital files that have the shells of the structure.
    Values have 13 digits; elements that are exactly 0 are left out.

    Args:
        structure: with the Hamiltonian.
        folder: where ``hrs1_nao.csr`` (``hrs2_nao.csr`` for spin down) is written.
        spin: "up" or "down" if the structure is a channel of a collinear calculation.

    Raises:
        DataError: the Hamiltonian has not been read.
        TraceGradError: the file cannot be written.
    """
    if structure.hamiltonian is None:
        raise DataError(
            f"{structure.name}: the hamiltonian has not been read, so it cannot be written for ABACUS"
        )
    number_of_spin = 2 if checked_spin(spin) == "down" else 1
    first_seen = list(dict.fromkeys(structure.numbers.tolist()))
    order = np.argsort([first_seen.index(z) for z in structure.numbers.tolist()], kind="stable")
    numbers = structure.numbers[order]
    fractions = structure.positions @ np.linalg.inv(structure.lattice)
    moved = np.floor(fractions + _ON_FACE).astype(np.int64)
    cells, elements = _elements(structure, order, moved)
    size = int(structure.basis.sizes[numbers].sum())
    path = Path(folder) / f"hrs{number_of_spin}_nao.csr"
    with replacing(path) as draft, draft.open("w") as file:
        head = [
            "--- Ionic Step 1 ---",
            "# print H matrix in real space H(R)",
            f"{1 if spin is None else 2} # number of spin directions",
            f"{number_of_spin} # spin index",
            f"{size} # number of localized basis",
            f"{len(cells)} # number of Bravais lattice vector R",
            "",
            "user_defined_lattice",
            "1",
            *(" ".join(f"{x:.15g}" for x in row) for row in structure.lattice),
            " ".join(SYMBOLS[z] for z in first_seen),
            " ".join(str((numbers == z).sum()) for z in first_seen),
            "Direct",
            *(" ".join(f"{x:.15g}" for x in row) for row in (fractions - moved)[order]),
            "",
            "#" + 70 * "-" + "#",
            *(f"# {line:<68} #" for line in _BOX),
            "#" + 70 * "-" + "#",
            "",
        ]
        file.writelines(f" {line}\n" if line else "\n" for line in head)
        for cell, (rows, columns, values) in zip(cells.tolist(), elements, strict=True):
            file.write(" " + " ".join(map(str, [*cell, len(values)])) + "\n")
            pointers = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=size))])
            file.write(" # CSR values\n" + _lines(_numbers(values), _VALUES))
            file.write(" # CSR column indices\n" + _lines(list(map(str, columns.tolist())), _INDICES))
            file.write(" # CSR row pointers\n" + _lines(list(map(str, pointers.tolist())), _INDICES))
            file.write("\n" if len(values) else "")
    symbols = [f"{(numbers == z).sum()} {SYMBOLS[z]}" for z in first_seen]
    same = "the order of the structure" if (order == np.arange(len(order))).all() else "another order"
    return f"{path.name}: {', '.join(symbols)} ({same}); STRU needs the atoms as this file has them"


def _elements(
    structure: Structure, order: Int64[np.ndarray, " atoms"], moved: Int64[np.ndarray, "atoms 3"]
) -> tuple[Int64[np.ndarray, "cells 3"], list[tuple[np.ndarray, np.ndarray, Shaped[np.ndarray, " values"]]]]:
    """All cells R, ascending, and the rows, columns and values (rydberg) of the nonzero elements of each."""
    assert structure.hamiltonian is not None
    edges, spins = structure.edges, structure.basis.spins
    orbitals = abacus_orbitals(structure.numbers[order], structure.shells)
    spatial = structure.basis_of("overlap").sizes[structure.numbers]
    starts = np.empty(len(order), dtype=np.int64)
    starts[order] = np.cumsum(spatial[order]) - spatial[order]
    # Orbital of ABACUS, and its sign, at each place of the blocks of `Structure`, atom by atom in the new order.
    place = starts[order][orbitals.atoms] + orbitals.places
    orbital, sign = np.empty_like(place), np.empty(len(place))
    orbital[place], sign[place] = np.arange(len(place)), orbitals.signs
    shifted = edges[:, :3] + moved[edges[:, 4]] - moved[edges[:, 3]]
    cells, cell_of_edge = np.unique(shifted, axis=0, return_inverse=True)
    parts: list[tuple[np.ndarray, ...]] = []
    for chosen, where in species_entries(edges, structure.numbers, structure.basis):
        sides = []
        for atoms, width in ((edges[chosen, 3], where.shape[1]), (edges[chosen, 4], where.shape[2])):
            spin, inside = np.divmod(np.arange(width), width // spins)
            places = starts[atoms][:, None] + inside
            sides.append((spins * orbital[places] + spin, sign[places]))
        (rows, left), (columns, right) = sides
        values = structure.hamiltonian[where] * left[:, :, None] * right[:, None, :] / EV_PER_RYDBERG_ABACUS
        cell = cell_of_edge.ravel()[chosen][:, None, None]
        full = np.broadcast_arrays(cell, rows[:, :, None], columns[:, None, :])
        kept = values.ravel() != 0
        parts.append((*(x.ravel()[kept] for x in full), values.ravel()[kept]))
    cell, rows, columns, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    sorting = np.lexsort((columns, rows, cell))
    bounds = np.searchsorted(cell[sorting], np.arange(1, len(cells)))
    pieces = zip(*(np.split(part[sorting], bounds) for part in (rows, columns, values)), strict=True)
    return cells, list(pieces)


def _numbers(values: Shaped[np.ndarray, " values"]) -> list[str]:
    if np.iscomplexobj(values):
        return [f"({x.real:.12e},{x.imag:.12e})" for x in values.tolist()]
    return [f"{x:.12e}" for x in values.tolist()]


def _lines(words: list[str], width: int) -> str:
    """Words with ``width`` in a line; one empty line without words."""
    return "".join(f" {' '.join(words[n : n + width])}\n" for n in range(0, len(words), width)) or "\n"
