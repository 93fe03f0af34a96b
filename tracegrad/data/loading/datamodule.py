"""LightningDataModules: base class, and the one of QH9 databases."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from jaxtyping import Float, Int64
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset, Subset

from tracegrad.data.cache.lookup import AUTO
from tracegrad.data.identity import head_hash
from tracegrad.data.loading.loader import ResumableLoader
from tracegrad.data.loading.parcel import collate_for_transport
from tracegrad.data.loading.sampler import EvaluationBatches, TrainingBatches
from tracegrad.data.published import PUBLISHED, differences
from tracegrad.data.qh9.database import FUNCTIONALS, RELEASES, QH9Database
from tracegrad.data.splits import PARTS, Split, split_hash
from tracegrad.errors import BasisError, ConfigError, DataError
from tracegrad.hamiltonian.basis import DEF2_SVP, OrbitalBasis
from tracegrad.hamiltonian.graph import HamiltonianGraph, molecule_graph
from tracegrad.system.cores import available_cores

EMBEDDED = "embedded:"


@dataclass(frozen=True)
class PartSummary:
    """Elements, and the number of atoms of each sample of each part, as Tables 4 and 5 of the paper count them."""

    elements: tuple[int, ...]
    atoms: dict[str, Int64[np.ndarray, " _"]]


DTYPES = {"float32": torch.float32, "float64": torch.float64}


def database_path(path: str) -> Path:
    """Path of a database: a path, or ``embedded:NAME`` for a database in the package."""
    if path.startswith(EMBEDDED):
        return Path(str(resources.files("tracegrad.data") / "embedded" / path.removeprefix(EMBEDDED)))
    return Path(path).expanduser()


class QH9Dataset(Dataset[HamiltonianGraph]):
    """Some rows of a QH9 database as labelled graphs.

    Args:
        database: the database; it can be read in worker processes.
        rows: row positions.
        basis: orbital basis with the elements of every row.
        dtype: dtype of positions and labels.

    Attributes:
        matrices: further matrices that the graphs carry, by name: functions of the row, for worker processes, too.
    """

    def __init__(
        self,
        database: QH9Database,
        rows: Int64[np.ndarray, " rows"],
        basis: OrbitalBasis,
        dtype: torch.dtype = torch.float32,
    ):
        self.database, self.rows, self.basis, self.dtype = database, rows, basis, dtype
        self.matrices: dict[str, Callable[[int], Float[np.ndarray, "n n"]]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def chosen(self, indices: slice | Int64[np.ndarray, " chosen"]) -> "QH9Dataset":
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
            matrices={name: matrix(row) for name, matrix in self.matrices.items()},
            sample_id=row,
            dtype=self.dtype,
        )


class HamiltonianDataModule(lightning.LightningDataModule, ABC):
    """Base class of the data modules: loaders for the parts of a split.

    Subclasses set ``path``, ``basis`` and ``label``, fill ``split`` and ``parts`` (name -> Dataset of graphs, with
    ``costs`` of its samples) in ``setup``, and implement the abstract methods.

    Args:
        batch_size: number of samples of a training batch, that is of an optimisation step, over all ranks.
        eval_batch_size: number of samples of a validation or test batch.
        num_workers: number of worker processes of each loader; at most the number of cores is used.
        pin_memory: page-locked batches; useful with a GPU.
        seed: seed of the order of training samples.
        table: database of the paper with which the data are compared, see `compare_with_table`; None: no comparison.
        train_size: number of training samples to use, evenly spaced (0: all), for learning curves over data.
        dtype: float32 or float64.

    Attributes:
        differences: differences from the numbers of the paper, see `compare_with_table`.
        remarks: warnings about the data, see `remark`.
    """

    path: Path
    basis: OrbitalBasis
    label: str
    parts: dict[str, Dataset[HamiltonianGraph]]

    def __init__(
        self,
        *,
        batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        pin_memory: bool = False,
        seed: int = 0,
        table: str | None = None,
        train_size: int = 0,
        dtype: str = "float32",
    ):
        super().__init__()
        if dtype not in DTYPES:
            raise ConfigError(f"data.dtype is {dtype!r}; choose one of {list(DTYPES)}")
        if train_size < 0:
            raise ConfigError(f"data.train_size is {train_size}; give a number of samples, or 0 for all")
        if table is not None and table not in PUBLISHED:
            raise ConfigError(f"data.table is {table!r}; choose one of {list(PUBLISHED)}, or null")
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise ConfigError(f"data.{name} is {value}; at least 1 is needed")
        if num_workers < 0:
            raise ConfigError(f"data.num_workers is {num_workers}; 0 or more are needed")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.pin_memory, self.seed = min(num_workers, available_cores()), pin_memory, seed
        self.table, self.train_size, self.dtype = table, train_size, dtype
        self.parts = {}
        self.split: Split | None = None
        self.differences: list[str] = []
        self.remarks: list[str] = []

    def fingerprint(self) -> dict[str, Any]:
        """Database, hash of the split, basis and units; equal fingerprints mean equal benchmarks."""
        self.setup("test")
        assert self.split is not None
        return {
            "database": self.path.name,
            "label": self.label,
            **self.identity(),
            "split": self.split_name,
            "split_hash": split_hash(self.split),
            "counts": {part: len(rows) for part, rows in self.split.items()},
            "basis": self.basis.name,
            "units": {"hamiltonian": self.basis.unit, "positions": "angstrom"},
            "differences": self.differences,
        }

    @property
    @abstractmethod
    def split_name(self) -> str:
        """Rule or file of the split, for the fingerprint."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Entries of the fingerprint that identify the database wherever it lies; "bytes" and "head_sha256" too."""

    @abstractmethod
    def summary(self) -> PartSummary:
        """Elements and sizes of the samples."""

    def limit_training(
        self, train: Int64[np.ndarray, " rows"], where: str, samples: str
    ) -> Int64[np.ndarray, " _"]:
        """The ``train_size`` training samples that are used; ``samples`` is their name in messages."""
        if self.train_size > len(train):
            raise DataError(
                f"{where}: data.train_size is {self.train_size}, but the train part has "
                f"{len(train)} {samples}; give at most this number, or 0 for all"
            )
        return train[evenly_spaced(len(train), self.train_size)] if self.train_size else train

    def compare_with_table(self) -> None:
        """Warn of differences from the numbers of the paper for the database ``table``.

        They are also kept in ``differences`` and in the fingerprint.
        """
        if self.table is None:
            return
        summary = self.summary()
        self.differences = differences(self.table, summary.elements, summary.atoms)
        if self.differences:
            rank_zero_warn(f"not {self.table} as the paper counts it: {'; '.join(self.differences)}")

    def remark(self, line: str) -> None:
        """Warn of data that may be wrong, but may also be intended; ``remarks`` keeps the warning."""
        self.remarks.append(line)
        rank_zero_warn(f"data that may be wrong: {line}")

    def subsets(self, part: str) -> dict[str, str]:
        """Part of each set that is tested, by its name in logs and files ("" for the main one)."""
        return {"": part}

    def sample_name(self, row: int) -> str:
        """Name of a sample in tables."""
        return str(row)

    def train_dataloader(self) -> ResumableLoader:
        """Training batches; each rank gets its share of each batch, see `TrainingBatches`."""
        rank, world = self._ranks()
        dataset = self.parts["train"]
        batches = TrainingBatches(dataset.costs, self.batch_size, self.seed, rank, world)  # type: ignore[attr-defined]
        if batches.smallest < world:
            raise DataError(
                f"the smallest training batch has {batches.smallest} samples for {world} processes, and each needs "
                "one: raise data.batch_size or lower trainer.devices"
            )
        return ResumableLoader(dataset, batch_sampler=batches, **self._workers())

    def val_dataloader(self) -> DataLoader:
        return self.loader("val")

    def test_dataloader(self) -> DataLoader | list[DataLoader]:
        loaders = [self.loader(part) for part in self.subsets("test").values()]
        return loaders if len(loaders) > 1 else loaders[0]

    def loader(self, part: str, *, share: bool = True, max_samples: int = 0) -> DataLoader:
        """Batches of one part in its order, each sample once.

        Args:
            part: train, val, test or another key of ``parts``.
            share: divide the samples among the ranks of a distributed run, see `EvaluationBatches`.
            max_samples: largest number of samples, evenly spaced over the part; 0: all.
        """
        dataset = self.parts[part]
        costs = dataset.costs  # type: ignore[attr-defined]
        if max_samples and max_samples < len(costs):
            chosen = evenly_spaced(len(costs), max_samples)
            dataset, costs = Subset(dataset, chosen.tolist()), costs[chosen]
        rank, world = self._ranks() if share else (0, 1)
        if len(costs) < world:
            raise DataError(
                f"the {part} part has {len(costs)} samples for {world} processes; each needs at least one: "
                "lower trainer.devices"
            )
        batches = EvaluationBatches(costs, self.eval_batch_size, rank, world)
        return DataLoader(dataset, batch_sampler=batches, **self._workers())

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _workers(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "pin_memory": self.pin_memory,
            "persistent_workers": self.num_workers > 0,
            "collate_fn": collate_for_transport,
        }


