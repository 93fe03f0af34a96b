"""The eight databases of the paper as its Tables 4 and 5 count them, to compare files with."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Int64


@dataclass(frozen=True)
class PartNumbers:
    """A part of a split: samples, and the atoms of the smallest and the largest one."""

    samples: int
    smallest: int
    largest: int


@dataclass(frozen=True)
class Published:
    """One column of Table 4 or 5."""

    elements: tuple[int, ...]
    parts: Mapping[str, PartNumbers]


def _crystals(
    elements: tuple[int, ...], atoms: int, sizes: tuple[int, int, int], twisted: PartNumbers | None = None
) -> Published:
    parts = {
        part: PartNumbers(size, atoms, atoms)
        for part, size in zip(("train", "val", "test"), sizes, strict=True)
    }
    return Published(elements, parts | ({"twisted": twisted} if twisted else {}))


QH9_ELEMENTS = (1, 6, 7, 8, 9)
PUBLISHED = {
    "MG": _crystals((6,), 72, (270, 90, 90)),
    "MM": _crystals((16, 42), 75, (300, 100, 100)),
    "BG": _crystals((6,), 64, (180, 60, 60), PartNumbers(9, 28, 1084)),
    "BB": _crystals((83,), 36, (231, 113, 113), PartNumbers(4, 28, 244)),
    "BT": _crystals((52, 83), 90, (204, 38, 12), PartNumbers(2, 70, 130)),
    "BS": _crystals((34, 83), 90, (231, 113, 113), PartNumbers(2, 70, 190)),
    "QS": Published(
        QH9_ELEMENTS,
        {
            "train": PartNumbers(104_001, 3, 20),
            "val": PartNumbers(17_495, 21, 22),
            "test": PartNumbers(9_335, 23, 29),
        },
    ),
    "QD": Published(
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
    """What differs from the published numbers of a database, one line each; empty: nothing.

    Args:
        database: MG, MM, BG, BB, BT, BS, QS or QD.
        elements: atomic numbers that were found.
        atoms: atoms of every sample of each part.
    """
    published = PUBLISHED[database]
    table = 5 if database.startswith("Q") else 4
    lines = []
    if tuple(elements) != published.elements:
        found, wanted = (
            ", ".join(chemical_symbols[z] for z in numbers) for numbers in (elements, published.elements)
        )
        lines.append(f"{database}: elements {found}; Table {table} has {wanted}")
    for part in dict.fromkeys([*published.parts, *atoms]):
        counts, wanted_part = atoms.get(part, np.zeros(0, dtype=np.int64)), published.parts.get(part)
        if wanted_part is None:
            lines.append(f"{database}: {len(counts)} {part} samples; Table {table} has none")
            continue
        if len(counts) != wanted_part.samples:
            lines.append(f"{database}: {len(counts)} {part} samples; Table {table} has {wanted_part.samples}")
        if len(counts) and (counts.min(), counts.max()) != (wanted_part.smallest, wanted_part.largest):
            lines.append(
                f"{database}: {part} samples of {counts.min()} to {counts.max()} atoms; "
                f"Table {table} has {wanted_part.smallest} to {wanted_part.largest}"
            )
    return lines
