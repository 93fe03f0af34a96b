"""Checkpoint files that are written completely or not at all."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from tracegrad.system.whole_files import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under another name, flushes it to the disk, and renames it.

    A process that is killed, or a disk that is full, leaves the checkpoint that was there before.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        # In memory first: torch does not report why it cannot write a file, but the operating system does.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with replacing(path) as draft:
            draft.write_bytes(content.getbuffer())
