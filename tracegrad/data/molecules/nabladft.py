"""Hamiltonians of nablaDFT (Khrabrov et al., PCCP 24, 25853, 2022; arXiv:2406.14347), read from its SQLite files.

Drug-like molecules of H, C, N, O, F, S, Cl, Br; omegaB97X-D/def2-SVP by Psi4. The table
``data(id, Z, R, E, F, H, S, C)`` has positions in bohr, H, the overlap S and the core Hamiltonian C (hartree), all
float32 and in Psi4's order of orbitals (z x y; z2 xz yz x2-y2 xy), which becomes PySCF's here. The table
``basisset(Z, orbitals)`` has the degrees of the shells of each element.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from tracegrad.data.molecules.database import MoleculeDatabase
from tracegrad.data.molecules.molecule_checks import ORBITALS, FunctionalLevels, Layout
from tracegrad.data.molecules.orbital_order import pyscf_order
from tracegrad.elements import SYMBOLS
from tracegrad.errors import BasisError, DataError
from tracegrad.hamiltonian.basis import DEF2_SVP
from tracegrad.units import BOHR_PER_ANGSTROM

ELEMENTS = (1, 6, 7, 8, 9, 16, 17, 35)
FUNCTIONAL = "wb97x-d"
COLUMNS = ("id", "Z", "R", "H", "S", "C")
# Names of the integrals in columns S and C, see `MoleculeDatabase.stored_integrals`.
INTEGRALS = {"S": "int1e_ovlp", "C": "core"}


class NablaDFTDatabase(MoleculeDatabase):
    """A Hamiltonian database of nablaDFT, see `MoleculeDatabase`.

    Args:
        path: a file such as ``train_2k.db``.

    Raises:
        DataError: the file is missing, no SQLite database, or has other tables or columns.
        BasisError: the table of shells is not that of def2-SVP.
    """

    advice = "give the path of a Hamiltonian database of nablaDFT (docs/molecule-databases.md says where)"
    selected = "Z, R, H"
    # 1.00 (F) to 1.01 (C) with omegaB97X-D; 0.97 with PBE, 1.06 to 1.10 with Hartree-Fock.
    levels = FunctionalLevels("omegaB97X-D", 0.99, 1.05)
    rounding = 2 * float(np.finfo(np.float32).eps)
    layout = Layout("a database of nablaDFT", "bohr", "column Z", "column R", "column H", "<f4")

    def __init__(self, path: str | Path):
        super().__init__(path)
        columns = self.file.columns("data")
        missing = [name for name in COLUMNS if name not in columns]
        if missing:
            raise DataError(
                f"{self.path}: not a Hamiltonian database of nablaDFT: tables {self.file.tables()}, columns of "
                f"'data' {list(columns)}; the columns {', '.join(COLUMNS)} are needed (energy databases have none)"
            )
        self._check_shells()

    def decode(
        self, where: str, *values: Any
    ) -> tuple[Int64[np.ndarray, " atoms"], Float[np.ndarray, "atoms 3"], Float[np.ndarray, "n n"]]:
        numbers = self._numbers(where, values[0])
        positions = self.array(where, "R", values[1], "<f4", (len(numbers), 3))
        hamiltonian = self._matrix(where, "H", values[2], numbers)
        return numbers, positions.astype(np.float64) / BOHR_PER_ANGSTROM, hamiltonian

    def stored_integrals(self, row: int) -> dict[str, Float[np.ndarray, "n n"]]:
        where = f"{self.path}: row {row}"
        z, *blobs = self._select("Z, S, C", self._index(row))
        numbers = self._numbers(where, z)
        return {
            name: self._matrix(where, column, blob, numbers)
            for (column, name), blob in zip(INTEGRALS.items(), blobs, strict=True)
        }

    def _numbers(self, where: str, blob: Any) -> Int64[np.ndarray, " atoms"]:
        atoms = len(blob) // 4 if isinstance(blob, bytes) else 0
        numbers = self.array(where, "Z", blob, "<i4", (max(atoms, 1),)).astype(np.int64)
        self.check_numbers(where, numbers)
        return numbers

    def _matrix(
        self, where: str, column: str, blob: Any, numbers: Int64[np.ndarray, " atoms"]
    ) -> Float[np.ndarray, "n n"]:
        """A matrix in PySCF's order, float64."""
        orbitals = int(ORBITALS[numbers].sum())
        order = pyscf_order(numbers, "psi4")
        matrix = self.array(where, column, blob, "<f4", (orbitals, orbitals))
        return matrix.take(order, 0).take(order, 1).astype(np.float64)

    def _check_shells(self) -> None:
        """Raise `BasisError` unless the shells of the file are those of def2-SVP."""
        for z, blob in self.file.query("SELECT Z, orbitals FROM basisset"):
            whole = isinstance(blob, bytes) and len(blob) % 4 == 0
            degrees = tuple(np.frombuffer(blob, "<i4").tolist()) if whole else ()
            if degrees != DEF2_SVP.get(z):
                symbol = SYMBOLS[z] if isinstance(z, int) and 0 < z < len(SYMBOLS) else z
                raise BasisError(
                    f"{self.path}: the table basisset gives {symbol} shells of degrees {list(degrees)}, but def2-SVP "
                    f"has {list(DEF2_SVP.get(z, ()))}; only databases in def2-SVP are read"
                )
