"""LightningDataModule of nablaDFT's Hamiltonians."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tracegrad.data.identity import head_hash
from tracegrad.data.loading.datamodule import MoleculeDataModule
from tracegrad.data.loading.hamiltonian_module import database_path
from tracegrad.data.molecules.database import MoleculeDatabase
from tracegrad.data.molecules.nabladft import FUNCTIONAL, NablaDFTDatabase
from tracegrad.data.splits import PARTS, Split, torch_split
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis


class NablaDFTDataModule(MoleculeDataModule):
    """A training file of nablaDFT, divided into train and val, and a file that is tested.

    Args:
        path: file with the molecules of train and val (``train_2k.db``, ...).
        basis: orbital basis.
        test_path: file of which all molecules are tested (``test_2k_conformers.db``, ``test_structures.db``,
            ``test_scaffolds.db``, ...); None: a part of the first file.
        fractions: of train and val in the first file, and without ``test_path`` of test.
        split_seed: seed of the random order of the rows; 23 as in nablaDFT's code.
        label: name of the data in tables; empty: name of the first file.
        **loaders: see `HamiltonianDataModule`.
    """

    functional = FUNCTIONAL

    def __init__(
        self,
        path: str,
        basis: OrbitalBasis,
        *,
        test_path: str | None = None,
        fractions: Sequence[float] = (0.9, 0.1),
        split_seed: int = 23,
        label: str = "",
        **loaders: Any,
    ):
        super().__init__(path, basis, label=label, **loaders)
        if len(fractions) != (3 if test_path is None else 2):
            raise ConfigError(
                f"data.fractions is {list(fractions)}; give two numbers (train, val) with data.test_path, or three "
                "(train, val, test) without"
            )
        if not 0 <= split_seed < 1 << 32:
            raise ConfigError(f"data.split_seed is {split_seed}; give one from 0 to 2^32 - 1")
        self.test_path: Path | None = None if test_path is None else database_path(test_path)
        self.fractions, self.split_seed = fractions, split_seed

    def open(self) -> tuple[Mapping[str, MoleculeDatabase], Split]:
        source = NablaDFTDatabase(self.path)
        databases = dict.fromkeys(PARTS, source)
        split = torch_split(len(source), self.fractions, self.split_seed)
        if self.test_path is not None:
            databases["test"] = NablaDFTDatabase(self.test_path)
            split["test"] = np.arange(len(databases["test"]))
        return databases, split

    @property
    def split_name(self) -> str:
        return "rows" if self.test_path is None else self.test_path.stem

    def identity(self) -> dict[str, Any]:
        if self.test_path is None:
            return super().identity()
        test = {"bytes": self.test_path.stat().st_size, "head_sha256": head_hash(self.test_path)}
        return {**super().identity(), "test_database": {"name": self.test_path.name, **test}}
