"""QH9 databases (Yu et al. 2023), read directly from the released SQLite files.

``QH9Stable.db`` has the table ``data(id, N, Z, pos, Ham)`` with positions in angstrom;
``QH9Dynamic_*.db`` has ``data(id, geo_id, N, Z, pos, ekin, epot, etot, time, Ham, converged)`` with positions
in bohr. Both become angstrom here. Hamiltonians are in hartree and in PySCF's orbital order.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from tracegrad.data import splits
from tracegrad.data.molecules.database import MoleculeDatabase
from tracegrad.data.molecules.molecule_checks import ORBITALS, Layout
from tracegrad.data.splits import Split
from tracegrad.errors import DataError
from tracegrad.units import BOHR_PER_ANGSTROM

STABLE_COLUMNS = ("id", "N", "Z", "pos", "Ham")
DYNAMIC_COLUMNS = ("id", "geo_id", "N", "Z", "pos", "ekin", "epot", "etot", "time", "Ham", "converged")
# Number of rows of each released file, and its functional by the present names of PySCF.
RELEASES = {"stable": 130_831, "dynamic_100k": 99_900, "dynamic_300k": 299_800}
FUNCTIONALS = {"stable": "b3lyp5", "dynamic_100k": "b3lyp", "dynamic_300k": "b3lyp5"}
RELEASED_FRAMES = 100
SPLIT_NAMES = {"stable": ("ood", "random"), "dynamic": ("mol", "geometry")}
_COLUMNS = {"numbers": "column Z", "positions": "column pos", "hamiltonian": "column Ham"}
LAYOUTS = {
    "stable": Layout("a stable database", "angstrom", **_COLUMNS),
    "dynamic": Layout("a dynamic database", "bohr", **_COLUMNS),
}


class QH9Database(MoleculeDatabase):
    """A QH9 file as a sequence of molecules, see `MoleculeDatabase`.

    Args:
        path: a database in the schema of the released files.

    Attributes:
        flavour: stable or dynamic.

    Raises:
        DataError: the file is missing, no SQLite database, or has another table or other columns.
    """

    advice = "give the path of a QH9 .db file (released: https://zenodo.org/records/8274793, or tracegrad generate)"
    selected = "N, Z, pos, Ham"

    def __init__(self, path: str | Path):
        super().__init__(path)
        columns = self.file.columns("data")
        if columns == STABLE_COLUMNS:
            self.flavour = "stable"
        elif columns == DYNAMIC_COLUMNS:
            self.flavour = "dynamic"
        else:
            raise DataError(
                f"{self.path}: not a QH9 database: tables {self.file.tables()}, columns of 'data' {list(columns)}; "
                f"expected {list(STABLE_COLUMNS)} (stable) or {list(DYNAMIC_COLUMNS)} (dynamic)"
            )
        self.layout = LAYOUTS[self.flavour]

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
        ids = [self.file.query(sql, int(self._rowids[row]))[0][0] for row in ends]
        if self.flavour == "stable":
            return ids == ends
        return ids[0] == ids[1] != ids[2] and ids[3] != ids[4] == ids[5]

    @cached_property
    def atom_counts(self) -> Int64[np.ndarray, " rows"]:
        """Number of atoms of each row, from the column N."""
        rows = self.file.query("SELECT N FROM data ORDER BY rowid")
        counts = [self._atom_count(f"{self.path}: row {row}", atoms) for row, (atoms,) in enumerate(rows)]
        return np.array(counts, dtype=np.int64)

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
        ids = [row[0] for row in self.file.query("SELECT id FROM data ORDER BY rowid")]
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

    def decode(
        self, where: str, *values: Any
    ) -> tuple[Int64[np.ndarray, " atoms"], Float[np.ndarray, "atoms 3"], Float[np.ndarray, "n n"]]:
        atoms, z, pos, ham = values
        atoms = self._atom_count(where, atoms)
        numbers = self.array(where, "Z", z, "<i4", (atoms,)).astype(np.int64)
        self.check_numbers(where, numbers)
        orbitals = int(ORBITALS[numbers].sum())
        positions = self.array(where, "pos", pos, "<f8", (atoms, 3))
        if self.flavour == "dynamic":
            positions = positions / BOHR_PER_ANGSTROM
        return numbers, positions, self.array(where, "Ham", ham, "<f8", (orbitals, orbitals))

    def _atom_count(self, where: str, atoms: Any) -> int:
        if not isinstance(atoms, int) or atoms < 1:
            raise DataError(
                f"{where}: column N is {atoms!r}, a positive integer is needed; "
                "leave this row out or correct it"
            )
        return atoms
