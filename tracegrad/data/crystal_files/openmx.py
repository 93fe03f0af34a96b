"""Hamiltonians from OpenMX: the binary ``.scfout`` file of OpenMX 3.9 and 4.0 (version 3 of the file).

The file holds little-endian int32 and float64 numbers without record marks, in this order:

| part                                   | numbers                                                            |
|----------------------------------------|--------------------------------------------------------------------|
| N, word, 3 unused counts, T, order     | ints; word = 4 version + spin (0 none, 1 collinear, 3 non-collinear) |
| cell vectors, cell indices             | (T + 1) x 4 doubles, (T + 1) x 4 ints                              |
| orbitals and neighbours of each atom   | N ints, N ints (without the atom itself)                           |
| neighbour atoms (from 1), their cells  | ints for each atom; the first neighbour is the atom itself, cell 0 |
| lattice, reciprocal lattice, positions | 3 x 4, 3 x 4, N x 4 doubles, bohr                                  |
| H: 1, 2 or 4 parts                     | doubles, hartree, order [atom, neighbour, row, column]             |
| imaginary H: 3 parts if non-collinear  | the same                                                           |
| S                                      | the same                                                           |
| 3 order + 3 overlap matrices           | the same                                                           |
| density matrices: 1, 2 or 4 parts, 2   | the same                                                           |
| solver                                 | int                                                                |
| chemical potential and 9 more numbers  | doubles, hartree                                                   |
| the input                              | a count, then lines of 256 bytes that end with a zero byte         |

The first of the four numbers of a vector is unused. A converter for DeepH may have appended the standard output of
OpenMX, which is not read. With non-collinear spin, parts H0 to H3 and I0 to I2 give uu = H0 + i I0,
dd = H1 + i I1, ud = H2 + i (H3 + I2), and du is the dagger of ud of the reversed pair.
"""

import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64, Shaped

from tracegrad.data.crystal_files.openmx_input import input_text, species_of_input
from tracegrad.data.crystals.orbital_blocks import join_spins
from tracegrad.data.crystals.reader import CrystalReader, StructureHeader, check_channel, checked_spin
from tracegrad.data.crystals.structure import (
    MATRICES,
    Structure,
    check_structure,
    edge_order,
    reordered,
    species_entries,
)
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import OrbitalBasis, Shells
from tracegrad.hamiltonian.blocks import block_starts
from tracegrad.hamiltonian.graph import reversed_edges
from tracegrad.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE

VERSION = 3
_SPINS = {0: "none", 1: "collinear", 3: "non-collinear"}
_MOST_ORBITALS = 1000  # of an atom; more are a sign of damage
_LINE = 256  # bytes of a line of the input
_PIECE = 1 << 24  # bytes read at a time: a damaged count does not allocate more memory than the file has


def read_scfout(
    path: str | Path,
    *,
    shells: Shells | None = None,
    input_file: str | Path | None = None,
    spin: str | None = None,
) -> Structure:
    """Read the structure, H, S and the Fermi level of a ``.scfout`` file, which may be compressed with gzip.

    Elements and shells are taken from the copy of the OpenMX input at the end of the file.

    Args:
        shells: shells of each element, as of `OrbitalBasis.openmx`, if the names of the bases do not contain them.
        input_file: an OpenMX input (.dat) that is used in place of the copy.
        spin: "up" or "down", which is needed if, and only if, the calculation is collinear.

    Raises:
        DataError: the file is missing, damaged, truncated, of another version, or of another spin than ``spin`` says.
    """
    with _opened(Path(path)) as scfout:
        structure = _read(scfout, shells, input_file, checked_spin(spin))
    check_structure(structure, str(path))
    return structure


class OpenMXReader(CrystalReader):
    """Output of OpenMX: ``.scfout`` files, or folders that hold one of them, plain or compressed with gzip.

    Args:
        path: the database.
        shells: see `read_scfout`.
        spin: "up" or "down" for collinear calculations.
    """

    label = ".scfout files of OpenMX"
    collinear = True

    def __init__(self, path: str | Path, shells: Shells | None = None, spin: str | None = None):
        super().__init__(path)
        self.shells, self.spin = shells, checked_spin(spin)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return len(_scfout_files(path)) == 1

    @cached_property
    def places(self) -> dict[str, Path]:
        """The file of each structure, also where it is the only one in a folder."""
        return {name: _scfout_files(place)[0] for name, place in super().places.items()}

    def read(self, name: str, matrices: Sequence[str]) -> Structure:
        with _opened(self.places[name]) as scfout:
            structure = _read(scfout, self.shells, None, self.spin)
        left_out = {matrix: None for matrix in MATRICES if matrix not in matrices}
        return replace(structure, name=name, **left_out)  # type: ignore[arg-type]

    def header(self, name: str) -> StructureHeader:
        with _opened(self.places[name]) as scfout:
            return _read_header(scfout, self.shells, self.spin)


