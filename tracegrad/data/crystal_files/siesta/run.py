"""What the binary files of SIESTA, ``.HSX`` and ``.TSHS``, say about a run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from tracegrad.data.crystal_files.siesta.fortran_records import FortranRecords
from tracegrad.units import EV_PER_HARTREE_2018

EV_PER_RYDBERG = EV_PER_HARTREE_2018 / 2
PARTS = (1, 2, 4, 8)
MOST_CELLS = 10**6  # more are a sign of damage


@dataclass(frozen=True)
class SiestaRun:
    """A run without its matrices.

    Args:
        parts: parts of H: 1, 2 (collinear), 4 (non-collinear) or 8 (with spin-orbit coupling).
        fermi_level: eV.
        lattice: rows are lattice vectors, angstrom.
        positions: angstrom.
        cells: R of each cell of the auxiliary supercell.
        species: species of each atom, from 0.
        labels: label of each species.
        charges: valence charge of each species, 0 for ghost atoms; None: not known.
        orbitals: n, l and zeta of each orbital of each species.
    """

    parts: int
    fermi_level: float
    lattice: Float[np.ndarray, "3 3"]
    positions: Float[np.ndarray, "atoms 3"]
    cells: Int64[np.ndarray, "cells 3"]
    species: Int64[np.ndarray, " atoms"]
    labels: tuple[str, ...]
    charges: tuple[float, ...] | None
    orbitals: tuple[Int64[np.ndarray, "_ 3"], ...]

    @property
    def orbital_counts(self) -> Int64[np.ndarray, " atoms"]:
        """Number of orbitals of each atom."""
        return np.array([len(self.orbitals[kind]) for kind in self.species], dtype=np.int64)


@dataclass(frozen=True)
class SiestaMatrices:
    """The elements <row in cell R| |column in cell 0> of H and S.

    Args:
        cell: position of R in ``SiestaRun.cells``.
        rows, columns: orbitals of the cell, from 0.
        hamiltonian: each part, eV.
        overlap: S.
    """

    cell: Int64[np.ndarray, " elements"]
    rows: Int64[np.ndarray, " elements"]
    columns: Int64[np.ndarray, " elements"]
    hamiltonian: Sequence[Float[np.ndarray, " elements"]]
    overlap: Float[np.ndarray, " elements"]


class SparseLists:
    """The lists of a file: for each orbital of the cell, the other orbitals with which it has elements.

    Args:
        records: stands before the lengths of the lists.
        orbitals: number of orbitals of the cell.
        cells: number of cells.
        double: matrices are in double precision.

    Raises:
        DataError: the file is truncated or damaged.
    """

    def __init__(self, records: FortranRecords, orbitals: int, cells: int, *, double: bool = True):
        self.orbitals, self.dtype = orbitals, np.dtype("<f8" if double else "<f4")
        self.lengths = records.ints("lengths of the lists", orbitals)
        if self.lengths.min() < 0:
            raise records.damaged("lists of negative length")
        lists = [records.ints("lists", n) for n in self.lengths.tolist()]
        self.others = np.concatenate(lists) - 1
        if self.others.min(initial=0) < 0 or self.others.max(initial=0) >= orbitals * cells:
            raise records.damaged(f"orbitals outside of {cells} cells of {orbitals} orbitals")

    def elements(self, records: FortranRecords, what: str) -> Float[np.ndarray, " elements"]:
        """The next matrix of the file, one record for each list."""
        lists = [records.record(what, self.dtype.itemsize * n) for n in self.lengths.tolist()]
        return np.frombuffer(b"".join(lists), self.dtype).astype(np.float64)

    def matrices(
        self, hamiltonian: Sequence[Float[np.ndarray, " elements"]], overlap: Float[np.ndarray, " elements"]
    ) -> SiestaMatrices:
        """H (each part, rydberg) and S with the orbitals of their elements."""
        return SiestaMatrices(
            self.others // self.orbitals,
            self.others % self.orbitals,
            np.repeat(np.arange(self.orbitals), self.lengths),
            [EV_PER_RYDBERG * part for part in hamiltonian],
            overlap,
        )
