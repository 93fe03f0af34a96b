"""What the loaders of released weights share."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracegrad.errors import CheckpointError


def read_checkpoint(path: str | Path) -> Any:
    """What a file of plain tensors holds; nothing in it is executed."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"not a readable checkpoint ({error.strerror or error})") from error
    except Exception as error:  # torch.load answers foreign bytes with errors of any kind
        refused = re.search(r"GLOBAL (\S+) was not an allowed", str(error))
        if refused:
            raise CheckpointError(
                f"not loaded, because it holds {refused[1]} beside tensors, and loading objects can run any code; "
                "save its state_dict alone"
            ) from error
        raise CheckpointError(
            f"not a readable checkpoint of plain tensors ({type(error).__name__}); "
            "if it holds other objects too, save its state_dict alone"
        ) from error


def released_state(content: Any, kind: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint, ``{"state_dict": ...}`` or a bare state_dict; ``kind`` is what it should be.

    Raises:
        CheckpointError: no mapping of tensors, or a checkpoint of TraceGrad itself.
    """
    entries = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(entries, Mapping):
        raise CheckpointError(f"a state_dict is a mapping of names to tensors, not {type(entries).__name__}")
    if "tracegrad" in content or any(str(key).startswith(("model.", "backbone.")) for key in entries):
        raise CheckpointError(
            f"this is a checkpoint of TraceGrad itself, not {kind}; "
            "use tracegrad.load_model(run_directory), on the command line run=DIRECTORY"
        )
    state = {}
    for key, value in entries.items():
        numeric = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
        tensor = torch.from_numpy(value) if numeric else value
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"not a state_dict: {key} is {type(value).__name__}, not a tensor")
        state[str(key).removeprefix("module.")] = tensor
    return state


def some_names(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
