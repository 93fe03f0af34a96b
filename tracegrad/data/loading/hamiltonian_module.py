"""Base class of the LightningDataModules: loaders for the parts of a split, and the fingerprint of the data."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from jaxtyping import Int64
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset, Subset

from tracegrad.data.loading.loader import ResumableLoader
from tracegrad.data.loading.parcel import collate_for_transport
from tracegrad.data.loading.sampler import EvaluationBatches, TrainingBatches
from tracegrad.data.published import PUBLISHED, differences
from tracegrad.data.splits import Split, split_hash
from tracegrad.errors import ConfigError, DataError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import HamiltonianGraph
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


def evenly_spaced(size: int, count: int) -> Int64[np.ndarray, " count"]:
    """``count`` evenly spaced positions from 0 to ``size`` - 1, ascending."""
    return np.linspace(0, size - 1, count).astype(np.int64)