def _scfout_files(path: Path) -> list[Path]:
    """A ``.scfout`` file itself, or those in a folder."""
    candidates = path.iterdir() if path.is_dir() else [path]
    return [file for file in candidates if file.name.endswith((".scfout", ".scfout.gz")) and file.is_file()]


@contextmanager
def _opened(path: Path) -> Iterator["_ScfoutReader"]:
    """A file, decompressed if necessary; errors of reading in the block become `DataError`."""
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not compressed:
                yield _ScfoutReader(path, raw)
            else:
                with gzip.open(raw) as content:
                    yield _ScfoutReader(path, content)
    except (OSError, OverflowError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path}: cannot be read as .scfout file of OpenMX ({reason}); give another file"
        ) from error


class _ScfoutReader:
    """Reads arrays from a stream; ``what`` names them in messages."""

    def __init__(self, path: Path, stream: io.BufferedIOBase):
        self.path, self.stream = path, stream

    def bytes(self, count: int, what: str) -> bytes:
        pieces, left = [], count
        while left:
            piece = self.stream.read(min(left, _PIECE))
            if not piece:
                raise DataError(
                    f"{self.path}: ends within the {what} ({left} of {count} bytes are missing); "
                    "the file is truncated or damaged, run OpenMX again with HS.fileout on"
                )
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def skip(self, count: int, what: str) -> None:
        """Leave out all bytes but the last one, which shows that the file has them."""
        self.stream.seek(count - 1, io.SEEK_CUR)
        self.bytes(1, what)

    def ints(self, count: int, what: str) -> Int64[np.ndarray, " count"]:
        return np.frombuffer(self.bytes(4 * count, what), "<i4").astype(np.int64)

    def doubles(self, count: int, what: str) -> Float[np.ndarray, " count"]:
        return np.frombuffer(self.bytes(8 * count, what), "<f8")

    def vectors(self, count: int, what: str) -> Float[np.ndarray, "count 3"]:
        """Vectors stored as four numbers, of which the first is unused."""
        return self.doubles(4 * count, what).reshape(count, 4)[:, 1:]

    def damaged(self, what: str) -> DataError:
        return DataError(f"{self.path}: {what}; the file is damaged or no .scfout file")


@dataclass(frozen=True)
class _Geometry:
    """What stands before the matrices of a file; the arrays are those of `Structure`, the edges as in the file."""

    spin: int  # a key of _SPINS
    orbitals: Int64[np.ndarray, " atoms"]
    edges: Int64[np.ndarray, "pairs 5"]
    lattice: Float[np.ndarray, "3 3"]
    positions: Float[np.ndarray, "atoms 3"]
    size: int  # entries of a matrix
    unused: int  # matrices after the overlap

    @property
    def spinful(self) -> bool:
        return _SPINS[self.spin] == "non-collinear"

    @property
    def imaginary(self) -> int:
        """Number of imaginary parts of H."""
        return 3 if self.spinful else 0


def _read(
    reader: _ScfoutReader, shells: Shells | None, input_file: str | Path | None, spin: str | None
) -> Structure:
    geometry = _read_geometry(reader, spin)
    size = geometry.size
    real = [reader.doubles(size, "Hamiltonian") for _ in range(geometry.spin + 1)]
    imaginary = [reader.doubles(size, "imaginary Hamiltonian") for _ in range(geometry.imaginary)]
    overlap = reader.doubles(size, "overlap")
    header = _read_end(reader, geometry, shells, input_file)
    numbers, spinless = header.numbers, OrbitalBasis.openmx(header.shells)
    sorting = edge_order(geometry.edges)
    starts = block_starts(geometry.edges[:, 3:].T, numbers, spinless)
    edges = geometry.edges[sorting]
    real = [EV_PER_HARTREE * reordered(part, starts, sorting) for part in real]
    imaginary = [EV_PER_HARTREE * reordered(part, starts, sorting) for part in imaginary]
    return Structure(
        name=reader.path.name.split(".scfout")[0],
        numbers=numbers,
        positions=geometry.positions,
        lattice=geometry.lattice,
        shells=header.shells,
        spinful=header.spinful,
        fermi_level=header.fermi_level,
        edges=edges,
        hamiltonian=(
            _with_spin(real, imaginary, edges, numbers, spinless, reader)
            if header.spinful
            else real[1 if spin == "down" else 0]
        ),
        overlap=reordered(overlap, starts, sorting),
    )


def _read_header(reader: _ScfoutReader, shells: Shells | None, spin: str | None) -> StructureHeader:
    geometry = _read_geometry(reader, spin)
    matrices = geometry.spin + 1 + geometry.imaginary + 1  # H, its imaginary parts, and S
    reader.skip(8 * matrices * geometry.size, "Hamiltonian and overlap")
    return _read_end(reader, geometry, shells, None)


