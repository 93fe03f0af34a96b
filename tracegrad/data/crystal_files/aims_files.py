"""Text files of FHI-aims: geometry, orbitals, and matrices of crystals and of molecules.

| file                                  | content                                                                    |
|---------------------------------------|----------------------------------------------------------------------------|
| ``geometry.in``                       | ``lattice_vector`` three times for crystals, ``atom`` or ``atom_frac``     |
| ``basis-indices.out``                 | number, type, atom, n, l and m of each orbital                             |
| ``rs_indices.out``                    | crystals: cells, and the elements of each row in each of them              |
| ``rs_hamiltonian.out``                | crystals: one element a line, hartree; ``_up`` and ``_dn`` if collinear    |
| ``rs_overlap.out``                    | crystals: the same                                                         |
| ``hamiltonian.out``                   | molecules: row, column and element, hartree; ``_up`` and ``_dn``           |
| ``overlap-matrix.out``                | molecules: the same                                                        |

Each may be compressed with gzip. The files have one triangle: of a crystal <row in cell R| |column in cell 0> with
the column not behind the row, of a molecule either one. ``rs_indices.out`` ends the cells with a row of 999999999,
and the elements with an unused one.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from tracegrad.data.crystals.calculation_text import calculation_text
from tracegrad.elements import labelled_element
from tracegrad.errors import DataError

_NO_CELL = 999999999
# Fortran leaves out the E of exponents of three digits.
_EXPONENT = re.compile(r"(?<=\d)([+-]\d{3})(?!\d)")


@dataclass(frozen=True)
class SparseIndex:
    """The elements that the matrices of a calculation have, <row in cell R| |column in cell 0>.

    Args:
        cells: R of each cell.
        cell: position in ``cells`` of the cell of each element.
        rows, columns: orbitals, from 0.
        places: place of each element in the files of values.
        count: number of values in these files.
    """

    cells: Int64[np.ndarray, "cells 3"]
    cell: Int64[np.ndarray, " elements"]
    rows: Int64[np.ndarray, " elements"]
    columns: Int64[np.ndarray, " elements"]
    places: Int64[np.ndarray, " elements"]
    count: int


def read_geometry(
    path: Path,
) -> tuple[Int64[np.ndarray, " atoms"], Float[np.ndarray, "atoms 3"], Float[np.ndarray, "3 3"] | None]:
    """Atomic numbers, positions (angstrom) and lattice (rows, angstrom; None for a molecule) of ``geometry.in``.

    Raises:
        DataError: the file cannot be read or is not understood.
    """
    numbers, rows, vectors = [], [], []
    for count, line in enumerate(calculation_text(path).splitlines(), 1):
        words = line.split("#", 1)[0].split()
        keyword = words[0].lower() if words else ""
        try:
            if keyword == "lattice_vector":
                vectors.append([float(word) for word in words[1:4]])
            elif keyword in ("atom", "atom_frac"):
                number = labelled_element(words[4])
                if number is None:
                    raise ValueError(f"the species {words[4]!r} starts with no symbol")
                numbers.append(number)
                rows.append((keyword, [float(word) for word in words[1:4]]))
            elif keyword == "empty":
                raise ValueError("empty sites with orbitals are not supported")
        except (ValueError, IndexError) as error:
            raise DataError(f"{path}, line {count}: not understood ({error}); correct it") from error
    if not numbers or len(vectors) not in (0, 3):
        raise DataError(
            f"{path}: has {len(numbers)} atoms and {len(vectors)} lattice vectors; atoms and 3 or no vectors are "
            "needed"
        )
    lattice = np.array(vectors) if vectors else None
    if lattice is None and any(keyword == "atom_frac" for keyword, _ in rows):
        raise DataError(f"{path}: atom_frac without lattice vectors; add these")
    positions = [
        np.array(row) @ lattice if keyword == "atom_frac" and lattice is not None else np.array(row)
        for keyword, row in rows
    ]
    return np.array(numbers, dtype=np.int64), np.array(positions), lattice


def read_basis_indices(path: Path, atoms: int) -> list[list[int]]:
    """Degrees of the shells of each atom, in the order of ``basis-indices.out``.

    Raises:
        DataError: the file cannot be read, or its orbitals are no whole shells of these atoms.
    """
    lines = [line.split() for line in calculation_text(path).splitlines()]
    rows = [words for words in lines if words and words[0].isdigit()]
    try:
        table = np.array([[int(words[n]) for n in (0, 2, 4, 5)] for words in rows], dtype=np.int64)
    except (ValueError, IndexError) as error:
        raise DataError(f"{path}: not understood ({error}); take it from the calculation") from error
    shells: list[list[int]] = [[] for _ in range(atoms)]
    position, last = 0, 0
    while position < len(table):
        _, atom, degree, _ = table[position].tolist()
        possible = max(last, 1) <= atom <= min(last + 1, atoms) and 0 <= degree <= 6
        members = range(-degree, degree + 1) if possible else ()
        whole = [[number, atom, degree, m] for number, m in enumerate(members, position + 1)]
        if not possible or table[position : position + len(whole)].tolist() != whole:
            raise DataError(
                f"{path}: orbital {position + 1} (atom {atom}, l = {degree}) is not of a whole shell m = -l .. l of "
                f"one of the {atoms} atoms in turn; take the file from the calculation"
            )
        shells[atom - 1].append(degree)
        position, last = position + len(whole), atom
    if last != atoms:
        raise DataError(
            f"{path}: has orbitals of {last} atoms, but there are {atoms}; take the file from the calculation"
        )
    return shells


def read_sparse_index(path: Path, orbitals: int) -> SparseIndex:
    """``rs_indices.out`` of a calculation with this number of orbitals.

    Raises:
        DataError: the file cannot be read, is truncated, or has another number of orbitals.
    """
    words = iter(calculation_text(path).split())

    def title(text: str) -> None:
        word = next(words, "")
        if word != text:
            raise DataError(
                f"{path}: has {word[:40]!r} where {text} is expected; the file is truncated or damaged, run FHI-aims "
                "again with output_rs_matrices plain"
            )

    def ints(count: int) -> Int64[np.ndarray, " count"]:
        taken = [word for _, word in zip(range(count), words, strict=False)]
        try:
            values = np.array(taken, dtype=np.int64)
        except (ValueError, OverflowError) as error:
            raise DataError(f"{path}: not understood ({error}); the file is damaged") from error
        if len(values) < count:
            raise DataError(
                f"{path}: ends after {len(values)} of {count} whole numbers; the file is truncated, run FHI-aims "
                "again"
            )
        return values

    def number(text: str) -> int:
        title(text)
        return int(ints(1)[0])

    size = number("n_hamiltonian_matrix_size:")
    count = number("n_cells_in_hamiltonian:")
    found = number("n_basis:")
    if found != orbitals:
        raise DataError(
            f"{path}: has {found} orbitals, but basis-indices.out {orbitals}; take all files from one calculation"
        )
    title("cell_index")
    cells = ints(3 * count).reshape(count, 3)
    title("index_hamiltonian(1,:,:)")
    first = ints(count * orbitals)
    title("index_hamiltonian(2,:,:)")
    last = ints(count * orbitals)
    title("column_index_hamiltonian")
    columns = ints(size) - 1
    real = np.repeat((cells != _NO_CELL).any(1), orbitals)
    lengths = np.where(real & (first > 0), np.maximum(last - first + 1, 0), 0)
    if ((lengths > 0) & (last > size)).any():
        raise DataError(f"{path}: rows reach behind the {size} elements; the file is damaged")
    row = np.repeat(np.arange(count * orbitals), lengths)
    places = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + first[row] - 1
    index = SparseIndex(cells, row // orbitals, row % orbitals, columns[places], places, size)
    wrong = (index.columns < 0) | (index.columns > index.rows)
    if not len(row) or wrong.any():
        what = "columns behind their row" if len(row) else "no elements"
        raise DataError(f"{path}: has {what}; the file is damaged, run FHI-aims again")
    return index


def read_values(path: Path, count: int) -> Float[np.ndarray, " count"]:
    """The values of a file, one a line.

    Raises:
        DataError: the file cannot be read, or has another number of values.
    """
    values = _numbers(path)
    if len(values) != count:
        raise DataError(
            f"{path}: has {len(values)} values, but rs_indices.out {count}; the file is truncated or of another "
            "calculation"
        )
    return values


def read_triangle(path: Path, orbitals: int) -> Float[np.ndarray, "orbitals orbitals"]:
    """The symmetric matrix of a molecule from its triangle, rows of "row column value".

    Raises:
        DataError: the file cannot be read, or its triangle is not complete.
    """
    values = _numbers(path)
    needed = orbitals * (orbitals + 1) // 2
    if len(values) != 3 * needed:
        raise DataError(
            f"{path}: has {len(values)} numbers, but the triangle of {orbitals} orbitals has {needed} rows of 3; the "
            "file is truncated or of another calculation"
        )
    table = values.reshape(-1, 3)
    rows, columns = table[:, :2].astype(np.int64).T - 1
    matrix = np.full((orbitals, orbitals), np.nan)
    inside = (table[:, :2] >= 1).all() and (table[:, :2] <= orbitals).all()
    if inside:
        matrix[rows, columns] = matrix[columns, rows] = table[:, 2]
    if not inside or np.isnan(matrix).any():
        raise DataError(f"{path}: not each pair of {orbitals} orbitals has one row; the file is damaged")
    return matrix


def _numbers(path: Path) -> Float[np.ndarray, " numbers"]:
    text = calculation_text(path)
    try:
        try:
            values = np.array(text.split(), dtype=np.float64)
        except ValueError:
            values = np.array(_EXPONENT.sub(r"E\1", text).split(), dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{path}: {error}; the file is damaged, run FHI-aims again") from error
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(f"{path}: number {bad[0] + 1} is not finite; the calculation went wrong, repeat it")
    return values
