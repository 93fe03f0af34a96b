"""Text files that are complete or absent: plain text, JSON and tables (CSV)."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tracegrad.system.whole_files import replacing


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any, *, indent: int | None = 2) -> None:
    """Write plain data as JSON."""
    write_text(path, json.dumps(values, indent=indent) + "\n")


def write_table(path: Path, head: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table as CSV."""
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)
