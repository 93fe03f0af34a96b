"""Reading the state_dict of a released checkpoint."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracegrad.errors import CheckpointError


def released_state(content: Any, kind: str) -> dict[str, Tensor]:
    """Tensors of a released checkpoint by their names.

    Args:
        content: ``{"state_dict": ...}`` or a state_dict itself, with tensors or arrays.
        kind: name of the expected network in messages.

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
    """The first five names as text, and the number of further ones."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
