"""Exported model files: the tensors of a network in the safetensors format, with the settings that build it.

The metadata of the file have one entry ``tracegrad``, the *record*, a JSON object:

    {"format": 1, "model": settings of the network, "sha256": checksum of the tensors, ...}

Further entries describe the network to people, see `experiments.export`. Nothing in such a file is executed.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from tracegrad.errors import CheckpointError

ENDING = ".safetensors"
KEY = "tracegrad"
FORMAT = 1


def write_model_file(path: Path, state: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write a model file.

    Args:
        path: the file.
        state: state_dict of the network.
        record: plain data with the settings of the network as ``model``.

    Raises:
        CheckpointError: JSON would change the record, for example keys that are numbers.
    """
    # Copies, because safetensors refuses tensors that share memory.
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }
    complete = {"format": FORMAT, **record, "sha256": _checksum(tensors)}
    try:
        text = json.dumps(complete, allow_nan=False)
        if json.loads(text) != complete:
            raise ValueError("keys must be texts, and sequences lists")
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: the record of the network is not plain enough for JSON ({error})"
        ) from error
    path.write_bytes(save(tensors, {KEY: text}))  # save_file would make the file unreadable for other users


def read_model_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Record and tensors of a model file.

    Raises:
        CheckpointError: the file is missing, damaged, not one of TraceGrad, or of another version of the format.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such model file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  file is no mapping
    except Exception as error:  # safetensors and torch raise many types of errors for damaged files
        raise CheckpointError(
            f"{path}: damaged, or no safetensors file ({str(error).splitlines()[0]}); get it again"
        ) from error
    if KEY not in metadata:
        raise CheckpointError(
            f"{path}: its metadata have no entry {KEY!r}, so what network it is of is unknown; give a file of "
            "tracegrad export"
        )
    try:
        record = json.loads(metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the metadata {KEY!r} are no JSON ({error}); get it again") from error
    if not isinstance(record, dict) or "format" not in record:
        raise CheckpointError(f"{path}: the metadata {KEY!r} are no record of a network; get it again")
    if record["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: format {record['format']!r}, this version of TraceGrad reads {FORMAT}; use the version that "
            "wrote it"
        )
    if not state or "model" not in record:
        raise CheckpointError(
            f"{path}: holds no {'settings' if state else 'tensors'} of a network; get it again"
        )
    if record.get("sha256") != _checksum(state):
        raise CheckpointError(f"{path}: the tensors do not have the checksum in the metadata; get it again")
    return record, state


def _checksum(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes; safetensors itself has no checksum."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
