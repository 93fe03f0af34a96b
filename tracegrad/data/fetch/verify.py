"""What a database holds, against Tables 4 and 5 of the paper or other numbers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Int64

from tracegrad.data.crystals.database import CrystalDatabase
from tracegrad.data.published import PUBLISHED, differences
from tracegrad.data.qh9.database import RELEASES, QH9Database
from tracegrad.errors import ConfigError, DataError

SPLITS = {"QS": "ood", "QD": "mol"}


@dataclass(frozen=True)
class Expectation:
    """Numbers of a database that is none of the paper's: samples, elements, fewest and most atoms."""

    samples: int
    elements: tuple[str, ...]
    atoms: tuple[int, int]

    @classmethod
    def of(cls, values: Any) -> "Expectation":
        """From a table of the configuration."""
        try:
            samples, elements, (fewest, most) = values["samples"], values["elements"], values["atoms"]
            numbers = sorted(atomic_numbers[symbol] for symbol in elements)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"expect={values} is not understood; give {{samples: 5, elements: [H, O], atoms: [3, 9]}}"
            ) from error
        return cls(samples, tuple(chemical_symbols[number] for number in numbers), (fewest, most))


@dataclass(frozen=True)
class Verification:
    """What was found, how it differs from what should be there, and patterns of the names of twisted structures."""

    against: str
    found: dict[str, Any]
    differences: tuple[str, ...]
    twisted: tuple[str, ...] = ()

    def __str__(self) -> str:
        fewest, most = self.found["atoms"]
        elements = ", ".join(self.found["elements"])
        return f"{self.found['samples']:,} samples of {fewest} to {most} atoms ({elements}), as in {self.against}"


def verify_molecules(
    path: str | Path, table: str, release: str, expected: Expectation | None = None
) -> Verification:
    """Of a QH9 file: its release, and its rows, elements and atoms in each part of the split of the paper.

    Reads two columns of every row: some minutes for a released file on a slow disk.
    """
    database = QH9Database(path)
    found = _found(database.elements, database.atom_counts)
    if expected is not None:
        return Verification("expect", found, _against(expected, found))
    try:
        database.require_release(release)
    except DataError:
        kind = f"the release {database.release}" if database.release else f"no release, {database.flavour}"
        reason = f"{len(database):,} rows ({kind}); it should be {release}, of {RELEASES[release]:,} rows"
        return Verification("Table 5", found, (f"{table}: {reason}",))
    parts = database.split(SPLITS[table])
    atoms = {part: database.atom_counts[rows] for part, rows in parts.items()}
    return Verification("Table 5", found, tuple(differences(table, database.elements, atoms)))


def verify_crystals(path: str | Path, table: str, expected: Expectation | None = None) -> Verification:
    """Of structure folders: that every one can be opened, their elements, and their atoms.

    In the paper's databases all structures of the split have the same number of atoms; all others count as twisted.
    """
    database = CrystalDatabase(path)
    database.check_files()
    counts = database.atom_counts
    found = _found(database.elements, counts)
    if expected is not None:
        return Verification("expect", found, _against(expected, found))
    published = PUBLISHED[table]
    atoms = published.parts["train"].smallest
    samples = {part: numbers.samples for part, numbers in published.parts.items() if part != "twisted"}
    plain, lines = int((counts == atoms).sum()), []
    if plain != sum(samples.values()):
        sizes = " + ".join(map(str, samples.values()))
        lines.append(
            f"{table}: {plain} structures of {atoms} atoms; Table 4 has {sum(samples.values())} ({sizes})"
        )
    # Sizes of the split are known to fit from here on; elements and twisted structures are left to compare.
    ends = np.cumsum(list(samples.values()))[:-1]
    fitting = np.full(sum(samples.values()), atoms, dtype=np.int64)
    parts = dict(zip(samples, np.split(fitting, ends), strict=True))
    twisted = {"twisted": counts[counts != atoms]} if (counts != atoms).any() else {}
    lines += differences(table, database.elements, parts | twisted)
    apart = [name for name, count in zip(database.names, counts, strict=True) if count != atoms]
    others = [name for name, count in zip(database.names, counts, strict=True) if count == atoms]
    return Verification("Table 4", found, tuple(lines), tuple(_patterns(apart, others)))


def _patterns(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Patterns that fit ``names`` and none of ``others``: their groups, else the names."""
    groups = {name.split("/")[0] for name in names if "/" in name}
    whole = {group for group in groups if not any(other.startswith(f"{group}/") for other in others)}
    single = [name for name in names if name.split("/")[0] not in whole]
    return sorted(f"{group}/*" for group in whole) + single


def _found(elements: tuple[int, ...], counts: Int64[np.ndarray, " samples"]) -> dict[str, Any]:
    sizes = Counter(counts.tolist())
    return {
        "samples": len(counts),
        "elements": [chemical_symbols[number] for number in elements],
        "atoms": [min(sizes), max(sizes)],
    }


def _against(expected: Expectation, found: dict[str, Any]) -> tuple[str, ...]:
    wanted = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(expected).items()}
    return tuple(f"{key}: {found[key]}, expected {wanted[key]}" for key in found if found[key] != wanted[key])
