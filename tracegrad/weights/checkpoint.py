"""Checkpoints of a training: reading them as plain data, and comparing their tensors with those of a network."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracegrad.errors import CheckpointError

# Entry that TraceGrad adds to Lightning's checkpoints: {"format": 1, "config": settings, "data": fingerprint,
# "range": `tracegrad.hamiltonian.trained_range.TrainedRange` as plain data, in model files as well}.
CHECKPOINT_KEY = "tracegrad"
RANGE_KEY = "range"


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Content of a checkpoint; nothing in it is executed.

    Raises:
        CheckpointError: the file is missing, damaged, or holds objects other than plain data.
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
    """Content of a file that ``torch.save`` wrote; nothing in it is executed.

    Raises:
        CheckpointError: the file is missing, damaged, or holds objects other than plain data. The message does not
            name the file.
    """
    try:
        _check_checksums(Path(path))
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"not a readable checkpoint ({error.strerror or error})") from error
    except Exception as error:  # torch raises many types of errors for damaged files
        refused = _refused_object(str(error))
        if refused:
            raise CheckpointError(
                f"not loaded: it holds {refused}, which would have to be executed; "
                "save only its state_dict, with a program that you trust"
            ) from error
        # The messages of torch advise to load objects, so they are not passed on.
        reason = str(error) if isinstance(error, zipfile.BadZipFile) else type(error).__name__
        raise CheckpointError(
            f"damaged, or not a checkpoint of plain data ({reason}); put a whole one in its place"
        ) from error


def _refused_object(message: str) -> str | None:
    """Object that ``torch.load(weights_only=True)`` refused, from its message (torch 2.13); None: it refused none."""
    if "TorchScript archives" in message:
        return "TorchScript"
    # "GLOBAL argparse.Namespace was not an allowed global", "unsupported GLOBAL posix.system whose module posix is
    # blocked", "call reduce for unrecognized function ...", "classes allowlisted via ... but got ..."
    named = re.search(r"GLOBAL (\S+)|unrecognized function (.+)|allowlisted .* but got (.+)", message)
    return next(filter(None, named.groups())) if named else None


def _check_checksums(path: Path) -> None:
    """Raise `zipfile.BadZipFile` if a checksum in the file is wrong; torch does not verify them."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
        if record is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {record}")


def check_architecture(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Check that a checkpoint has the tensors of a network.

    Args:
        state: state_dict of the checkpoint.
        expected: state_dict of the network.
        where: name of the checkpoint in messages.

    Raises:
        CheckpointError: names or shapes differ; the message lists them.
    """
    missing = sorted(expected.keys() - state.keys())
    surplus = sorted(state.keys() - expected.keys())
    reshaped = [
        f"{key} {list(state[key].shape)} instead of {list(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
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
