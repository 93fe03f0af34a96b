"""Trained networks from the disk, without their data."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracegrad.errors import CheckpointError
from tracegrad.model.network import HamiltonianModel
from tracegrad.weights.checkpoint import CHECKPOINT_KEY, check_architecture, load_checkpoint
from tracegrad.weights.construct import construct
from tracegrad.weights.model_file import ENDING, read_model_file


def load_model(source: str | Path, checkpoint: str = "best") -> HamiltonianModel:
    """The trained network of a run directory, a checkpoint or a model file, in evaluation mode; no data is needed.

    Nothing in the file is executed, see `construct`.

    Args:
        source: a run directory, or a .ckpt or .safetensors file, which hold their settings too.
        checkpoint: best or last of a run directory.

    Raises:
        CheckpointError: no checkpoint there, a damaged one, or settings that make another network.
    """
    path = checkpoint_file(Path(source), checkpoint)
    return build_network(*saved_network(path), path)


def build_network(settings: Any, state: dict[str, Tensor], path: Path) -> HamiltonianModel:
    """The network of settings and tensors that came from ``path``, in evaluation mode.

    Raises:
        CheckpointError: settings that are not those of a network, or tensors of another one.
    """
    model = construct(settings, f"{path}: model")
    if not isinstance(model, HamiltonianModel):
        raise CheckpointError(f"{path}: model is {type(model).__name__}, not a HamiltonianModel")
    check_architecture(state, model.state_dict(), str(path))
    model.to(next((value.dtype for value in state.values() if value.is_floating_point()), torch.float32))
    model.load_state_dict(state)
    return model.eval()


def checkpoint_file(source: Path, checkpoint: str = "best") -> Path:
    """The file behind ``source``, a run directory or the file itself.

    Raises:
        CheckpointError: neither of them, or a directory without that checkpoint.
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


def saved_network(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """Settings and tensors of the network in a checkpoint or a model file.

    Raises:
        CheckpointError: missing, damaged, or without a network.
    """
    if path.suffix == ENDING:
        record, state = read_model_file(path)
        return record["model"], state
    return network_in(load_checkpoint(path), path)


def network_in(content: dict[str, Any], path: Path) -> tuple[Any, dict[str, Tensor]]:
    """Settings and tensors of the network in the content of a checkpoint.

    Raises:
        CheckpointError: it has none.
    """
    record, state = content.get(CHECKPOINT_KEY), content.get("state_dict")
    config = record.get("config") if isinstance(record, dict) else None
    own = {
        name.removeprefix("model."): value
        for name, value in (state.items() if isinstance(state, dict) else ())
        if isinstance(name, str) and name.startswith("model.") and isinstance(value, Tensor)
    }
    if not isinstance(config, dict) or "model" not in config or not own:
        raise CheckpointError(
            f"{path}: holds no {'settings' if own else 'network'} of TraceGrad; give a checkpoint of its training; "
            "released weights are loaded by load_released_qhnet(path) and load_released(path) of "
            "tracegrad.weights.released, and tested with python -m experiments.evaluate checkpoint=PATH"
        )
    return config["model"], own