class QH9DataModule(HamiltonianDataModule):
    """A QH9 database and one of its splits.

    Args:
        path: database file, or ``embedded:NAME``.
        basis: orbital basis.
        database: name of the released file ("stable", "dynamic_100k", "dynamic_300k"), which is checked, or "custom".
        label: name of the data in tables (QS and QD in the paper).
        split: ood or random (stable), mol or geometry (dynamic).
        thresholds, fractions, split_seed, index_file: see `QH9Database.split`.
        functional: density functional of a custom database, for the fingerprint; None: from its provenance file.
        h0_cache: where H0 is kept for networks that correct it: "auto" (beside the database or in
            ``~/.cache/tracegrad``), a path, or None: it is computed whenever a molecule is read.
        **loaders: see `HamiltonianDataModule`.
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
        h0_cache: str | None = AUTO,
        **loaders: Any,
    ):
        super().__init__(**loaders)
        if database != "custom" and database not in RELEASES:
            raise ConfigError(f"data.database is {database!r}; choose one of {[*RELEASES, 'custom']}")
        self.path = database_path(path)
        self.basis = basis
        self.release, self.label = database, label or self.path.stem
        self.rule = split
        self.split_options = {
            "thresholds": thresholds,
            "fractions": fractions,
            "seed": split_seed,
            "index_file": index_file,
        }
        self.functional, self.h0_cache = FUNCTIONALS.get(database, functional), h0_cache
        self.flavour = ""

    def setup(self, stage: str | None = None) -> None:
        """Open, check and split the database."""
        if self.split is not None:
            return
        self._check_basis()
        source = QH9Database(self.path)
        if self.release != "custom":
            source.require_release(self.release)
        split = source.split(self.rule, **self.split_options)  # type: ignore[arg-type]
        split["train"] = self.limit_training(split["train"], str(self.path), "rows")
        distances = source.check_distances(np.concatenate([split[part] for part in PARTS]))
        if distances is not None:
            self.remark(distances)
        self.split, self.flavour, self._source = split, source.flavour, source
        self.parts = {part: QH9Dataset(source, split[part], self.basis, DTYPES[self.dtype]) for part in PARTS}
        self.compare_with_table()

    def _check_basis(self) -> None:
        """Raise `BasisError` unless the basis has the orbitals of these files, in their order."""
        wrong = [z for z, degrees in self.basis.shells.items() if DEF2_SVP.get(z) != tuple(degrees)]
        if self.basis.convention != "pyscf" or wrong:
            raise BasisError(
                f"{self.path}: holds molecules in def2-SVP and PySCF's order, and the basis is {self.basis.name} in "
                f"the order of {self.basis.convention}; choose basis=def2_svp"
            )

    def summary(self) -> PartSummary:
        assert self.split is not None
        counts = self._source.atom_counts
        return PartSummary(self._source.elements, {part: counts[rows] for part, rows in self.split.items()})

    @property
    def known_functional(self) -> str | None:
        """Density functional of the Hamiltonians; None: unknown."""
        return self.functional or _recorded_functional(self.path)

    @property
    def split_name(self) -> str:
        return str(self.split_options["index_file"] or self.rule)

    def identity(self) -> dict[str, Any]:
        return {
            "flavour": self.flavour,
            "release": self.release,
            "bytes": self.path.stat().st_size,
            "head_sha256": head_hash(self.path),
            "functional": self.known_functional or "unknown",
        }


def _recorded_functional(path: Path) -> str | None:
    """Functional in the provenance file that `tracegrad.physics` writes beside its databases."""
    try:
        content = json.loads(path.with_name(f"{path.stem}.provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("functional") if isinstance(content, dict) else None


def evenly_spaced(size: int, count: int) -> Int64[np.ndarray, " count"]:
    """``count`` evenly spaced positions from 0 to ``size`` - 1, ascending."""
    return np.linspace(0, size - 1, count).astype(np.int64)
