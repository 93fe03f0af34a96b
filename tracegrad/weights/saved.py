"""Loading trained networks of TraceGrad, without their training data."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracegrad.errors import CheckpointError
from tracegrad.hamiltonian.trained_range import TrainedRange
from tracegrad.model.network import HamiltonianModel
from tracegrad.weights.checkpoint import CHECKPOINT_KEY, RANGE_KEY, check_architecture, load_checkpoint
from tracegrad.weights.construct import construct
from tracegrad.weights.hub import download, is_hub_name
from tracegrad.weights.model_file import ENDING, read_model_file
from tracegrad.weights.plugins import allow_plugins


def load_model(
    source: str | Path, checkpoint: str = "best", *, plugins: Iterable[str] = ()
) -> HamiltonianModel:
    """The trained network of a run directory, a checkpoint or a model file, in evaluation mode.

    The file holds the settings of the network; the training data are not needed. Nothing in it is executed, see
    `construct`.

    Args:
        source: a run directory, a .ckpt or .safetensors file, or a model on the Hugging Face Hub by its name,
            hf://user/name, see `hub`.
        checkpoint: which checkpoint of a run directory, "best" or "last".
        plugins: packages, besides this one, whose networks may be built from now on in this process, see `plugins`.

    Raises:
        HubError: a model on the hub cannot be had.
        CheckpointError: there is no checkpoint, it is damaged, its settings and tensors belong to different networks,
            or it needs a package that is not allowed.
        ConfigError: there is no such plugin.
    """
    allow_plugins(plugins)
    path = checkpoint_file(source, checkpoint)
    return build_network(read_network(path), path)


@dataclass(frozen=True)
class SavedNetwork:
    """What a file holds of a network.

    Args:
        settings: of a `HamiltonianModel`.
        state: its state_dict.
        data: fingerprint of the training data; empty: unknown.
        seen: range of the training as plain data; None: unknown.
    """

    settings: Any
    state: dict[str, Tensor]
    data: Mapping[str, Any]
    seen: Any


def build_network(saved: SavedNetwork, path: Path) -> HamiltonianModel:
    """The network in evaluation mode and in the dtype of its tensors.

    Args:
        saved: settings, tensors and what is known of the training.
        path: its file, for messages.

    Raises:
        CheckpointError: the settings do not describe a network, or the tensors belong to another one.
    """
    model, state = construct(saved.settings, f"{path}: model"), saved.state
    if not isinstance(model, HamiltonianModel):
        raise CheckpointError(f"{path}: model is {type(model).__name__}, not a HamiltonianModel")
    check_architecture(state, model.state_dict(), str(path))
    model.to(next((value.dtype for value in state.values() if value.is_floating_point()), torch.float32))
    model.load_state_dict(state)
    if saved.seen is not None:
        model.trained_range = TrainedRange.read(saved.seen, str(path))
    return model.eval()


def checkpoint_file(source: str | Path, checkpoint: str = "best") -> Path:
    """The checkpoint of a run directory, ``source`` itself if it is a file, or the file of a model on the hub.

    Raises:
        HubError: the model on the hub cannot be had, see `hub.download`.
        CheckpointError: ``source`` does not exist, or the directory does not have this checkpoint.
    """
    if is_hub_name(source):
        return download(str(source))
    source = Path(source)
    if source.is_file():
        return source
    folder = source / "checkpoints"
    path = folder / f"{checkpoint}.ckpt"
    if path.is_file():
        return path
    if not source.exists():
        raise CheckpointError(
            f"{source}: no such file or directory; give a run directory, or a .ckpt or {ENDING} file"
        )
    present = ", ".join(sorted(file.name for file in folder.glob("*.ckpt"))) or "no checkpoints"
    raise CheckpointError(
        f"{path}: no such checkpoint; {folder} holds {present} "
        "(is this a run directory, and has the run finished an epoch?)"
    )


def read_network(path: Path) -> SavedNetwork:
    """The network in a checkpoint or a model file.

    Raises:
        CheckpointError: the file is missing, damaged, or holds no network.
    """
    if path.suffix == ENDING:
        return network_of_model_file(path)
    return network_of_checkpoint(load_checkpoint(path), path)


def network_of_model_file(path: Path) -> SavedNetwork:
    """The network in an exported file, whatever its name.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    record, state = read_model_file(path)
    return SavedNetwork(record["model"], state, record.get("data") or {}, record.get(RANGE_KEY))


def network_of_checkpoint(content: dict[str, Any], path: Path) -> SavedNetwork:
    """The network in the content of a checkpoint.

    Args:
        content: as of `load_checkpoint`.
        path: its file, for messages.

    Raises:
        CheckpointError: there is no network in it.
    """
    record, state = content.get(CHECKPOINT_KEY), content.get("state_dict")
    config = record.get("config") if isinstance(record, dict) else None
    tensors = {
        name.removeprefix("model."): value
        for name, value in (state.items() if isinstance(state, dict) else ())
        if isinstance(name, str) and name.startswith("model.") and isinstance(value, Tensor)
    }
    if not isinstance(config, dict) or "model" not in config or not tensors:
        raise CheckpointError(
            f"{path}: holds no {'settings' if tensors else 'network'} of TraceGrad; give a checkpoint of its "
            "training; released weights are loaded by load_released_qhnet(path) and load_released(path) of "
            "tracegrad.weights.released, and tested with tracegrad evaluate checkpoint=PATH"
        )
    assert isinstance(record, dict)
    return SavedNetwork(config["model"], tensors, record.get("data") or {}, record.get(RANGE_KEY))
