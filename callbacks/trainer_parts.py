"""Network and data that a callback takes from Lightning's module and loaders."""

from typing import Any

import numpy as np
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from torch.utils.data import DataLoader, Subset

from tracegrad.data.loading.datamodule import MoleculeDataset
from tracegrad.errors import ConfigError
from tracegrad.training.module import HamiltonianModule


def hamiltonian_module(pl_module: LightningModule) -> HamiltonianModule:
    """The module with its own type; callbacks of TraceGrad work with no other one."""
    assert isinstance(pl_module, HamiltonianModule)
    return pl_module


def stop_bar(trainer: Trainer) -> None:
    """End the progress bar of the batches, over which a bar for further work would write."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar) and bar.progress is not None:
        bar.progress.stop()


def first_dataset(loaders: Any) -> Any:
    """The data set of the first loader of a validation or test, which is that of the main subset."""
    loader = loaders[0] if isinstance(loaders, list | tuple) else loaders
    return loader.dataset if isinstance(loader, DataLoader) else None


def first_molecules(loaders: Any, user: str, off: str) -> MoleculeDataset:
    """The molecules of the first loader, those of all ranks together.

    Args:
        loaders: of a validation or test.
        user: what needs the molecules, with its verb, for the message.
        off: setting that switches it off, for the message.

    Raises:
        ConfigError: the data are no molecules.
    """
    dataset: Any = first_dataset(loaders)
    indices: Any = slice(None)
    if isinstance(dataset, Subset):
        dataset, indices = dataset.dataset, np.asarray(dataset.indices, dtype=np.int64)
    if not isinstance(dataset, MoleculeDataset):
        raise ConfigError(f"{user} molecules of a database; set {off}")
    return dataset.chosen(indices)
