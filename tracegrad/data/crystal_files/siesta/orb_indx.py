"""SIESTA's text file ``.ORB_INDX``: atom, species, shell and radius of each orbital."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from tracegrad.data.crystals.calculation_text import calculation_text
from tracegrad.errors import DataError
from tracegrad.units import ANGSTROM_PER_BOHR

# Of a row: orbital, atom, species, label, orbital of the atom, n, l, m, zeta, polarised, symmetry, radius, three
# numbers of the cell, the same orbital in the first cell.
_COLUMNS = 16


@dataclass(frozen=True)
class OrbitalIndex:
    """The orbitals of the cell.

    Args:
        atoms: atom of each orbital, from 0.
        species: species of each orbital, from 0.
        labels: label of the species of each orbital.
        shells: n, l and zeta of each orbital.
        radii: angstrom.
    """

    atoms: Int64[np.ndarray, " orbitals"]
    species: Int64[np.ndarray, " orbitals"]
    labels: tuple[str, ...]
    shells: Int64[np.ndarray, "orbitals 3"]
    radii: Float[np.ndarray, " orbitals"]


def read_orb_indx(path: Path) -> OrbitalIndex:
    """The orbitals of the cell; those of the other cells of the file repeat them.

    Raises:
        DataError: the file cannot be read or is not understood.
    """
    lines = calculation_text(path).splitlines()
    try:
        count = int(lines[0].split()[0])
        rows = [line.split() for line in lines[3 : 3 + count]]
        if count < 1 or len(rows) < count or any(len(row) != _COLUMNS for row in rows):
            raise ValueError(f"it should have {count} rows of {_COLUMNS} columns")
        numbers = np.array([[int(row[n]) for n in (1, 2, 5, 6, 8)] for row in rows], dtype=np.int64)
        radii = np.array([float(row[11]) for row in rows])
    except (ValueError, OverflowError, IndexError) as error:
        raise DataError(f"{path}: not understood ({error}); take the file from the run") from error
    return OrbitalIndex(
        numbers[:, 0] - 1,
        numbers[:, 1] - 1,
        tuple(row[3] for row in rows),
        numbers[:, 2:],
        radii * ANGSTROM_PER_BOHR,
    )
