"""Checkpoints as plain data: reading them, and whether their tensors fit a network."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracegrad.errors import CheckpointError

# What the training adds to Lightning's checkpoints: {"format": 1, "config": settings, "data": fingerprint}.
CHECKPOINT_KEY = "tracegrad"


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint as plain data (nothing in it is executed).

    Raises:
        CheckpointError: missing, damaged, or not plain data.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; has the run finished an epoch?")
    try:
        _check_bytes(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        reason = str(error).split("\n", 1)[0].split(". ", 1)[0]  # what follows is advice to load objects
        raise CheckpointError(
            f"{path}: damaged, or not a checkpoint of plain data ({reason}); "
            "remove it to start anew, or put another checkpoint in its place"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: holds {type(content).__name__}, not a checkpoint; give one of TraceGrad's training"
        )
    return content


def _check_bytes(path: Path) -> None:
    """Raise unless the checksums in the file are right; torch does not look at them."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
        if record is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {record}")


def check_architecture(found: Mapping[str, Tensor], own: Mapping[str, Tensor], where: str) -> None:
    """Raise `CheckpointError` naming the tensors in which a checkpoint and a model differ."""
    missing = sorted(own.keys() - found.keys())
    surplus = sorted(found.keys() - own.keys())
    reshaped = [
        f"{key} {list(found[key].shape)} instead of {list(own[key].shape)}"
        for key in own
        if key in found and found[key].shape != own[key].shape
    ]
    differences = [
        f"{text}: {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"
        for text, names in (("missing", missing), ("without a place", surplus), ("other shape", reshaped))
        if names
    ]
    if differences:
        raise CheckpointError(
            f"{where} is of another architecture ({'; '.join(differences)}); "
            "use the configuration it was trained with"
        )