def _read_geometry(reader: _ScfoutReader, channel: str | None) -> _Geometry:
    atoms, word, *_, highest_cell, order = reader.ints(7, "header").tolist()
    version, spin = word >> 2, word & 3
    if version != VERSION or spin not in _SPINS:
        raise DataError(
            f"{reader.path}: version {version} with spin switch {spin}; version {VERSION} (OpenMX 3.9 and 4.0) "
            "is read, so run OpenMX again, or this is no .scfout file"
        )
    check_channel(channel, _SPINS[spin] == "collinear", str(reader.path))
    if atoms < 1 or highest_cell < 0 or order < 0:
        raise reader.damaged(f"{atoms} atoms, {highest_cell + 1} cells, order {order}")
    reader.doubles(4 * (highest_cell + 1), "cell vectors")
    cells = reader.ints(4 * (highest_cell + 1), "cell indices").reshape(-1, 4)[:, 1:]
    orbitals = reader.ints(atoms, "orbital counts")
    neighbours = reader.ints(atoms, "neighbour counts") + 1
    if orbitals.min() < 1 or orbitals.max() > _MOST_ORBITALS or neighbours.min() < 1:
        raise reader.damaged(
            f"atoms have {orbitals.min()} to {orbitals.max()} orbitals and at least {neighbours.min() - 1} neighbours"
        )
    pairs = int(neighbours.sum())
    src = reader.ints(pairs, "neighbours") - 1
    cell = reader.ints(pairs, "neighbour cells")
    if src.min() < 0 or src.max() >= atoms or cell.min() < 0 or cell.max() > highest_cell:
        raise reader.damaged(f"neighbours that are not among {atoms} atoms in {highest_cell + 1} cells")
    dst = np.repeat(np.arange(atoms), neighbours)
    edges = np.concatenate([cells[cell], dst[:, None], src[:, None]], axis=1)
    lattice = reader.vectors(3, "lattice") * ANGSTROM_PER_BOHR
    reader.vectors(3, "reciprocal lattice")
    positions = reader.vectors(atoms, "positions") * ANGSTROM_PER_BOHR
    size = int((orbitals[dst] * orbitals[src]).sum())
    return _Geometry(spin, orbitals, edges, lattice, positions, size, 3 * order + 3 + spin + 1 + 2)


def _read_end(
    reader: _ScfoutReader, geometry: _Geometry, shells: Shells | None, input_file: str | Path | None
) -> StructureHeader:
    """What stands after the overlap."""
    orbitals = geometry.orbitals
    reader.skip(8 * geometry.unused * geometry.size, "matrices after the overlap")
    reader.ints(1, "solver")
    fermi_level = float(reader.doubles(10, "chemical potential")[0]) * EV_PER_HARTREE
    text = _input_copy(reader) if input_file is None else input_text(Path(input_file))
    source = str(reader.path if input_file is None else input_file)
    numbers, degrees = species_of_input(text, source, len(orbitals), shells)
    spinless = OrbitalBasis.openmx(degrees)
    wrong = np.flatnonzero(spinless.sizes[numbers] != orbitals)
    if len(wrong):
        atom = int(wrong[0])
        raise DataError(
            f"{reader.path}: atom {atom + 1} has {orbitals[atom]} orbitals, but its shells in {spinless.name} "
            f"have {spinless.sizes[numbers[atom]]}; give the shells or the input of this calculation"
        )
    return StructureHeader(numbers, dict(spinless.shells), geometry.spinful, fermi_level)


def _with_spin(
    real: list[np.ndarray],
    imaginary: list[np.ndarray],
    edges: Int64[np.ndarray, "pairs 5"],
    numbers: Int64[np.ndarray, " atoms"],
    spinless: OrbitalBasis,
    reader: _ScfoutReader,
) -> Shaped[np.ndarray, " entries"]:
    """Entries of blocks [[uu, ud], [du, dd]] from the parts of H, see the module."""
    up, down = (real[n] + 1j * imaginary[n] for n in (0, 1))
    mixed = real[2] + 1j * (real[3] + imaginary[2])
    starts = block_starts(edges[:, 3:].T, numbers, spinless)
    try:
        reverse = reversed_edges(edges[:, :3], edges[:, 3:].T)
    except DataError as error:
        raise reader.damaged(str(error)) from error
    adjoint = np.empty_like(mixed)
    for chosen, where in species_entries(edges, numbers, spinless):
        _, rows, columns = where.shape
        partner = starts[reverse[chosen]][:, None, None] + np.arange(rows * columns).reshape(columns, rows).T
        adjoint[where] = mixed[partner].conj()
    return join_spins(edges, numbers, spinless, [[up, mixed], [adjoint, down]])


def _input_copy(reader: _ScfoutReader) -> str:
    """The copy of the OpenMX input at the end of the file."""
    count = int(reader.ints(1, "length of the input")[0])
    if count < 0:
        raise reader.damaged(f"an input of {count} lines")
    content = reader.bytes(_LINE * count, "input")
    lines = (content[n : n + _LINE].split(b"\0", 1)[0] for n in range(0, len(content), _LINE))
    return "\n".join(line.decode("utf-8", "replace").rstrip("\n") for line in lines)
