"""Rows of a test from all ranks."""

from typing import Any

import torch
from lightning import Trainer


def gathered(trainer: Trainer, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The rows of all ranks, the same list on each of them; every rank has to call this function."""
    if trainer.world_size == 1:
        return rows
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, rows)
    return [row for part in parts for row in part]
