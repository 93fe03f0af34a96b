"""Text and numbers of basis files, with errors that name file and line."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from tracegrad.errors import BasisError

LARGEST = 1 << 26  # bytes; basis files have at most a few million
LARGEST_CHARGE = 120
_EXPONENT = re.compile(r"(?<=[\d.])([+-]\d{3})$")  # Fortran leaves out the E of exponents of three digits


def read_bytes(path: Path) -> bytes:
    """Content of a basis file; raise `BasisError` if it cannot be read."""
    try:
        if path.stat().st_size > LARGEST:
            raise BasisError(f"{path}: has more than {LARGEST >> 20} MiB; is it a basis file?")
        return path.read_bytes()
    except OSError as error:
        raise BasisError(f"{path}: cannot be read ({error.strerror}); give a basis file") from error


def read_lines(path: Path) -> list[str]:
    """Lines of a basis file; what is no UTF-8 in its comments is replaced."""
    return read_bytes(path).decode("utf-8", errors="replace").splitlines()


def to_numbers(words: Sequence[str], where: str) -> Float[np.ndarray, " numbers"]:
    """Finite numbers, also in Fortran's notation (1.5D-3, 1.5-103).

    Raises:
        BasisError: one of them is not a finite number; ``where`` names file and line.
    """
    try:
        numbers = np.array(list(map(float, words)), dtype=np.float64)
    except ValueError:
        numbers = np.array([_fortran(word, where) for word in words])
    if not np.isfinite(numbers).all():
        word = words[int(np.argmin(np.isfinite(numbers)))]
        raise BasisError(f"{where}: {word!r} is not a finite number; take an undamaged file")
    return numbers


def to_whole(word: str, what: str, where: str, least: int, most: int) -> int:
    """A whole number in this range; raise `BasisError` otherwise."""
    if not re.fullmatch(r"[+-]?\d{1,9}", word) or not least <= int(word) <= most:
        raise BasisError(
            f"{where}: {what} is {word!r}, but a whole number from {least} to {most} is needed; "
            "take an undamaged file"
        )
    return int(word)


def valence_charge(word: str, what: str, where: str) -> float:
    """A number of valence electrons; raise `BasisError` unless it is above 0 and no larger than atoms have."""
    charge = float(to_numbers([word], where)[0])
    if not 0 < charge <= LARGEST_CHARGE:
        raise BasisError(
            f"{where}: {what} is {word!r}, but atoms have between 0 and {LARGEST_CHARGE} valence electrons; "
            "take an undamaged file"
        )
    return charge


def _fortran(word: str, where: str) -> float:
    try:
        return float(_EXPONENT.sub(r"e\1", re.sub("[dD]", "e", word)))
    except ValueError as error:
        raise BasisError(f"{where}: {word[:40]!r} is not a number; take an undamaged file") from error
