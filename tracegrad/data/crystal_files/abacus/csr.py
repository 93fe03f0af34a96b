"""Sparse matrices H(R) and S(R) in the text files of ABACUS, in both of its layouts.

The older layout (``data-HR-sparse_SPIN0.csr``, ABACUS up to the LTS version 3.10) has three lines of counts, then for
each cell a line ``Rx Ry Rz nnz`` and one line each with the nnz values, their columns and n + 1 row pointers; nothing
follows where nnz is 0. The newer one (``hrs1_nao.csr``, development versions from 3.9.0.25) begins with the counts,
the lattice and the atoms, and breaks the three lists into lines below titles; there are pointers also for nnz = 0.
Version numbers do not tell which one a file has, its first line does. Both are read by their counts. Complex numbers
are written ``(re,im)``. A file may hold several ionic steps one behind the other.
"""

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64, Shaped

from tracegrad.errors import DataError

NEWER, OLDER = "newer", "older"
_STEP = re.compile(rb"^ *(?:STEP: *(\d+)|--- Ionic Step (\d+) ---)", re.MULTILINE)
# Titles and comments of the newer layout; in files of other programs they have no #.
_TITLE = re.compile(rb"^[ \t]*[#A-Za-z][^\n]*$", re.MULTILINE)
_OLDER_SIZE = re.compile(rb"Matrix Dimension of [A-Z]+\(R\): *(\d+)")
_OLDER_CELLS = re.compile(rb"Matrix number of [A-Z]+\(R\): *(\d+)")
_COUNTS = {
    "spin": "spin index",
    "size": "number of localized basis",
    "cells": "number of Bravais lattice vector R",
}
_DIRECTIONS = re.compile(rb"(\d+) *# *number of spin directions")
_LEVEL = re.compile(r"E_?Fermi *= *(\S+) *eV", re.IGNORECASE)
_MOST_ORBITALS, _MOST_ATOMS = 10_000_000, 1_000_000
_HEAD = 1 << 20  # bytes of a file in which its counts and atoms stand


@dataclass(frozen=True)
class AbacusCell:
    """The structure in a file of the newer layout.

    Args:
        labels: label of each atom.
        lattice: rows are lattice vectors, angstrom.
        constant: length in which ABACUS measures the lattice vectors, angstrom.
        positions: angstrom.
    """

    labels: list[str]
    lattice: Float[np.ndarray, "3 3"]
    constant: float
    positions: Float[np.ndarray, "atoms 3"]


@dataclass(frozen=True)
class CsrHeader:
    """What stands before the numbers of a file.

    Args:
        layout: "older" or "newer".
        step: the last ionic step as the file counts it, from 0 in the older and from 1 in the newer layout; None if
            the file does not say.
        size: number of rows; twice the number of orbitals for nspin 4.
        cells: number of cells R.
        spin: spin of the file, from 1; None in the older layout.
        fermi_level: eV, if the file says it.
        cell: the structure; None in the older layout.
        end: byte at which the numbers begin.
    """

    layout: str
    step: int | None
    size: int
    cells: int
    spin: int | None = None
    fermi_level: float | None = None
    cell: AbacusCell | None = None
    end: int = 0


@dataclass(frozen=True)
class SparseCells:
    """The elements of M(R) = <row in cell 0| M |column in cell R> of a file, in its units and its order of orbitals.

    Args:
        header: what stands before the numbers.
        cells: R of each cell.
        cell, rows, columns, values: cell (position in ``cells``), row, column and value of each element.
    """

    header: CsrHeader
    cells: Int64[np.ndarray, "cells 3"]
    cell: Int64[np.ndarray, " elements"]
    rows: Int64[np.ndarray, " elements"]
    columns: Int64[np.ndarray, " elements"]
    values: Shaped[np.ndarray, " elements"]


