"""Count what a database holds, and compare it with Tables 4 and 5 of the paper or with other numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.published import PUBLISHED, differences
from tracegrad.data.qh9.database import RELEASES, QH9Database
from tracegrad.elements import NUMBERS, SYMBOLS
from tracegrad.errors import ConfigError, DataError

SPLITS = {"QS": "ood", "QD": "mol"}


@dataclass(frozen=True)
class Expectation:
    """Numbers of a database that is not in the paper's tables: samples, elements, fewest and most atoms."""

    samples: int
    elements: tuple[str, ...]
    atoms: tuple[int, int]

    @classmethod
    def from_config(cls, values: Any) -> "Expectation":
        """From ``{samples: 5, elements: [H, O], atoms: [3, 9]}``; raises `ConfigError` for anything else."""
        try:
            samples, elements, (fewest, most) = values["samples"], values["elements"], values["atoms"]
            numbers = sorted(NUMBERS[symbol] for symbol in elements)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"expect={values} is not understood; give {{samples: 5, elements: [H, O], atoms: [3, 9]}}"
            ) from error
        return cls(samples, tuple(SYMBOLS[number] for number in numbers), (fewest, most))


@dataclass(frozen=True)
class Verification:
    """The numbers of a database, and how they differ from those of ``against``.

    ``twisted`` are patterns of the names of twisted structures.
    """

    against: str
    numbers: dict[str, Any]
    differences: tuple[str, ...]
    twisted: tuple[str, ...] = ()

    def __str__(self) -> str:
        fewest, most = self.numbers["atoms"]
        elements = ", ".join(self.numbers["elements"])
        return f"{self.numbers['samples']:,} samples of {fewest} to {most} atoms ({elements}), as in {self.against}"


def verify_molecules(
    path: str | Path, table: str, release: str, expected: Expectation | None = None
) -> Verification:
    """Compare release, rows, elements and numbers of atoms of a QH9 file with Table 5, for each part of the split.

    Reads two columns of every row, which takes some minutes for a released file on a slow disk.
    """
    database = QH9Database(path)
    numbers = _numbers(database.elements, database.atom_counts)
    if expected is not None:
        return Verification("expect", numbers, _unexpected(expected, numbers))
    try:
        database.require_release(release)
    except DataError:
        kind = f"the release {database.release}" if database.release else f"no release, {database.flavour}"
        reason = f"{len(database):,} rows ({kind}); it should be {release}, of {RELEASES[release]:,} rows"
        return Verification("Table 5", numbers, (f"{table}: {reason}",))
    parts = database.split(SPLITS[table])
    atoms = {part: database.atom_counts[rows] for part, rows in parts.items()}
    return Verification("Table 5", numbers, tuple(differences(table, database.elements, atoms)))


def verify_crystals(path: str | Path, table: str, expected: Expectation | None = None) -> Verification:
    """Open every structure of a folder, and compare elements and numbers of atoms with Table 4.

    All structures of the split of a database of the paper have the same number of atoms; the others are its twisted
    ones.
    """
    database = CrystalDatabase(path)
    database.check_files()
    counts = database.atom_counts
    numbers = _numbers(database.elements, counts)
    if expected is not None:
        return Verification("expect", numbers, _unexpected(expected, numbers))
    published = PUBLISHED[table]
    atoms = published.parts["train"].smallest
    samples = {part: sizes.samples for part, sizes in published.parts.items() if part != "twisted"}
    total, untwisted, lines = sum(samples.values()), int((counts == atoms).sum()), []
    if untwisted != total:
        sizes = " + ".join(map(str, samples.values()))
        lines.append(f"{table}: {untwisted} structures of {atoms} atoms; Table 4 has {total} ({sizes})")
    # The split is not known: its parts are compared above as a whole, and count as fitting below.
    parts = {part: np.full(size, atoms, dtype=np.int64) for part, size in samples.items()}
    if (counts != atoms).any():
        parts["twisted"] = counts[counts != atoms]
    lines += differences(table, database.elements, parts)
    twisted = [name for name, count in zip(database.names, counts, strict=True) if count != atoms]
    others = [name for name, count in zip(database.names, counts, strict=True) if count == atoms]
    return Verification("Table 4", numbers, tuple(lines), tuple(_patterns(twisted, others)))


def _patterns(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Patterns that match all of ``names`` and none of ``others``: ``group/*`` for whole groups, else the names."""
    groups = {name.split("/")[0] for name in names if "/" in name}
    whole = {group for group in groups if not any(other.startswith(f"{group}/") for other in others)}
    single = [name for name in names if name.split("/")[0] not in whole]
    return sorted(f"{group}/*" for group in whole) + single


def _numbers(elements: tuple[int, ...], counts: Int64[np.ndarray, " samples"]) -> dict[str, Any]:
    return {
        "samples": len(counts),
        "elements": [SYMBOLS[number] for number in elements],
        "atoms": [int(counts.min()), int(counts.max())],
    }


def _unexpected(expected: Expectation, numbers: dict[str, Any]) -> tuple[str, ...]:
    values = {
        "samples": expected.samples,
        "elements": list(expected.elements),
        "atoms": list(expected.atoms),
    }
    return tuple(
        f"{key}: {numbers[key]}, expected {value}" for key, value in values.items() if numbers[key] != value
    )
