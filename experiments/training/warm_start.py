"""The start of a training from weights that exist: ``init_from``, what was taken over, and its record."""

import hashlib
import json
from pathlib import Path
from typing import Any

from experiments.training.provenance import process_rank
from tracegrad.model.network import HamiltonianModel
from tracegrad.training.warm_start import start_from

KEY = "init_from"


def warm_start(
    model: HamiltonianModel, source: str | None, directory: Path, *, resumed: bool
) -> dict[str, Any]:
    """Start a network from ``source`` unless its run goes on from a checkpoint, which has all weights.

    Returns:
        What the provenance of the run says of it: nothing, or file, SHA-256 and what was loaded.
    """
    if source is None:
        return {}
    if resumed:
        return _recorded(directory)
    found = start_from(model, source)
    if process_rank() == 0:
        new = f"; new: {', '.join(found.new)}" if found.new else ""
        print(f"init_from: {len(found.loaded)} of {found.total} tensors from {found.file}{new}", flush=True)
    return {KEY: file_identity(found.file) | {"tensors": len(found.loaded), "new": found.new}}


def file_identity(path: Path) -> dict[str, str]:
    """Name and SHA-256 of a file."""
    with path.open("rb") as file:
        return {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _recorded(directory: Path) -> dict[str, Any]:
    """What the first start of the run has recorded."""
    try:
        content = json.loads((directory / "provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {KEY: content[KEY]} if isinstance(content, dict) and KEY in content else {}
