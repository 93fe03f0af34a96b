"""Trained networks from the disk, without their data."""

from pathlib import Path
from typing import Any

from torch import Tensor

from tracegrad.checkpoint import CHECKPOINT_KEY, check_architecture, load_checkpoint
from tracegrad.construct import construct
from tracegrad.errors import CheckpointError
from tracegrad.model import HamiltonianModel


def load_model(source: str | Path, checkpoint: str = "best") -> HamiltonianModel:
    """The trained network of a run directory or of a checkpoint file, in evaluation mode; its data is not needed.

    Nothing in the file is executed, see `construct`.

    Args:
        source: a run directory, or a .ckpt file, which holds its settings too.
        checkpoint: best or last of a run directory.

    Raises:
        CheckpointError: no checkpoint there, a damaged one, or settings that make another network.
    """
    path = checkpoint_file(Path(source), checkpoint)
    settings, state = _saved(path)
    model = construct(settings, f"{path}: model")
    if not isinstance(model, HamiltonianModel):
        raise CheckpointError(f"{path}: model is {type(model).__name__}, not a HamiltonianModel")
    model.to(next(iter(state.values())).dtype)
    check_architecture(state, model.state_dict(), str(path))
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
        raise CheckpointError(f"{source}: no such file or directory; give a run directory or a .ckpt file")
    present = ", ".join(sorted(file.name for file in folder.glob("*.ckpt"))) or "no checkpoints"
    raise CheckpointError(
        f"{path}: no such checkpoint; {folder} holds {present} "
        "(is this a run directory, and has the run finished an epoch?)"
    )


def _saved(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """Settings of the network and its tensors."""
    content = load_checkpoint(path)
    record, state = content.get(CHECKPOINT_KEY), content.get("state_dict")
    config = record.get("config") if isinstance(record, dict) else None
    own = {
        name.removeprefix("model."): value
        for name, value in (state.items() if isinstance(state, dict) else ())
        if isinstance(name, str) and name.startswith("model.") and isinstance(value, Tensor)
    }
    if not isinstance(config, dict) or "model" not in config or not own:
        raise CheckpointError(
            f"{path}: holds no {'settings' if own else 'network'} of TraceGrad; give a checkpoint of its training, "
            "for released weights use tracegrad.interop"
        )
    return config["model"], own
