"""Hamiltonians of MD17 molecules (Schuett et al., SchNOrb, Nat. Commun. 10, 5024, 2019), read from ASE databases.

One file for each molecule: water, ethanol, malondialdehyde, uracil; PBE/def2-SVP by ORCA. Positions are in angstrom.
H (hartree) and the overlap stand in the column ``data``, in ORCA's order of orbitals (z x y; z2 xz yz x2-y2 xy); they
are read in PySCF's.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from tracegrad.data.molecules.ase_rows import read_arrays
from tracegrad.data.molecules.database import MoleculeDatabase
from tracegrad.data.molecules.molecule_checks import ORBITALS, FunctionalLevels, Layout
from tracegrad.data.molecules.orbital_order import pyscf_order
from tracegrad.elements import SYMBOLS, formula
from tracegrad.errors import BasisError, DataError

# Atomic numbers of the molecules, in the order of the published files.
MOLECULES = {
    "water": (8, 1, 1),
    "ethanol": (6, 6, 8, 1, 1, 1, 1, 1, 1),
    "malondialdehyde": (6, 6, 6, 8, 8, 1, 1, 1, 1),
    "uracil": (6, 6, 7, 6, 7, 6, 8, 8, 1, 1, 1, 1),
}
FUNCTIONAL = "pbe"
COLUMNS = ("id", "numbers", "positions", "data")


class MD17Database(MoleculeDatabase):
    """An ASE database with Hamiltonians and overlaps as SchNOrb's, see `MoleculeDatabase`.

    Args:
        path: a file such as ``schnorb_hamiltonian_water.db``.

    Raises:
        DataError: the file is missing, no SQLite database, or no ASE database.
    """

    advice = (
        "give the path of a .db file of SchNOrb's MD17 Hamiltonians (docs/molecule-databases.md says where)"
    )
    table = "systems"
    numbers_column = "numbers"
    selected = "numbers, positions, data"
    # 0.97 (C) to 0.98 (F) with PBE; 0.997 with B3LYP, 1.06 to 1.10 with Hartree-Fock.
    levels = FunctionalLevels("PBE", 0.95, 0.99)
    rounding = 2 * float(np.finfo(np.float32).eps)
    layout = Layout(
        "a database of MD17", "angstrom", "column numbers", "column positions", "data.hamiltonian"
    )

    def __init__(self, path: str | Path):
        super().__init__(path)
        columns = self.file.columns("systems")
        missing = [name for name in COLUMNS if name not in columns]
        if missing:
            raise DataError(
                f"{self.path}: not an ASE database: tables {self.file.tables()}; a table 'systems' with the columns "
                f"{', '.join(COLUMNS)} is needed"
            )

    def require_molecule(self, name: str) -> None:
        """Raise `DataError` unless the first row is this molecule, a key of `MOLECULES`."""
        (blob,) = self._select("numbers", 0)
        numbers = self._numbers(f"{self.path}: row 0", blob)
        if tuple(numbers.tolist()) != MOLECULES[name]:
            atoms, expected = (
                " ".join(SYMBOLS[z] for z in molecule) for molecule in (numbers, MOLECULES[name])
            )
            raise DataError(
                f"{self.path}: the configuration asks for {name} ({expected}), but this file holds "
                f"{formula(numbers)} ({atoms}); open the right file, or set data.molecule=null"
            )

    def decode(
        self, where: str, *values: Any
    ) -> tuple[Int64[np.ndarray, " atoms"], Float[np.ndarray, "atoms 3"], Float[np.ndarray, "n n"]]:
        numbers, order = self._numbers_and_order(where, values[0])
        positions = self.array(where, "positions", values[1], "<f8", (len(numbers), 3))
        return numbers, positions, self._matrix(where, "hamiltonian", values[2], numbers, order)

    def stored_integrals(self, row: int) -> dict[str, Float[np.ndarray, "n n"]]:
        where = f"{self.path}: row {row}"
        blob, data = self._select("numbers, data", self._index(row))
        numbers, order = self._numbers_and_order(where, blob)
        return {"int1e_ovlp": self._matrix(where, "overlap", data, numbers, order)}

    def _numbers(self, where: str, blob: Any) -> Int64[np.ndarray, " atoms"]:
        atoms = len(blob) // 4 if isinstance(blob, bytes) else 0
        numbers = self.array(where, "numbers", blob, "<i4", (max(atoms, 1),)).astype(np.int64)
        self.check_numbers(where, numbers)
        return numbers

    def _numbers_and_order(
        self, where: str, blob: Any
    ) -> tuple[Int64[np.ndarray, " atoms"], Int64[np.ndarray, " n"]]:
        numbers = self._numbers(where, blob)
        return numbers, pyscf_order(numbers, "psi4")

    def _matrix(
        self,
        where: str,
        name: str,
        data: Any,
        numbers: Int64[np.ndarray, " atoms"],
        order: Int64[np.ndarray, " n"],
    ) -> Float[np.ndarray, "n n"]:
        """A matrix of the column ``data`` in PySCF's order, float64."""
        if not isinstance(data, bytes | str):
            raise DataError(f"{where}: column data is {type(data).__name__}; the file is damaged")
        try:
            (matrix,) = read_arrays(data, [name])
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(
                f"{where}: column data: {error}; give a database of SchNOrb's MD17 Hamiltonians"
            ) from error
        if matrix.shape != (len(order), len(order)):
            raise BasisError(f"{where}: {self._other_basis(name, matrix.shape, numbers)}")
        return matrix.astype(np.float64, copy=False).take(order, 0).take(order, 1)

    @staticmethod
    def _other_basis(name: str, shape: tuple[int, ...], numbers: Int64[np.ndarray, " atoms"]) -> str:
        expected = int(ORBITALS[numbers].sum())
        minimal = int(np.where(numbers > 2, 5, 1).sum())
        if shape == (minimal, minimal):
            return (
                f"data.{name} is {minimal} x {minimal}, one function for H and five for heavier atoms: the "
                "quasi-atomic minimal basis of MD17's aspirin file, which is not def2-SVP; take another molecule: "
                f"{', '.join(MOLECULES)}"
            )
        return (
            f"data.{name} has the shape {list(shape)}, but {formula(numbers)} has {expected} orbitals in def2-SVP; "
            "the file is damaged or of another basis"
        )
