"""Numbers of samples and atoms of the eight databases of the paper (Tables 4 and 5), to compare files with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Int64

from tracegrad.elements import SYMBOLS


@dataclass(frozen=True)
class PartNumbers:
    """A part of a split: number of samples, and numbers of atoms of the smallest and the largest sample."""

    samples: int
    smallest: int
    largest: int


@dataclass(frozen=True)
class PublishedDatabase:
    """One database in Table 4 or 5: atomic numbers and parts of its split."""

    elements: tuple[int, ...]
    parts: Mapping[str, PartNumbers]


def _published() -> dict[str, PublishedDatabase]:
    content = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    return {
        name: PublishedDatabase(
            tuple(entry["elements"]), {part: PartNumbers(*row) for part, row in entry["parts"].items()}
        )
        for name, entry in content.items()
    }


PUBLISHED = _published()


def differences(
    database: str, elements: tuple[int, ...], atoms: Mapping[str, Int64[np.ndarray, " _"]]
) -> list[str]:
    """Differences from the published numbers of a database, one line each.

    Args:
        database: MG, MM, BG, BB, BT, BS, QS or QD.
        elements: atomic numbers in the files.
        atoms: number of atoms of each sample, for each part.
    """
    published = PUBLISHED[database]
    table = 5 if database.startswith("Q") else 4
    lines = []
    if tuple(elements) != published.elements:
        present, expected = (
            ", ".join(SYMBOLS[z] for z in numbers) for numbers in (elements, published.elements)
        )
        lines.append(f"{database}: elements {present}; Table {table} has {expected}")
    for part in dict.fromkeys([*published.parts, *atoms]):
        counts, expected_part = atoms.get(part, np.zeros(0, dtype=np.int64)), published.parts.get(part)
        if expected_part is None:
            lines.append(f"{database}: {len(counts)} {part} samples; Table {table} has none")
            continue
        if len(counts) != expected_part.samples:
            lines.append(
                f"{database}: {len(counts)} {part} samples; Table {table} has {expected_part.samples}"
            )
        if len(counts) and (counts.min(), counts.max()) != (expected_part.smallest, expected_part.largest):
            lines.append(
                f"{database}: {part} samples of {counts.min()} to {counts.max()} atoms; "
                f"Table {table} has {expected_part.smallest} to {expected_part.largest}"
            )
    return lines
