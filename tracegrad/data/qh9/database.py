"""QH9 databases (Yu et al. 2023), read directly from the released SQLite files.

``QH9Stable.db`` has the table ``data(id, N, Z, pos, Ham)`` with positions in angstrom;
``QH9Dynamic_*.db`` has ``data(id, geo_id, N, Z, pos, ekin, epot, etot, time, Ham, converged)`` with positions
in bohr. Both become angstrom here. Hamiltonians are in hartree and in PySCF's orbital order.
"""

import operator
import os
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsIndex
from urllib.parse import quote

import numpy as np
from jaxtyping import Bool, Float, Int64

from tracegrad.data import splits
from tracegrad.data.qh9.molecule_checks import ORBITALS, check_molecule, long_distances
from tracegrad.data.splits import Split
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import DEF2_SVP
from tracegrad.units import BOHR_PER_ANGSTROM

STABLE_COLUMNS = ("id", "N", "Z", "pos", "Ham")
DYNAMIC_COLUMNS = ("id", "geo_id", "N", "Z", "pos", "ekin", "epot", "etot", "time", "Ham", "converged")
# Number of rows of each released file, and its functional by the present names of PySCF.
RELEASES = {"stable": 130_831, "dynamic_100k": 99_900, "dynamic_300k": 299_800}
FUNCTIONALS = {"stable": "b3lyp5", "dynamic_100k": "b3lyp", "dynamic_300k": "b3lyp5"}
RELEASED_FRAMES = 100
SPLIT_NAMES = {"stable": ("ood", "random"), "dynamic": ("mol", "geometry")}
SYMMETRY_TOLERANCE = 1e-6  # hartree
_ROWS_CHECKED = 32  # rows in checks of the database as a whole


@dataclass(frozen=True)
class Molecule:
    """One row: atomic numbers, positions (angstrom) and, in PySCF order, the Hamiltonian (hartree)."""

    row: int
    numbers: Int64[np.ndarray, " atoms"]
    positions: Float[np.ndarray, "atoms 3"]
    hamiltonian: Float[np.ndarray, "n n"]


