"""Loading trained networks of TraceGrad, without their training data."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracegrad.errors import CheckpointError
from tracegrad.model.network import HamiltonianModel
from tracegrad.weights.checkpoint import CHECKPOINT_KEY, check_architecture, load_checkpoint
from tracegrad.weights.construct import construct
from tracegrad.weights.model_file import ENDING, read_model_file
from tracegrad.weights.plugins import allow_plugins


def load_model(
    source: str | Path, checkpoint: str = "best", *, plugins: Iterable[str] = ()
) -> HamiltonianModel:
    """The trained network of a run directory, a checkpoint or a model file, in evaluation mode.

    The file holds the settings of the network; the training data are not needed. Nothing in it is executed, see
    `construct`.

    Args:
        source: a run directory, or a .ckpt or .safetensors file.
        checkpoint: which checkpoint of a run directory, "best" or "last".
        plugins: packages, besides this one, whose networks may be built from now on in this process, see `plugins`.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, its settings and tensors belong to different networks,
            or it needs a package that is not allowed.
        ConfigError: there is no such plugin.
    """
    allow_plugins(plugins)
    path = checkpoint_file(Path(source), checkpoint)
    return build_network(*read_network(path), path)


def build_network(settings: Any, state: dict[str, Tensor], path: Path) -> HamiltonianModel:
    """The network of these settings and tensors, in evaluation mode and in the dtype of the tensors.

    Args:
        settings: settings of a `HamiltonianModel`.
        state: its state_dict.
        path: source of both, for messages.

    Raises:
        CheckpointError: the settings do not describe a network, or the tensors belong to another one.
    """
    model = construct(settings, f"{path}: model")
    if not isinstance(model, HamiltonianModel):
        raise CheckpointError(f"{path}: model is {type(model).__name__}, not a HamiltonianModel")
    check_architecture(state, model.state_dict(), str(path))
    model.to(next((value.dtype for value in state.values() if value.is_floating_point()), torch.float32))
    model.load_state_dict(state)
    return model.eval()


def checkpoint_file(source: Path, checkpoint: str = "best") -> Path:
    """The checkpoint of a run directory, or ``source`` itself if it is a file.

    Raises:
        CheckpointError: ``source`` does not exist, or the directory does not have this checkpoint.
    """
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


def read_network(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """Settings and tensors of the network in a checkpoint or a model file.

    Raises:
        CheckpointError: the file is missing, damaged, or holds no network.
    """
    if path.suffix == ENDING:
        record, state = read_model_file(path)
        return record["model"], state
    return network_of_checkpoint(load_checkpoint(path), path)


def network_of_checkpoint(content: dict[str, Any], path: Path) -> tuple[Any, dict[str, Tensor]]:
    """Settings and tensors of the network in the content of a checkpoint.

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
    return config["model"], tensors
