"""Checkpoints as plain data: reading them, and whether their tensors fit a network."""

import re
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
        CheckpointError: missing, damaged, or with objects beside plain data.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; has the run finished an epoch?")
    try:
        content = read_plain(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: holds {type(content).__name__}, not a checkpoint; give one of TraceGrad's training"
        )
    return content


def read_plain(path: str | Path) -> Any:
    """What a file of plain tensors holds; nothing in it is executed.

    Raises:
        CheckpointError: missing, damaged, or with objects beside plain data; without the path.
    """
    try:
        _check_bytes(Path(path))
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"not a readable checkpoint ({error.strerror or error})") from error
    except Exception as error:  # torch raises many kinds for damaged files
        found = _object_in(str(error))
        if found:
            raise CheckpointError(
                f"not loaded: it holds {found}, which would have to be executed; "
                "save its state_dict alone with a program that you trust"
            ) from error
        # The messages of torch itself are advice to load objects.
        reason = str(error) if isinstance(error, zipfile.BadZipFile) else type(error).__name__
        raise CheckpointError(
            f"damaged, or not a checkpoint of plain data ({reason}); put a whole one in its place"
        ) from error


def _object_in(message: str) -> str | None:
    """What loading plain data alone has refused, as the messages of torch 2.13 name it; None: it refused nothing."""
    if "TorchScript archives" in message:
        return "TorchScript"
    # "GLOBAL argparse.Namespace was not an allowed global", "unsupported GLOBAL posix.system whose module posix is
    # blocked", "call reduce for unrecognized function ...", "classes allowlisted via ... but got ..."
    named = re.search(r"GLOBAL (\S+)|unrecognized function (.+)|allowlisted .* but got (.+)", message)
    return next(filter(None, named.groups())) if named else None


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
