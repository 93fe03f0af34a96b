"""The checkpoint from which a run is resumed."""

from pathlib import Path
from typing import Any

from experiments.training.rank import process_rank
from experiments.training.resuming import checkpoint_files
from tracegrad.errors import CheckpointError
from tracegrad.weights.checkpoint import CHECKPOINT_KEY, load_checkpoint
from tracegrad.weights.file_names import LAST, PREVIOUS

# Entries of a fingerprint of data that identify the database and its split, wherever the file lies.
IDENTITY = ("bytes", "head_sha256", "split_hash")


def resume_point(directory: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest undamaged checkpoint of a run and its content; None if there is no checkpoint yet.

    Raises:
        CheckpointError: there are checkpoints, but all are damaged.
    """
    damaged: CheckpointError | None = None
    for path in checkpoint_files(directory):
        if not path.exists():
            continue
        try:
            content = load_checkpoint(path)
        except CheckpointError as error:
            damaged = damaged or error
            continue
        if damaged and process_rank() == 0:
            print(f"warning: {damaged}\nwarning: the checkpoint before it is used instead", flush=True)
        return path, content
    if damaged:
        raise CheckpointError(
            f"{damaged}, or remove {LAST} and {PREVIOUS} of the run to start anew"
        ) from damaged
    return None


def check_data(checkpoint: dict[str, Any], fingerprint: dict[str, Any], path: Path) -> None:
    """Raise `CheckpointError` if a checkpoint was trained on another database or another split."""
    before = checkpoint.get(CHECKPOINT_KEY, {}).get("data", {})
    changed = [key for key in IDENTITY if before.get(key) != fingerprint[key]]
    if changed:
        raise CheckpointError(
            f"{path} was trained on {before.get('database')} (split {before.get('split_hash')}, "
            f"{before.get('bytes')} bytes), but the data now are {fingerprint['database']} "
            f"(split {fingerprint['split_hash']}, {fingerprint['bytes']} bytes); they differ in "
            f"{', '.join(changed)}: give the database of the training, or start a run of another name"
        )
