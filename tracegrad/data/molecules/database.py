"""What databases of molecules in every format have in common."""

import math
import operator
import os
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Int64

from tracegrad.data.molecules.molecule_checks import (
    ORBITALS,
    FunctionalLevels,
    Layout,
    check_functional,
    check_molecule,
    long_distances,
)
from tracegrad.data.molecules.sqlite_file import SQLiteFile
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import DEF2_SVP

SYMMETRY_TOLERANCE = 1e-6  # hartree
_ROWS_CHECKED = 32  # rows in checks of the database as a whole


@dataclass(frozen=True)
class Molecule:
    """One row: atomic numbers, positions (angstrom) and, in PySCF order, the Hamiltonian (hartree)."""

    row: int
    numbers: Int64[np.ndarray, " atoms"]
    positions: Float[np.ndarray, "atoms 3"]
    hamiltonian: Float[np.ndarray, "n n"]


class MoleculeDatabase(ABC):
    """An SQLite file of molecules in def2-SVP as a sequence, in the order of its table.

    A format names its table and columns and decodes a row (`decode`). Nothing is copied or preprocessed; a row is
    read and validated when it is accessed. An instance can be shared with DataLoader workers.

    Args:
        path: of the file.

    Attributes:
        advice: what to do if there is no file, for the message.
        table: the table with one row for each molecule.
        numbers_column: the column of the atomic numbers, 4 bytes each.
        selected: the columns that `decode` receives.
        layout: names and unit for messages.
        levels: 1s levels of the functional of the database; None where rows of several functionals are read.
        rounding: relative rounding error of H in the file.

    Raises:
        DataError: the file is missing or no SQLite database.
    """

    advice: ClassVar[str]
    table: ClassVar[str] = "data"
    numbers_column: ClassVar[str] = "Z"
    selected: ClassVar[str]
    levels: ClassVar[FunctionalLevels | None] = None
    rounding: ClassVar[float] = 0.0
    layout: Layout

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not os.path.isfile(self.path):  # unlike Path.is_file, False also without permission
            raise DataError(f"{self.path}: no such database; {self.advice}")
        self.file = SQLiteFile(self.path)

    @abstractmethod
    def decode(
        self, where: str, *values: Any
    ) -> tuple[Int64[np.ndarray, " atoms"], Float[np.ndarray, "atoms 3"], Float[np.ndarray, "n n"]]:
        """Atomic numbers, positions (angstrom) and H (hartree, PySCF's order, float64) of a row.

        Args:
            where: database and row, for messages.
            values: of the columns ``selected``.

        Raises:
            DataError: a value is missing, or of another type or length than the others need.
        """

    @cached_property
    def atom_counts(self) -> Int64[np.ndarray, " rows"]:
        """Number of atoms of each row, from the length of the atomic numbers."""
        lengths = self.file.query(f"SELECT length({self.numbers_column}) FROM {self.table} ORDER BY rowid")
        return np.array([length or 0 for (length,) in lengths], dtype=np.int64) // 4

    @cached_property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers in the database, ascending."""
        blobs = self.file.query(f"SELECT DISTINCT {self.numbers_column} FROM {self.table}")
        valid = [blob for (blob,) in blobs if isinstance(blob, bytes) and len(blob) % 4 == 0]
        return tuple(sorted({z for blob in valid for z in np.frombuffer(blob, "<i4").tolist()}))

    def stored_integrals(self, row: int) -> dict[str, Float[np.ndarray, "n n"]]:
        """Integrals that the file holds beside H, in PySCF's order; empty for formats that have none.

        ``int1e_ovlp`` is the overlap, ``core`` the kinetic energy and the attraction by the nuclei, hartree.
        """
        return {}

    def __len__(self) -> int:
        return len(self._rowids)

    def __getitem__(self, row: SupportsIndex) -> Molecule:
        index = self._index(row)
        where = f"{self.path}: row {index}"
        numbers, positions, hamiltonian = self.decode(where, *self._select(self.selected, index))
        for place, array in ((self.layout.positions, positions), (self.layout.hamiltonian, hamiltonian)):
            if not np.isfinite(array).all():
                raise DataError(
                    f"{where}: NaN or infinite numbers in {place}; leave this row out or recompute it"
                )
        self._check_symmetry(where, hamiltonian)
        if not self._checked[index]:
            check_molecule(numbers, positions, hamiltonian, where, self.layout)
            if self.levels is not None:
                check_functional(numbers, hamiltonian, where, self.layout, self.levels)
            self._checked[index] = True
        return Molecule(index, numbers, positions, hamiltonian)

    def check_distances(self, rows: Int64[np.ndarray, " rows"]) -> str | None:
        """Check in some of these rows that the atoms are close enough to be bonded.

        Rows that cannot be read are skipped; reading them later raises the error.

        Returns:
            A warning for the user if most molecules have no bonds, which may be intended; else None.

        Raises:
            DataError: the positions of the database are in another unit or order.
        """
        molecules = []
        for row in rows[np.unique(np.linspace(0, len(rows) - 1, _ROWS_CHECKED).astype(np.int64))]:
            with suppress(DataError):
                molecule = self[row]
                molecules.append((molecule.numbers, molecule.positions))
        return long_distances(molecules, str(self.path), self.layout)

    def _index(self, row: SupportsIndex) -> int:
        index = operator.index(row)
        index += len(self) if index < 0 else 0
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: row {row} of a database of {len(self)} rows")
        return index

    def _select(self, columns: str, index: int) -> tuple[Any, ...]:
        """Values of some columns of one row."""
        sql = f"SELECT {columns} FROM {self.table} WHERE rowid = ?"
        rows = self.file.query(sql, int(self._rowids[index]), where=f"row {index}: ")
        if not rows:
            raise DataError(f"{self.path}: row {index} is gone; the file changed after it was opened")
        return rows[0]

    def _check_symmetry(self, where: str, hamiltonian: Float[np.ndarray, "n n"]) -> None:
        asymmetry = float(np.abs(hamiltonian - hamiltonian.T).max())
        if asymmetry <= SYMMETRY_TOLERANCE:
            return
        tolerance = SYMMETRY_TOLERANCE + self.rounding * float(np.abs(hamiltonian).max())
        if asymmetry > tolerance:
            raise DataError(
                f"{where}: {self.layout.hamiltonian} is not symmetric: max |H - H^T| = {asymmetry:.1e} hartree "
                f"(at most {tolerance:.0e}); leave this row out or recompute it"
            )

    def check_numbers(self, where: str, numbers: Int64[np.ndarray, " atoms"]) -> None:
        """Raise `DataError` unless these are atomic numbers that def2-SVP has."""
        if numbers.min() < 1 or numbers.max() >= len(ORBITALS):
            raise DataError(
                f"{where}: {self.layout.numbers} holds {numbers.tolist()}, which are not all atomic numbers; "
                "the file is damaged"
            )
        if not ORBITALS[numbers].all():
            unknown = sorted(set(numbers[ORBITALS[numbers] == 0].tolist()))
            raise DataError(
                f"{where}: {self.layout.numbers} has atomic numbers {unknown}, for which no def2-SVP shells are "
                f"tabulated ({min(DEF2_SVP)} to {max(DEF2_SVP)} are); leave this row out"
            )

    @staticmethod
    def array(where: str, column: str, blob: Any, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """The array in a blob.

        Raises:
            DataError: the blob has another length, or there is none.
        """
        expected = math.prod(shape) * np.dtype(dtype).itemsize
        size = len(blob) if isinstance(blob, bytes) else None
        if size != expected:
            got = f"{size} bytes" if size is not None else type(blob).__name__
            raise DataError(
                f"{where}: column {column} is {got}, but {expected} bytes are needed for {dtype}{list(shape)}; "
                "the file is damaged or of another basis"
            )
        return np.frombuffer(blob, dtype=dtype).reshape(shape)

    @cached_property
    def _checked(self) -> Bool[np.ndarray, " rows"]:
        """Rows that this process has validated; they are not validated again in later epochs."""
        return np.zeros(len(self), dtype=bool)

    @cached_property
    def _rowids(self) -> Int64[np.ndarray, " rows"]:
        rowids = [row[0] for row in self.file.query(f"SELECT rowid FROM {self.table} ORDER BY rowid")]
        if not rowids:
            raise DataError(f"{self.path}: the table '{self.table}' has no rows")
        return np.array(rowids, dtype=np.int64)