def content_of(path: Path, count: int = -1) -> bytes:
    """The first ``count`` bytes of a file (-1: all), decompressed if necessary.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not compressed:
                return raw.read(count)
            with gzip.open(raw) as stream:
                return stream.read(count)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); complete the output of ABACUS") from error


def read_csr_header(path: Path) -> CsrHeader:
    """Counts and structure of a file; the numbers are not read, and of several ionic steps only the first one.

    Raises:
        DataError: the file is in neither layout, or of a gamma-only run.
    """
    return _header(path, content_of(path, _HEAD), 0)


def read_csr(path: Path) -> SparseCells:
    """The last ionic step of a file of either layout, plain or compressed with gzip.

    Raises:
        DataError: the file is in neither layout, truncated, damaged, or of a gamma-only run.
    """
    content = content_of(path)
    marks = [mark.start() for mark in _STEP.finditer(content)]
    header = _header(path, content, marks[-1] if marks else 0)
    text = _TITLE.sub(b"", content[header.end :])
    is_complex = b"(" in text
    if is_complex:
        text = text.translate(bytes.maketrans(b"(,)", b"   "))
    try:
        numbers = np.array(text.split(), dtype=np.float64)
    except ValueError as error:
        raise DataError(
            f"{path}: among the elements of the matrix is no number ({str(error)[:80]}); the file is damaged, run "
            "ABACUS again with out_mat_hs2 1"
        ) from error
    return _elements(path, header, numbers, 2 if is_complex else 1)


def spin_directions(path: Path) -> int | None:
    """Number of spin directions that the first lines of a file say; None in the older layout."""
    match = _DIRECTIONS.search(content_of(path, 4096))
    return int(match[1]) if match else None


def count_ionic_steps(path: Path) -> int:
    """Number of ionic steps in a file."""
    return max(len(_STEP.findall(content_of(path))), 1)


def _elements(path: Path, header: CsrHeader, numbers: np.ndarray, width: int) -> SparseCells:
    """Walk through the numbers of a file by its counts; a value has ``width`` numbers."""
    size, place = header.size, 0
    cells, counts, spans, pointers = [], [], [], []
    for one in range(header.cells):
        head = numbers[place : place + 4]
        count = int(head[3]) if len(head) == 4 and head[3] >= 0 else -1
        shown = " ".join(f"{x:g}" for x in head)
        if count < 0 or (head != np.rint(head)).any() or np.abs(head[:3]).max() > 1e6:
            raise DataError(
                f"{path}: cell {one + 1} of {header.cells} begins with {shown!r}, not with Rx Ry Rz and a count; "
                "the file is truncated or damaged, run ABACUS again"
            )
        place += 4
        has_pointers = count > 0 or header.layout == NEWER
        end = place + count * (width + 1) + (size + 1) * has_pointers
        if end > len(numbers):
            raise DataError(
                f"{path}: ends within the cell {shown!r} ({one + 1} of {header.cells}); the file is truncated, run "
                "ABACUS again"
            )
        cells.append(head[:3])
        counts.append(count)
        spans.append(place)
        pointers.append(numbers[end - size - 1 : end] if has_pointers else np.zeros(size + 1))
        place = end
    if place != len(numbers):
        raise DataError(
            f"{path}: {len(numbers) - place} numbers follow after the {header.cells} cells that it announces; the "
            "file is damaged or of two runs, run ABACUS again"
        )
    steps = np.diff(np.array(pointers), axis=1)
    if (steps < 0).any() or (steps.sum(1) != counts).any() or (np.array(pointers)[:, 0] != 0).any():
        wrong = int(np.flatnonzero((steps < 0).any(1) | (steps.sum(1) != counts))[:1].sum())
        raise DataError(
            f"{path}: the row pointers of cell {wrong + 1} do not fit its {counts[wrong]} values; the file is "
            "damaged, run ABACUS again"
        )
    pieces = [
        (numbers[s : s + n * width], numbers[s + n * width : s + n * (width + 1)])
        for s, n in zip(spans, counts, strict=True)
    ]
    values = np.concatenate([piece for piece, _ in pieces])
    columns = np.concatenate([piece for _, piece in pieces]).astype(np.int64)
    if len(columns) and (columns.min() < 0 or columns.max() >= size):
        raise DataError(
            f"{path}: an element is in column {columns.max()} (counted from 0) of a matrix with {size} columns; the "
            "file is damaged, run ABACUS again"
        )
    cell_and_row = np.repeat(np.arange(header.cells * size), steps.ravel().astype(np.int64))
    return SparseCells(
        header,
        np.array(cells).astype(np.int64).reshape(-1, 3),
        cell_and_row // size,
        cell_and_row % size,
        columns,
        values.view(np.complex128) if width == 2 else values,
    )


def _header(path: Path, content: bytes, start: int) -> CsrHeader:
    mark = _STEP.match(content, start)
    first = content[start : start + 200].lstrip().split(b"\n")[0].decode("utf-8", "replace").strip()
    if mark is not None and mark[2] is not None:
        return _newer_header(path, content, start, int(mark[2]))
    size, cells = _OLDER_SIZE.search(content, start), _OLDER_CELLS.search(content, start)
    if size is None or cells is None or not (mark or first.startswith("Matrix Dimension")):
        raise DataError(
            f"{path}: begins with {first[:60]!r}, which is neither of the two text layouts of ABACUS (STEP: or "
            "Matrix Dimension of, and --- Ionic Step 1 ---); run ABACUS 3 again with out_mat_hs2 1"
        )
    return CsrHeader(
        OLDER,
        int(mark[1]) if mark else None,
        _count(path, size[1].decode(), "dimension", _MOST_ORBITALS),
        _count(path, cells[1].decode(), "number of cells", _MOST_ORBITALS),
        end=cells.end(),
    )


def _newer_header(path: Path, content: bytes, start: int, step: int) -> CsrHeader:
    """Counts, then ``Direct`` below lattice, labels and counts of the atoms, then one line for each atom."""
    box = content.find(b"CSR Format", start, start + _HEAD)
    lines = content[start : box if box >= 0 else start + _HEAD].split(b"\n")
    texts = []
    for line in lines:
        texts.append(line.decode("utf-8", "replace").strip())
        if texts[-1] == "Direct":
            break
    representation = next((text for text in texts if "representation" in text), None)
    if representation is not None:
        raise DataError(
            f"{path}: {representation.lstrip('# ')!r}: a gamma-only run, whose matrices are summed over all cells; "
            "run ABACUS again with gamma_only 0"
        )
    counts: dict[str, int] = {}
    level = None
    for key, title in _COUNTS.items():
        text = next((text for text in texts if title in text.partition("#")[2]), None)
        if text is None:
            raise DataError(
                f"{path}: has no line '# {title}' before its numbers; the file is truncated or damaged, run ABACUS "
                "again"
            )
        counts[key] = _count(path, text.partition("#")[0].strip(), title, _MOST_ORBITALS)
        if key == "spin" and (match := _LEVEL.search(text)):
            level = float(match[1])
    direct = len(texts) - 1
    try:
        if texts[direct] != "Direct":
            raise ValueError("no line 'Direct'")
        numbers_of = [int(word) for word in texts[direct - 1].split()]
        labels = [
            label for label, n in zip(texts[direct - 2].split(), numbers_of, strict=True) for _ in range(n)
        ]
        rows = [[float(word) for word in text.split()[:3]] for text in texts[direct - 5 : direct - 2]]
        constant, lattice = float(texts[direct - 6]), np.array(rows, dtype=np.float64).reshape(3, 3)
        atoms = lines[direct + 1 : direct + 1 + len(labels)]
        positions = np.array([[float(word) for word in line.split()[:3]] for line in atoms], dtype=np.float64)
        if positions.shape != (len(labels), 3) or not 0 < len(labels) <= _MOST_ATOMS:
            raise ValueError(f"{len(positions)} positions of {len(labels)} atoms")
    except (ValueError, IndexError, OverflowError) as error:
        raise DataError(
            f"{path}: lattice and atoms in its first lines are not understood ({error}); the file is truncated or "
            "damaged"
        ) from error
    cell = AbacusCell(labels, constant * lattice, constant, positions @ (constant * lattice))
    end = start + sum(len(line) + 1 for line in lines[: direct + 1 + len(labels)])
    return CsrHeader(NEWER, step, counts["size"], counts["cells"], counts["spin"], level, cell, end)


def _count(path: Path, word: str, what: str, most: int) -> int:
    if not word.isdecimal() or not 0 < int(word) <= most:
        raise DataError(
            f"{path}: {what} is {word!r}, and not a whole number from 1 to {most}; the file is truncated or damaged, "
            "run ABACUS again with out_mat_hs2 1"
        )
    return int(word)