class QH9Database:
    """A QH9 file as a sequence of molecules, in the order of its table.

    Nothing is copied or preprocessed; a row is read and validated when it is accessed. Each process and thread opens
    a read-only connection, so that an instance can be shared with DataLoader workers.

    Args:
        path: a database in the schema of the released files.

    Raises:
        DataError: the file is missing, no SQLite database, or has another table or other columns.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not os.path.isfile(self.path):  # unlike Path.is_file, False also without permission
            raise DataError(
                f"{self.path}: no such database; give the path of a QH9 .db file "
                "(released: https://zenodo.org/records/8274793, or tracegrad generate)"
            )
        self._local = threading.local()
        columns = tuple(row[1] for row in self._query("PRAGMA table_info(data)"))
        if columns == STABLE_COLUMNS:
            self.flavour = "stable"
        elif columns == DYNAMIC_COLUMNS:
            self.flavour = "dynamic"
        else:
            tables = [row[0] for row in self._query("SELECT name FROM sqlite_master WHERE type = 'table'")]
            raise DataError(
                f"{self.path}: not a QH9 database: tables {tables}, columns of 'data' {list(columns)}; "
                f"expected {list(STABLE_COLUMNS)} (stable) or {list(DYNAMIC_COLUMNS)} (dynamic)"
            )

    def __len__(self) -> int:
        return len(self._rowids)

    def __getitem__(self, row: SupportsIndex) -> Molecule:
        index = operator.index(row)
        index += len(self) if index < 0 else 0
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: row {row} of a database of {len(self)} rows")
        sql = "SELECT N, Z, pos, Ham FROM data WHERE rowid = ?"
        rows = self._query(sql, int(self._rowids[index]), where=f"row {index}: ")
        if not rows:
            raise DataError(f"{self.path}: row {index} is gone; the file changed after it was opened")
        return self._decode(index, *rows[0])

    @property
    def release(self) -> str | None:
        """Name of the released file with this flavour, number of rows and order of ids; None: none of them."""
        for name, rows in RELEASES.items():
            if name.startswith(self.flavour) and rows == len(self) and self._ids_of_release:
                return name
        return None

    def require_release(self, name: str) -> None:
        """Raise `DataError` unless this is the released file ``name`` by its flavour and size."""
        if name not in RELEASES:
            raise DataError(f"unknown QH9 release {name!r}; known: {sorted(RELEASES)}")
        if self.release != name:
            this = f"the released {self.release} file" if self.release else f"a {self.flavour} database"
            if len(self) == RELEASES[name] and not self.release:
                this += " in another order (column id)"
            raise DataError(
                f"{self.path}: the configuration asks for {name} ({RELEASES[name]:,} rows), but this is "
                f"{this} with {len(self):,} rows; open the right file, or set data.database to "
                f"{self.release or 'custom'} if this one is meant"
            )

    @cached_property
    def _ids_of_release(self) -> bool:
        """Stable: the ids are 0, 1, 2, ... Dynamic: the first and the last hundred rows are one trajectory each."""
        last = len(self) - 1
        ends = [0, last] if self.flavour == "stable" else [0, 99, 100, last - 100, last - 99, last]
        sql = "SELECT id FROM data WHERE rowid = ?"
        ids = [self._query(sql, int(self._rowids[row]))[0][0] for row in ends]
        if self.flavour == "stable":
            return ids == ends
        return ids[0] == ids[1] != ids[2] and ids[3] != ids[4] == ids[5]

    @cached_property
    def atom_counts(self) -> Int64[np.ndarray, " rows"]:
        """Number of atoms of each row, from the column N."""
        rows = self._query("SELECT N FROM data ORDER BY rowid")
        return np.array([self._atom_count(row, atoms) for row, (atoms,) in enumerate(rows)], dtype=np.int64)

    @cached_property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers in the database, ascending, from the column Z."""
        blobs = self._query("SELECT DISTINCT Z FROM data")
        valid = [blob for (blob,) in blobs if isinstance(blob, bytes) and len(blob) % 4 == 0]
        return tuple(sorted({z for blob in valid for z in np.frombuffer(blob, "<i4").tolist()}))

    @cached_property
    def trajectory_starts(self) -> Int64[np.ndarray, " bounds"]:
        """First row of each trajectory of a dynamic database, followed by the number of rows.

        Raises:
            DataError: a stable database, or the frames of a trajectory are not consecutive.
        """
        if self.flavour != "dynamic":
            raise DataError(f"{self.path}: a stable database has no trajectories")
        if self.release:
            return np.arange(0, len(self) + 1, RELEASED_FRAMES)
        ids = [row[0] for row in self._query("SELECT id FROM data ORDER BY rowid")]
        changes = [i for i in range(1, len(ids)) if ids[i] != ids[i - 1]]
        if len(changes) >= len(set(ids)):
            raise DataError(
                f"{self.path}: the frames of a trajectory (column id) are not consecutive, for example at "
                f"rows {changes[0] - 1} and {changes[0]}; sort the table by trajectory or give an index file"
            )
        return np.array([0, *changes, len(ids)], dtype=np.int64)

    def split(
        self,
        name: str = "",
        *,
        thresholds: Sequence[int] | None = None,
        fractions: Sequence[float] | None = None,
        seed: int = splits.RELEASED_SEED,
        index_file: str | Path | None = None,
    ) -> Split:
        """Row positions of train, val and test in a named split.

        Args:
            name: ``ood`` or ``random`` (stable), ``mol`` or ``geometry`` (dynamic).
            thresholds: two numbers of atoms for ``ood``, see `size_split`; None: those of the released files.
            fractions: train, val and test for the other names; None: those of the released files.
            seed: seed of ``random`` and ``mol``.
            index_file: an .npz file with the split, in place of the other arguments, see `index_file_split`.

        Raises:
            DataError: an unknown name, no thresholds or fractions for a file that is none of the released ones, or an
                empty part.
        """
        if not 0 <= seed < 1 << 32:
            raise DataError(f"the split seed is {seed}; give one from 0 to 2^32 - 1 (data.split_seed)")
        if index_file is not None:
            result = splits.index_file_split(index_file, len(self))
        else:
            result = self._rule(name, thresholds, fractions, seed)
        empty = [part for part, rows in result.items() if len(rows) == 0]
        if empty:
            raise DataError(
                f"{self.path}: split {name or index_file!s} leaves {' and '.join(empty)} empty "
                f"({len(self)} rows); change thresholds or fractions, or give an index file"
            )
        return result

    def _rule(
        self, name: str, thresholds: Sequence[int] | None, fractions: Sequence[float] | None, seed: int
    ) -> Split:
        if name not in SPLIT_NAMES[self.flavour]:
            raise DataError(
                f"{self.path}: no split {name!r} for a {self.flavour} database; "
                f"choose one of {list(SPLIT_NAMES[self.flavour])} or give an index file"
            )
        if self.release:
            thresholds = thresholds or splits.RELEASED_THRESHOLDS
            fractions = fractions or splits.RELEASED_FRACTIONS
        option = "thresholds" if name == "ood" else "fractions"
        if (thresholds if name == "ood" else fractions) is None:
            raise DataError(
                f"{self.path}: {len(self):,} rows is none of the released sizes, so split {name!r} needs "
                f"{option} (or an index file); set data.{option}"
            )
        if name == "ood":
            return splits.size_split(self.atom_counts, thresholds or ())
        if name == "random":
            return splits.random_split(len(self), fractions or (), seed)
        if name == "mol":
            return splits.trajectory_split(self.trajectory_starts, fractions or (), seed)
        return splits.geometry_split(self.trajectory_starts, fractions or ())

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
        return long_distances(molecules, str(self.path), self.flavour)

    @cached_property
    def _checked(self) -> Bool[np.ndarray, " rows"]:
        """Rows that this process has validated; they are not validated again in later epochs."""
        return np.zeros(len(self), dtype=bool)

    @cached_property
    def _rowids(self) -> Int64[np.ndarray, " rows"]:
        rowids = [row[0] for row in self._query("SELECT rowid FROM data ORDER BY rowid")]
        if not rowids:
            raise DataError(f"{self.path}: the table 'data' has no rows")
        return np.array(rowids, dtype=np.int64)

    def _decode(self, row: int, atoms: Any, z: Any, pos: Any, ham: Any) -> Molecule:
        where = f"{self.path}: row {row}"
        atoms = self._atom_count(row, atoms)
        numbers = self._array(where, "Z", z, "<i4", (atoms,)).astype(np.int64)
        if numbers.min() < 1 or numbers.max() >= len(ORBITALS):
            raise DataError(
                f"{where}: column Z holds {numbers.tolist()}, which are not all atomic numbers; "
                "the file is damaged"
            )
        if not ORBITALS[numbers].all():
            unknown = sorted(set(numbers[ORBITALS[numbers] == 0].tolist()))
            raise DataError(
                f"{where}: column Z has atomic numbers {unknown}, for which no def2-SVP shells are tabulated "
                f"({min(DEF2_SVP)} to {max(DEF2_SVP)} are); leave this row out"
            )
        orbitals = int(ORBITALS[numbers].sum())
        positions = self._array(where, "pos", pos, "<f8", (atoms, 3))
        if self.flavour == "dynamic":
            positions = positions / BOHR_PER_ANGSTROM
        hamiltonian = self._array(where, "Ham", ham, "<f8", (orbitals, orbitals))
        for column, array in (("pos", positions), ("Ham", hamiltonian)):
            if not np.isfinite(array).all():
                raise DataError(
                    f"{where}: NaN or infinite numbers in column {column}; leave this row out or recompute it"
                )
        asymmetry = float(np.abs(hamiltonian - hamiltonian.T).max())
        if asymmetry > SYMMETRY_TOLERANCE:
            raise DataError(
                f"{where}: column Ham is not symmetric: max |H - H^T| = {asymmetry:.1e} hartree "
                f"(at most {SYMMETRY_TOLERANCE:.0e}); leave this row out or recompute it"
            )
        if not self._checked[row]:
            check_molecule(numbers, positions, hamiltonian, where, self.flavour)
            self._checked[row] = True
        return Molecule(row, numbers, positions, hamiltonian)

    def _atom_count(self, row: int, atoms: Any) -> int:
        if not isinstance(atoms, int) or atoms < 1:
            raise DataError(
                f"{self.path}: row {row}: column N is {atoms!r}, a positive integer is needed; "
                "leave this row out or correct it"
            )
        return atoms

    def _array(self, where: str, column: str, blob: Any, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
        size = len(blob) if isinstance(blob, bytes) else None
        if size != expected:
            got = f"{size} bytes" if size is not None else type(blob).__name__
            raise DataError(
                f"{where}: column {column} is {got}, but {expected} bytes are needed for {dtype}{list(shape)}; "
                "the file is damaged or of another basis"
            )
        return np.frombuffer(blob, dtype=dtype).reshape(shape)

    def _query(self, sql: str, *parameters: Any, where: str = "") -> list[tuple]:
        try:
            return self._connection().execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise DataError(
                f"{self.path}: {where}not a readable SQLite database ({error}); "
                "if it is truncated or damaged, download or generate it again, "
                "else check its permissions and that no program is writing it"
            ) from error

    def _connection(self) -> sqlite3.Connection:
        local = self._local
        if getattr(local, "pid", None) != os.getpid():  # SQLite connections must not cross a fork
            uri = f"file://{quote(os.fsencode(self.path.absolute()))}?mode=ro"
            local.connection = sqlite3.connect(uri, uri=True)
            local.pid = os.getpid()
        return local.connection

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _local=threading.local())
