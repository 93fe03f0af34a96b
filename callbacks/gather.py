"""Tables of a test: rows of all ranks, written as CSV."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

from tracegrad.system.whole_files import replacing


def gathered(trainer: Trainer, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The rows of all ranks, the same list on each of them; every rank has to call this function."""
    if trainer.world_size == 1:
        return rows
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def write_table(path: Path, head: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a CSV file as a whole."""
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)
