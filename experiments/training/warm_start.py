"""Start of a training from existing weights (``init_from``), and its record in the provenance."""

import hashlib
import json
from pathlib import Path
from typing import Any

from experiments.training.rank import process_rank
from tracegrad.errors import ConfigError
from tracegrad.model.network import HamiltonianModel
from tracegrad.training.warm_start import start_from

KEY = "init_from"


def warm_start(
    model: HamiltonianModel, source: str | None, directory: Path, *, resumed: bool
) -> dict[str, Any]:
    """Load weights of ``source`` into a network, unless its run is resumed from a checkpoint with all weights.

    Args:
        source: the setting ``init_from``; None: nothing is loaded.

    Returns:
        The entry for the provenance: empty, or file, SHA-256 and the tensors that were loaded.

    Raises:
        ConfigError: a network whose first stage is not trained, and no weights for it.
    """
    if source is None and model.backbone.features_frozen:
        raise ConfigError(
            "model.backbone.stage=second trains the second stage on a trained first one; give init_from=RUN, the run "
            "of a DeepH-E3 with the same basis, sizes and arm, or use stage=joint"
        )
    if source is None:
        return {}
    if resumed:
        return _recorded(directory)
    loaded = start_from(model, source)
    if process_rank() == 0:
        new = f"; new: {', '.join(loaded.new)}" if loaded.new else ""
        print(
            f"init_from: {len(loaded.loaded)} of {loaded.total} tensors from {loaded.file}{new}", flush=True
        )
    return {KEY: file_identity(loaded.file) | {"tensors": len(loaded.loaded), "new": loaded.new}}


def file_identity(path: Path) -> dict[str, str]:
    """Name and SHA-256 of a file."""
    with path.open("rb") as file:
        return {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _recorded(directory: Path) -> dict[str, Any]:
    """The entry that the first start of the run has recorded."""
    try:
        content = json.loads((directory / "provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {KEY: content[KEY]} if isinstance(content, dict) and KEY in content else {}
