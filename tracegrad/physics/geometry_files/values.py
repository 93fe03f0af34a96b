"""Parses numbers and names of elements as they are written in geometry files."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from tracegrad.elements import NUMBERS, SYMBOLS

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+|\*\^[+-]?\d+)?")
# Names of ghost and dummy atoms in the files of quantum chemistry programs.
_DUMMIES = {"x", "xx", "bq", "gh", "du", "ghost", "dummy", "lp", "q", "va", "vac", "0"}


def number(text: str) -> float | None:
    """The value of a number, also with exponents of Fortran (1.0D+00) and of QM9 (1.0*^-6); None for other text."""
    if not _NUMBER.fullmatch(text):
        return None
    return float(text.replace("*^", "e").replace("D", "e").replace("d", "e"))


def numbers_of(value: Any) -> np.ndarray | None:
    """The numbers of a value (text, list, table, mapping) as a flat array; None if it has none, or other content."""
    # ASE writes lists and tables into a comment line like this.
    if isinstance(value, str) and value.startswith("_JSON "):
        with suppress(ValueError):
            return numbers_of(json.loads(value.removeprefix("_JSON ")))
        return None
    if isinstance(value, Mapping):
        known = [part for part in map(numbers_of, value.values()) if part is not None]
        return np.concatenate(known) if known and len(known) == len(value) else None
    if isinstance(value, str):
        parts = [number(part) for part in re.split(r"[\s,;]+", value.strip(" \t[](){}\"'")) if part]
        return np.array(parts, dtype=np.float64) if parts and None not in parts else None
    try:
        array = np.asarray(value, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        return None
    return array if array.size and np.isfinite(array).all() else None


def atomic_number(symbol: str) -> int:
    """The atomic number of a chemical symbol in any case, or of a text with a number from 1 to 118.

    Raises:
        ValueError: the text is no element; the message says what it may be and what to write.
    """
    if symbol.isascii() and symbol.isdigit() and 0 < int(symbol) < len(SYMBOLS):
        return int(symbol)
    number_of_symbol = NUMBERS.get(symbol.capitalize(), 0)
    if number_of_symbol:
        return number_of_symbol
    bare = symbol.lower().strip("@*()[]_-:")
    if bare in ("d", "t"):
        raise ValueError(isotope(symbol))
    parts = set(re.split(r"[-_:]", bare))
    if bare in _DUMMIES or parts & {"bq", "gh", "ghost", "x"} or symbol.startswith("@"):
        raise ValueError(
            f"{symbol!r} is no element but a ghost or dummy atom; remove it, and count one atom less"
        )
    if bare == "tv":
        raise ValueError(f'{symbol!r} is a lattice vector; write it as Lattice="..." in the comment line')
    label = re.match(r"([A-Za-z]{1,2}?)(?![a-z])", symbol)
    if label and len(symbol) > 1 and label[1].capitalize() in NUMBERS:
        raise ValueError(f"{symbol!r} is a label, no element; write the symbol alone, such as {label[1]}")
    raise ValueError(f"{symbol!r} is no element; write its symbol, such as H, or its atomic number")


def isotope(symbol: str) -> str:
    """The message about the symbols D and T."""
    name = "deuterium" if symbol.lower().strip("@*()[]_-:") == "d" else "tritium"
    return f"{symbol!r} is {name}; isotopes have the same Hamiltonian, write H"
