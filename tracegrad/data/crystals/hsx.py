"""The binary ``.HSX`` file of SIESTA, versions 1 and 2: structure, species, H and S.

The file consists of Fortran records, each between two marks of four bytes with its length, little-endian:

| record                     | content                                                                        |
|----------------------------|--------------------------------------------------------------------------------|
| version                    | int; version 0 has no such record                                              |
| precision                  | logical: H and S in double precision                                           |
| sizes                      | ints: atoms, orbitals, parts of H, species, nsc (cells along three vectors)    |
| cell and level             | doubles: 3 vectors (bohr), Fermi level (rydberg), charge, temperature          |
| geometry                   | ints: R of each cell; doubles: positions (bohr); ints: species, last orbitals  |
| species                    | for each: label of 20 bytes, double: valence charge, int: number of orbitals   |
| orbitals, for each species | ints: n, l and zeta of each orbital                                            |
| k points, in version 2     | ints and doubles                                                               |
| lengths of the lists       | int for each orbital                                                           |
| lists, for each orbital    | ints from 1: other orbital + number of orbitals x number of its cell R         |
| H, for each part, orbital  | <other orbital in cell R| H |orbital in cell 0>, rydberg                       |
| S, for each orbital        | the same                                                                       |

H and S have the same elements; S is 0 where only H reaches. Energies are absolute. Intel's compiler writes -1 for
true.
"""

import gzip
import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from tracegrad.errors import DataError
from tracegrad.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE_2018

VERSIONS = (1, 2)
_EV_PER_RYDBERG = EV_PER_HARTREE_2018 / 2
_MOST_CELLS = 10**6  # more are a sign of damage


@dataclass(frozen=True)
class HsxHeader:
    """What stands before the matrices of a file.

    Args:
        parts: parts of H: 1, 2 (collinear), 4 (non-collinear) or 8 (with spin-orbit coupling).
        fermi_level: eV.
        lattice: rows are lattice vectors, angstrom.
        positions: angstrom.
        cells: R of each cell of the auxiliary supercell.
        species: species of each atom, from 0.
        labels: label of each species.
        charges: valence charge of each species, 0 for ghost atoms; the file has no atomic numbers.
        orbitals: n, l and zeta of each orbital of each species.
        double: H and S are in double precision.
    """

    parts: int
    fermi_level: float
    lattice: Float[np.ndarray, "3 3"]
    positions: Float[np.ndarray, "atoms 3"]
    cells: Int64[np.ndarray, "cells 3"]
    species: Int64[np.ndarray, " atoms"]
    labels: tuple[str, ...]
    charges: tuple[float, ...]
    orbitals: tuple[Int64[np.ndarray, "_ 3"], ...]
    double: bool

    @property
    def orbital_counts(self) -> Int64[np.ndarray, " atoms"]:
        """Number of orbitals of each atom."""
        return np.array([len(self.orbitals[kind]) for kind in self.species], dtype=np.int64)


@dataclass(frozen=True)
class HsxMatrices:
    """The elements <row in cell R| |column in cell 0> of H and S.

    Args:
        cell: position of R in ``HsxHeader.cells``.
        rows, columns: orbitals of the cell, from 0.
        hamiltonian: each part, eV.
        overlap: S.
    """

    cell: Int64[np.ndarray, " elements"]
    rows: Int64[np.ndarray, " elements"]
    columns: Int64[np.ndarray, " elements"]
    hamiltonian: Sequence[Float[np.ndarray, " elements"]]
    overlap: Float[np.ndarray, " elements"]


def read_hsx_header(path: Path) -> HsxHeader:
    """What stands before the matrices of a file, which may be compressed with gzip.

    Raises:
        DataError: the file is missing, damaged, truncated or of another version.
    """
    with _opened(path) as records:
        return _header(records)


def read_hsx(path: Path) -> tuple[HsxHeader, HsxMatrices]:
    """A whole file, which may be compressed with gzip.

    Raises:
        DataError: the file is missing, damaged, truncated or of another version.
    """
    with _opened(path) as records:
        header = _header(records)
        matrices = _matrices(records, header)
        if records.stream.read(1):
            raise records.damaged("something stands behind the overlap")
    return header, matrices


@contextmanager
def _opened(path: Path) -> Iterator["_Records"]:
    """A file, decompressed if necessary; errors of reading in the block become `DataError`."""
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not compressed:
                yield _Records(path, raw)
            else:
                with gzip.open(raw) as content:
                    yield _Records(path, content)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); give an .HSX file of SIESTA") from error


