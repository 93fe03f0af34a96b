"""What a configuration builds: data, network, callbacks and trainer."""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from callbacks.checkpoint_io import AtomicCheckpointIO
from experiments.training.matrices import provide_matrices
from experiments.training.precision import check_precision, on_cpu
from experiments.training.rank import process_rank
from experiments.training.resuming import CONFIG, read_config
from experiments.training.warning_filter import quiet
from tracegrad.data.loading.hamiltonian_module import HamiltonianDataModule
from tracegrad.errors import ConfigError
from tracegrad.training.module import HamiltonianModule
from tracegrad.weights.plugins import check_packages


@dataclass
class Parts:
    """Data and network of a run.

    Attributes:
        datamodule: the data with their split, set up.
        module: network, loss, optimizer and schedule.
        fingerprint: what identifies the database and its split, as plain data.
    """

    datamodule: HamiltonianDataModule
    module: HamiltonianModule
    fingerprint: dict[str, Any]


def build(config: DictConfig, values: dict[str, Any]) -> Parts:
    """Seed all random generators and build data and network of a configuration.

    Raises:
        ConfigError: a precision, seed or number of threads that cannot be used.
    """
    check_precision(config.trainer, config.data.dtype)
    if not 0 <= config.seed < 2**32:
        raise ConfigError(f"seed is {config.seed}; it must lie between 0 and 2^32 - 1")
    if config.threads is not None and config.threads < 1:
        raise ConfigError(f"threads is {config.threads}; at least 1 is needed (null: torch's default)")
    if config.threads:
        torch.set_num_threads(config.threads)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    datamodule = instantiate(config.data)
    with quiet():
        datamodule.setup()
    if process_rank() == 0:
        for line in datamodule.differences + datamodule.remarks:
            print(f"data: {line}")
    fingerprint = datamodule.fingerprint()
    module = HamiltonianModule(
        instantiate(config.model),
        instantiate(config.loss),
        instantiate(
            config.optim.optimizer, _convert_="all"
        ),  # torch < 2.13 keeps lists of the settings in checkpoints
        instantiate(config.optim.schedule),
        {"config": values, "data": fingerprint},
    )
    provide_matrices(datamodule, module)
    module.model.compile_as_configured()
    return Parts(datamodule, module, fingerprint)


def rebuild(directory: Path, changes: dict[str, Any]) -> tuple[DictConfig, Parts]:
    """Settings and parts of an existing run directory.

    Args:
        changes: settings to replace, by dotted key.

    Raises:
        CheckpointError: the settings need a package that is not allowed.
    """
    values = read_config(directory)
    check_packages(values, str(directory / CONFIG))
    config = OmegaConf.create(values)
    for key, value in changes.items():
        OmegaConf.update(config, key, value)
    if config.trainer.precision == "16-mixed" and on_cpu(config.trainer):
        config.trainer.precision = "32-true"  # the run was trained on a GPU
    return config, build(config, values)


def make_callbacks(config: DictConfig) -> list[Callback]:
    """Callbacks of a configuration; entries that are null are left out.

    Raises:
        ConfigError: settings of a callback that the chosen group does not have.
    """
    entries = {name: entry for name, entry in config.callbacks.items() if entry is not None}
    for name, entry in entries.items():
        if "_target_" not in entry:
            raise ConfigError(
                f"callbacks.{name} has settings, but this group of callbacks has none of that name; choose another "
                f"group, such as callbacks=molecules, or set callbacks.{name}=null"
            )
    return [instantiate(entry) for entry in entries.values()]


def make_trainer(config: DictConfig, callbacks: list[Callback], loggers: list[Logger]) -> lightning.Trainer:
    """The trainer of a configuration; its progress bar appears only on a terminal.

    Raises:
        ConfigError: ``limit_train_batches``, with which a run could not be resumed exactly.
    """
    if config.trainer.get("limit_train_batches") not in (None, 1.0):
        raise ConfigError(
            "trainer.limit_train_batches ends epochs where a run cannot be resumed; use data.train_size"
        )
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with quiet():
        return instantiate(
            config.trainer,
            callbacks=callbacks,
            logger=loggers,
            plugins=[AtomicCheckpointIO(), *instantiate(config.trainer.get("plugins") or [])],
            default_root_dir=config.run_dir,
            enable_progress_bar=config.trainer.enable_progress_bar and sys.stdout.isatty(),
        )
