"""Numbers of samples and atoms of the eight databases of the paper (Tables 4 and 5), to compare files with."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
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


def _crystals(
    elements: tuple[int, ...], atoms: int, sizes: tuple[int, int, int], twisted: PartNumbers | None = None
) -> PublishedDatabase:
    parts = {
        part: PartNumbers(size, atoms, atoms)
        for part, size in zip(("train", "val", "test"), sizes, strict=True)
    }
    return PublishedDatabase(elements, parts | ({"twisted": twisted} if twisted else {}))


QH9_ELEMENTS = (1, 6, 7, 8, 9)
PUBLISHED = {
    "MG": _crystals((6,), 72, (270, 90, 90)),
    "MM": _crystals((16, 42), 75, (300, 100, 100)),
    "BG": _crystals((6,), 64, (180, 60, 60), PartNumbers(9, 28, 1084)),
    "BB": _crystals((83,), 36, (231, 113, 113), PartNumbers(4, 28, 244)),
    "BT": _crystals((52, 83), 90, (204, 38, 12), PartNumbers(2, 70, 130)),
    "BS": _crystals((34, 83), 90, (231, 113, 113), PartNumbers(2, 70, 190)),
    "QS": PublishedDatabase(
        QH9_ELEMENTS,
        {
            "train": PartNumbers(104_001, 3, 20),
            "val": PartNumbers(17_495, 21, 22),
            "test": PartNumbers(9_335, 23, 29),
        },
    ),
    "QD": PublishedDatabase(
        QH9_ELEMENTS,
        {
            "train": PartNumbers(79_900, 10, 19),
            "val": PartNumbers(9_900, 10, 19),
            "test": PartNumbers(10_100, 10, 19),
        },
    ),
}


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
