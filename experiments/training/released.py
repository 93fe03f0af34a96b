"""A released network together with the data on which it is tested."""

from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.settings.configuration import CONF
from experiments.training.parts import Parts
from experiments.training.provenance import provenance
from experiments.training.rank import process_rank
from experiments.training.warm_start import file_identity
from experiments.training.warning_filter import quiet
from tracegrad.data.loading.deeph_module import DeepHDataModule
from tracegrad.data.loading.hamiltonian_module import DTYPES
from tracegrad.errors import BasisError, CheckpointError, ConfigError
from tracegrad.training.loss import HamiltonianLoss
from tracegrad.training.module import HamiltonianModule
from tracegrad.training.schedule import SlipperySlope
from tracegrad.weights.released import ReleasedNetwork, load_released


def build_released(config: DictConfig, changes: dict[str, Any]) -> tuple[DictConfig, Parts, dict[str, Any]]:
    """Settings, parts and provenance of a test of the released network ``config.checkpoint`` on ``config.data``.

    The data get the basis of the network.

    Raises:
        CheckpointError: the file is no released network, or one for other data.
        ConfigError: no data are chosen.
    """
    if config.get("data") is None:
        raise ConfigError(
            f"checkpoint={config.checkpoint} needs data to be tested on; give data=NAME, such as data=qs or data=mg, "
            "and data.path"
        )
    setup = OmegaConf.create(
        {
            "data": OmegaConf.to_container(config.data, resolve=True),
            "trainer": OmegaConf.load(CONF / "trainer" / "base.yaml"),
            "seed": config.seed,
            "run_dir": None,
        }
    )
    for key, value in changes.items():
        OmegaConf.update(setup, key, value)
    if setup.data.dtype == "float64":
        setup.trainer.precision = "64-true"
    released = load_released(config.checkpoint, config.legacy_e3nn, edge_chunk=config.edge_chunk)
    datamodule = _data(setup.data, released)
    released.model.to(DTYPES[setup.data.dtype])
    # The module requires loss, optimizer and schedule, which a test does not use.
    module = HamiltonianModule(released.model, HamiltonianLoss, torch.optim.Adam, SlipperySlope(peak=1.0))
    parts = Parts(datamodule, module, datamodule.fingerprint())
    setup.name = parts.fingerprint["label"]
    origin = provenance() | {
        "data": parts.fingerprint,
        "checkpoint": {"name": released.name, **file_identity(released.file)},
    }
    return setup, parts, origin


def _data(settings: DictConfig, released: ReleasedNetwork) -> Any:
    """The data module in the basis of the network, after its setup."""
    model = released.model
    make = instantiate({key: value for key, value in settings.items() if key != "basis"}, _partial_=True)
    crystals = issubclass(make.func, DeepHDataModule)
    if crystals != model.basis.periodic:
        kinds = ("molecules", "crystals")
        raise CheckpointError(
            f"{released.file}: holds a {model.backbone.label}, a network of {kinds[not crystals]}, and the data are "
            f"{kinds[crystals]} ({settings.path}); choose other data, or a checkpoint of the other family"
        )
    datamodule = make(basis=model.basis)
    try:
        with quiet():
            datamodule.setup()
    except BasisError as error:
        raise CheckpointError(
            f"{released.file}: is for {model.basis.name}, which does not fit the data: {str(error).split(';', 1)[0]}"
        ) from error
    if process_rank() == 0:
        for line in datamodule.differences + datamodule.remarks:
            print(f"data: {line}")
    return datamodule
