"""The text files of structure folders: tables, elements, shells and info.json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from tracegrad.elements import NUMBERS, SYMBOLS
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import shells_name


def read_text(path: Path) -> str:
    """Content of a text file; raise `DataError` if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); a structure folder needs it as text") from error


def read_table(path: Path, rows: int, columns: int) -> Float[np.ndarray, "rows columns"]:
    """A table of numbers with this shape; raise `DataError` otherwise."""
    table = _rows(path, float, "numbers")
    lengths = {len(row) for row in table}
    if len(table) != rows or lengths != {columns}:
        raise DataError(
            f"{path}: {len(table)} lines of {sorted(lengths)} numbers, but {rows} lines of {columns} are needed "
            "(columns are vectors; one position for each line of element.dat)"
        )
    return np.array(table, dtype=np.float64)


def read_elements(path: Path) -> Int64[np.ndarray, " atoms"]:
    """Atomic numbers of ``element.dat``."""
    numbers = [number for row in _rows(path, _element, "atomic numbers") for number in row]
    if not numbers:
        raise DataError(f"{path}: no atoms; one atomic number per line is needed")
    return np.array(numbers, dtype=np.int64)


def read_orbital_types(path: Path, numbers: np.ndarray) -> dict[int, tuple[int, ...]]:
    """Shells of each element from ``orbital_types.dat``, which has one line for each atom."""
    rows = _rows(path, int, "the degrees of shells, such as 0 0 1 1 2,")
    if len(rows) != len(numbers):
        raise DataError(f"{path}: {len(rows)} lines, but element.dat has {len(numbers)} atoms; give one each")
    shells: dict[int, tuple[int, ...]] = {}
    for atom, (number, degrees) in enumerate(zip(numbers.tolist(), map(tuple, rows), strict=True), 1):
        if list(degrees) != sorted(degrees) or degrees[0] < 0 or degrees[-1] > 6:
            raise DataError(
                f"{path}: atom {atom} has shells of degrees {list(degrees)}; ascending degrees from 0 to 6 "
                "are needed"
            )
        if shells.setdefault(number, degrees) != degrees:
            raise DataError(
                f"{path}: atom {atom} ({SYMBOLS[number]}) has shells {shells_name(degrees)}, but an "
                f"earlier one of this element {shells_name(shells[number])}; one set for each element is supported"
            )
    return {number: shells[number] for number in sorted(shells)}


def read_info(path: Path, spin_key: str, fermi_key: str) -> tuple[dict[str, Any], bool, float | None]:
    """Content of ``info.json``, whether H is spinful, and the Fermi level (eV, None if absent)."""
    try:
        info = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: no JSON ({error}); write it as json.dumps does") from error
    spinful = info.get(spin_key) if isinstance(info, dict) else None
    if not isinstance(spinful, bool):
        raise DataError(f"{path}: {spin_key} is {spinful!r}; true or false is needed")
    level = info.get(fermi_key)
    if level is not None and not (type(level) in (int, float) and abs(level) < 1e6):
        raise DataError(f"{path}: {fermi_key} is {level!r}; a number in eV is needed")
    return info, spinful, None if level is None else float(level)


def _rows(path: Path, convert: Callable[[str], Any], what: str) -> list[list[Any]]:
    """The converted words of all lines that are not empty; ``what`` describes them in messages."""
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            words = [convert(word) for word in line.split()]
        except (ValueError, OverflowError, KeyError) as error:
            raise DataError(f"{path}: line {number} is {line.strip()[:80]!r}; {what} are needed") from error
        if words:
            rows.append(words)
    return rows


def _element(word: str) -> int:
    """Atomic number from a symbol or a number; raise ValueError for other words."""
    number = NUMBERS.get(word)
    number = number if number is not None else int(value) if (value := float(word)).is_integer() else 0
    if not 0 < number < len(SYMBOLS):
        raise ValueError
    return number
