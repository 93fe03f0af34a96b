"""LightningDataModules of molecules: what they share, and the one of QH9 databases."""

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch.utils.data import Dataset

from tracegrad.data.cache.lookup import AUTO
from tracegrad.data.identity import head_hash
from tracegrad.data.loading.hamiltonian_module import (
    DTYPES,
    HamiltonianDataModule,
    PartSummary,
    database_path,
)
from tracegrad.data.molecules.database import Molecule, MoleculeDatabase
from tracegrad.data.qh9.database import FUNCTIONALS, RELEASES, QH9Database
from tracegrad.data.splits import PARTS, Split
from tracegrad.errors import BasisError, ConfigError, DataError
from tracegrad.hamiltonian.basis import DEF2_SVP, OrbitalBasis
from tracegrad.hamiltonian.graph import HamiltonianGraph, molecule_graph


class MoleculeDataset(Dataset[HamiltonianGraph]):
    """Some rows of a database of molecules as labelled graphs.

    Args:
        database: the database; it can be read in worker processes.
        rows: row positions.
        basis: orbital basis with the elements of every row.
        dtype: dtype of positions and labels.

    Attributes:
        matrices: further matrices that the graphs carry, by name: functions of the molecule, which workers use, too.
    """

    def __init__(
        self,
        database: MoleculeDatabase,
        rows: Int64[np.ndarray, " rows"],
        basis: OrbitalBasis,
        dtype: torch.dtype = torch.float32,
    ):
        self.database, self.rows, self.basis, self.dtype = database, rows, basis, dtype
        self.matrices: dict[str, Callable[[Molecule], Float[np.ndarray, "n n"]]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def chosen(self, indices: slice | Int64[np.ndarray, " chosen"]) -> "MoleculeDataset":
        """The molecules at these positions, with the same matrices."""
        result = copy(self)
        result.rows = self.rows[indices]
        return result

    @property
    def costs(self) -> Float[np.ndarray, " rows"]:
        """Cost of each molecule: its number of pairs of atoms."""
        return self.database.atom_counts[self.rows].astype(np.float64) ** 2

    def __getitem__(self, index: int) -> HamiltonianGraph:
        row = int(self.rows[index])
        molecule = self.database[row]
        self.basis.check(molecule.numbers, f"{self.database.path}: row {row}")
        return molecule_graph(
            molecule.numbers,
            molecule.positions,
            self.basis,
            hamiltonian=molecule.hamiltonian,
            matrices={name: matrix(molecule) for name, matrix in self.matrices.items()},
            sample_id=row,
            dtype=self.dtype,
        )


class MoleculeDataModule(HamiltonianDataModule):
    """Base class of the data modules of molecules.

    A subclass opens its files and splits them (`open`).

    Args:
        path: database file, or ``embedded:NAME``.
        basis: orbital basis.
        label: name of the data in tables; empty: name of the file.
        h0_cache: where H0 is kept for networks that correct it: "auto" (beside the database or in
            ``~/.cache/tracegrad``), a path, or None: it is computed whenever a molecule is read.
        **loaders: see `HamiltonianDataModule`.

    Attributes:
        functional: density functional of the Hamiltonians; None: unknown.
    """

    functional: str | None

    def __init__(
        self,
        path: str,
        basis: OrbitalBasis,
        *,
        label: str = "",
        h0_cache: str | None = AUTO,
        **loaders: Any,
    ):
        super().__init__(**loaders)
        self.path, self.basis, self.h0_cache = database_path(path), basis, h0_cache
        self.label = label or self.path.stem
        self.databases: dict[str, MoleculeDatabase] = {}

    @abstractmethod
    def open(self) -> tuple[Mapping[str, MoleculeDatabase], Split]:
        """The database of each part, and its rows; parts of one file share one instance."""

    def setup(self, stage: str | None = None) -> None:
        """Open, check and split the database."""
        if self.split is not None:
            return
        self._check_basis()
        databases, split = self.open()
        empty = [part for part in PARTS if not len(split[part])]
        if empty:
            raise DataError(
                f"{self.path}: split {self.split_name} leaves {' and '.join(empty)} empty; change the sizes of the "
                "parts, or give an index file (data.index_file)"
            )
        split["train"] = self.limit_training(split["train"], str(self.path), "rows")
        for database in dict.fromkeys(databases.values()):
            rows = [split[part] for part in PARTS if databases[part] is database]
            distances = database.check_distances(np.concatenate(rows))
            if distances is not None:
                self.remark(distances)
        self.split, self.databases = split, dict(databases)
        self.parts = {
            part: MoleculeDataset(databases[part], split[part], self.basis, DTYPES[self.dtype])
            for part in PARTS
        }
        self.compare_with_table()

    def _check_basis(self) -> None:
        """Raise `BasisError` unless the basis has the orbitals of these files, in PySCF's order."""
        wrong = [z for z, degrees in self.basis.shells.items() if DEF2_SVP.get(z) != tuple(degrees)]
        if self.basis.convention != "pyscf" or wrong:
            raise BasisError(
                f"{self.path}: holds molecules in def2-SVP and PySCF's order, and the basis is {self.basis.name} in "
                f"the order of {self.basis.convention}; choose basis=def2_svp"
            )

    def summary(self) -> PartSummary:
        assert self.split is not None
        elements = {z for database in self.databases.values() for z in database.elements}
        counts = {part: self.databases[part].atom_counts[rows] for part, rows in self.split.items()}
        return PartSummary(tuple(sorted(elements)), counts)

    def identity(self) -> dict[str, Any]:
        return {
            "bytes": self.path.stat().st_size,
            "head_sha256": head_hash(self.path),
            "functional": self.functional or "unknown",
        }


class QH9DataModule(MoleculeDataModule):
    """A QH9 database and one of its splits.

    Args:
        path: database file, or ``embedded:NAME``.
        basis: orbital basis.
        database: name of the released file ("stable", "dynamic_100k", "dynamic_300k"), which is checked, or "custom".
        label: name of the data in tables (QS and QD in the paper).
        split: ood or random (stable), mol or geometry (dynamic).
        thresholds, fractions, split_seed, index_file: see `QH9Database.split`.
        functional: density functional of a custom database, for the fingerprint; None: from its provenance file.
        **loaders: see `MoleculeDataModule`.
    """

    def __init__(
        self,
        path: str,
        basis: OrbitalBasis,
        *,
        database: str = "custom",
        label: str = "",
        split: str = "",
        thresholds: Sequence[int] | None = None,
        fractions: Sequence[float] | None = None,
        split_seed: int = 43,
        index_file: str | None = None,
        functional: str | None = None,
        **loaders: Any,
    ):
        super().__init__(path, basis, label=label, **loaders)
        if database != "custom" and database not in RELEASES:
            raise ConfigError(f"data.database is {database!r}; choose one of {[*RELEASES, 'custom']}")
        self.release, self.rule = database, split
        self.split_options = {
            "thresholds": thresholds,
            "fractions": fractions,
            "seed": split_seed,
            "index_file": index_file,
        }
        self.functional = FUNCTIONALS.get(database, functional) or _recorded_functional(self.path)
        self.flavour = ""

    def open(self) -> tuple[Mapping[str, MoleculeDatabase], Split]:
        """The released or custom file, for all parts."""
        source = QH9Database(self.path)
        if self.release != "custom":
            source.require_release(self.release)
        self.flavour = source.flavour
        return dict.fromkeys(PARTS, source), source.split(self.rule, **self.split_options)  # type: ignore[arg-type]

    @property
    def split_name(self) -> str:
        return str(self.split_options["index_file"] or self.rule)

    def identity(self) -> dict[str, Any]:
        return {"flavour": self.flavour, "release": self.release, **super().identity()}


def _recorded_functional(path: Path) -> str | None:
    """Functional in the provenance file that `tracegrad.physics` writes beside its databases."""
    try:
        content = json.loads(path.with_name(f"{path.stem}.provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("functional") if isinstance(content, dict) else None