class _Records:
    """Reads the records of a stream in turn; ``what`` names them in messages."""

    def __init__(self, path: Path, stream: io.BufferedIOBase):
        self.path, self.stream = path, stream

    def mark(self, what: str) -> int:
        return struct.unpack("<i", self._bytes(4, what))[0]

    def record(self, what: str, size: int | None = None) -> bytes:
        """Content of the next record, which has this size in bytes."""
        length = self.mark(what)
        if length < 0 or size not in (None, length):
            raise self.damaged(f"the {what} has {length} bytes" + (f", not {size}" if size else ""))
        content = self._bytes(length, what)
        if self.mark(what) != length:
            raise self.damaged(f"the {what} ends with another mark than it starts with")
        return content

    def ints(self, what: str, count: int) -> Int64[np.ndarray, " count"]:
        return np.frombuffer(self.record(what, 4 * count), "<i4").astype(np.int64)

    def damaged(self, what: str) -> DataError:
        return DataError(f"{self.path}: {what}; the file is damaged or no .HSX file of SIESTA")

    def _bytes(self, count: int, what: str) -> bytes:
        content = self.stream.read(count)
        if len(content) < count:
            raise DataError(
                f"{self.path}: ends within the {what} ({count - len(content)} of {count} bytes are missing); the "
                "file is truncated or damaged, run SIESTA again with SaveHS"
            )
        return content


def _header(records: _Records) -> HsxHeader:
    length = records.mark("version")
    if length == 16:
        raise DataError(
            f"{records.path}: version 0 of the file, which has neither the cell nor the Fermi level; versions "
            f"{VERSIONS[0]} and {VERSIONS[1]} are read, so run a newer SIESTA (5.0 or later) with SaveHS"
        )
    if length != 4:
        raise records.damaged(f"the first record has {length} bytes, not 4")
    version = records.mark("version")
    if version not in VERSIONS or records.mark("version") != 4:
        raise DataError(
            f"{records.path}: version {version}; versions {VERSIONS[0]} and {VERSIONS[1]} of .HSX files are read, or "
            "this is no .HSX file of SIESTA"
        )
    double = bool(records.ints("precision", 1)[0])
    atoms, size, parts, kinds, *supercell = records.ints("sizes", 7).tolist()
    count = int(np.prod(supercell))
    if min(atoms, size, kinds, *supercell) < 1 or count > _MOST_CELLS or parts not in (1, 2, 4, 8):
        raise records.damaged(
            f"{atoms} atoms, {size} orbitals, {parts} parts of H, {kinds} species, {supercell} cells"
        )
    numbers = np.frombuffer(records.record("cell and level", 96), "<f8")
    geometry = records.record("geometry", 12 * count + 32 * atoms)
    cells = np.frombuffer(geometry, "<i4", 3 * count).astype(np.int64).reshape(count, 3)
    positions = np.frombuffer(geometry, "<f8", 3 * atoms, 12 * count).reshape(atoms, 3)
    species, last = np.frombuffer(geometry, "<i4", 2 * atoms, 12 * count + 24 * atoms).reshape(2, atoms)
    described = list(struct.iter_unpack("<20sdi", records.record("species", 32 * kinds)))
    labels = tuple(label.decode("utf-8", "replace").strip() for label, _, _ in described)
    orbitals = tuple(
        records.ints(f"orbitals of {label}", 3 * n).reshape(n, 3)
        for label, (_, _, n) in zip(labels, described, strict=True)
    )
    if species.min() < 1 or species.max() > kinds:
        raise records.damaged(f"atoms of species that are not among {kinds}")
    header = HsxHeader(
        parts,
        float(numbers[9]) * _EV_PER_RYDBERG,
        numbers[:9].reshape(3, 3) * ANGSTROM_PER_BOHR,
        positions * ANGSTROM_PER_BOHR,
        cells,
        species.astype(np.int64) - 1,
        labels,
        tuple(charge for _, charge, _ in described),
        orbitals,
        double,
    )
    if (np.cumsum(header.orbital_counts) != last).any() or last[-1] != size:
        raise records.damaged(f"{size} orbitals, which are not those of the species of its atoms")
    if version == 2:
        records.record("k points", 36 + 24)
    return header


def _matrices(records: _Records, header: HsxHeader) -> HsxMatrices:
    orbitals = int(header.orbital_counts.sum())
    lengths = records.ints("lengths of the lists", orbitals)
    if lengths.min() < 0:
        raise records.damaged("lists of negative length")
    others = np.concatenate([records.ints("lists", n) for n in lengths.tolist()]) - 1
    if others.min(initial=0) < 0 or others.max(initial=0) >= orbitals * len(header.cells):
        raise records.damaged(f"orbitals outside of {len(header.cells)} cells of {orbitals} orbitals")
    dtype = np.dtype("<f8" if header.double else "<f4")

    def elements(what: str) -> Float[np.ndarray, " elements"]:
        lists = [records.record(what, dtype.itemsize * n) for n in lengths.tolist()]
        return np.frombuffer(b"".join(lists), dtype).astype(np.float64)

    hamiltonian = [_EV_PER_RYDBERG * elements("Hamiltonian") for _ in range(header.parts)]
    return HsxMatrices(
        others // orbitals,
        others % orbitals,
        np.repeat(np.arange(orbitals), lengths),
        hamiltonian,
        elements("overlap"),
    )
