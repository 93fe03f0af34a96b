"""Inputs of OpenMX: elements, and the shells in the names of their bases."""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from tracegrad.elements import NUMBERS
from tracegrad.errors import BasisError, DataError
from tracegrad.hamiltonian.basis import OrbitalBasis, Shells

# Name of a basis, such as C6.0-s2p2d1 or Fe6.0S-s3p2d1.
_BASIS_NAME = re.compile(r"([A-Z][a-z]?)[0-9.]+\w*-([a-z0-9]+)", re.ASCII)


def input_text(path: Path) -> str:
    """The text of an OpenMX input (.dat).

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); give an OpenMX input (.dat)") from error


def species_of_input(
    text: str, source: str, atoms: int, shells: Shells | None
) -> tuple[Int64[np.ndarray, " atoms"], dict[int, tuple[int, ...]]]:
    """Atomic numbers of the atoms and shells of each element, from an OpenMX input.

    Args:
        text: the input.
        source: its file in messages.
        atoms: number of atoms that it has to have.
        shells: shells of each element, as of `OrbitalBasis.openmx`, in place of those in the names of the bases.

    Raises:
        DataError: a table is missing or does not fit, or a basis has no name such as C6.0-s2p2d1.
    """
    elements: dict[str, int] = {}
    bases: dict[int, set[str]] = {}
    for words in _table(text, source, "Definition.of.Atomic.Species"):
        match = _BASIS_NAME.fullmatch(words[1]) if len(words) > 1 else None
        number = NUMBERS.get(match[1]) if match else None
        if match is None or not number:
            raise DataError(
                f"{source}: species {' '.join(words)!r} names no basis such as C6.0-s2p2d1; correct the "
                "input or give another"
            )
        elements[words[0]] = number
        bases.setdefault(number, set()).add(match[2])
    rows = _table(text, source, "Atoms.SpeciesAndCoordinates")
    unknown = [words for words in rows if len(words) < 2 or words[1] not in elements]
    if unknown or len(rows) != atoms:
        raise DataError(
            f"{source}: Atoms.SpeciesAndCoordinates has {len(rows)} atoms, the file {atoms}"
            + (f", and {' '.join(unknown[0])!r} is of no species" if unknown else "")
            + "; give the input of this calculation"
        )
    numbers = np.array([elements[words[1]] for words in rows], dtype=np.int64)
    present = sorted(set(numbers.tolist()))
    try:
        if shells is not None:
            basis = OrbitalBasis.openmx(shells)
            basis.check(numbers, source)
            return numbers, {z: basis.shells[z] for z in present}
        several = {z: sorted(bases[z]) for z in present if len(bases[z]) > 1}
        if several:
            raise DataError(
                f"{source}: element with several bases {several}; one for each element is supported"
            )
        return numbers, dict(OrbitalBasis.openmx({z: next(iter(bases[z])) for z in present}).shells)
    except BasisError as error:
        raise DataError(
            f"{source}: {error} (option shells gives the shells of each element in place of the input)"
        ) from error


def _table(text: str, source: str, name: str) -> list[list[str]]:
    """Words of the rows between ``<name`` and ``name>`` of an OpenMX input; # starts a comment."""
    lines = [line.split("#", 1)[0].split() for line in text.splitlines()]
    marks = [words[0].lower() if words else "" for words in lines]
    opening, closing = f"<{name}".lower(), f"{name}>".lower()
    if opening not in marks or closing not in marks[marks.index(opening) :]:
        raise DataError(f"{source}: no table <{name} ... {name}>; give the OpenMX input of this calculation")
    start = marks.index(opening)
    return [words for words in lines[start + 1 : marks.index(closing, start)] if words]
