"""Crystals from SIESTA: runs with ``SaveHS true``, read from their ``.HSX`` file.

| file beside it | what is taken from it                                                                      |
|----------------|--------------------------------------------------------------------------------------------|
| ``.XV``        | atomic number of each species; else the labels of the species have to start with symbols    |
| ``.ORB_INDX``  | radii of the orbitals, for runs at Gamma only                                               |
| ``.EIG, .KP``  | eigenvalues with which those of H and S are compared                                        |

Positions and cell are those of the ``.HSX`` file: during molecular dynamics the ``.XV`` file holds the next step.
The functions of a shell are m = -l .. l with the sign (-1)^m. A run at Gamma only adds all images to R = 0, so that
its blocks are those of pairs of atoms only if no orbital reaches an image. Parts H1, H2, ... of H give, if it is
non-collinear, uu = H1, dd = H2, ud = H3 - i H4, du = H3 + i H4, and with spin-orbit coupling uu = H1 + i H5,
dd = H2 + i H6, ud = H3 - i H4, du = H7 + i H8.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64, Shaped

from tracegrad.data.crystals.deeph_text import read_text
from tracegrad.data.crystals.hsx import HsxHeader, read_hsx, read_hsx_header
from tracegrad.data.crystals.orbital_blocks import CellOrbitals, cell_orbitals, join_spins, pair_blocks
from tracegrad.data.crystals.reader import SPINS, CrystalReader, StructureHeader, check_channel, checked_spin
from tracegrad.data.crystals.reference_bands import ReferenceBands
from tracegrad.data.crystals.siesta_bands import read_eig
from tracegrad.data.crystals.structure import Structure, block_key
from tracegrad.elements import SYMBOLS, labelled_element
from tracegrad.errors import DataError
from tracegrad.hamiltonian.neighbours import pairs_within
from tracegrad.units import ANGSTROM_PER_BOHR

_SUFFIXES = (".HSX", ".HSX.gz")
_COLUMNS = 16  # of a row of .ORB_INDX; the twelfth is the radius


class SiestaReader(CrystalReader):
    """Output of SIESTA: ``.HSX`` files, or folders that hold one of them, plain or compressed with gzip.

    Args:
        path: a file, a folder of a run, or a folder of these.
        spin: which of the two Hamiltonians of a collinear run is read, "up" or "down".
    """

    label = ".HSX files of SIESTA"
    collinear = True

    def __init__(self, path: str | Path, spin: str | None = None):
        super().__init__(path)
        self.spin = checked_spin(spin)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return len(_hsx_files(path)) == 1

    @cached_property
    def places(self) -> dict[str, Path]:
        """The file of each structure, also where it is the only one in a folder."""
        return {name: _hsx_files(place)[0] for name, place in super().places.items()}

    def read(self, name: str, matrices: Sequence[str]) -> Structure:
        path = self.places[name]
        header, elements = read_hsx(path)
        orbitals = _orbitals(path, header)
        if len(header.cells) == 1:
            _check_images(path, header, orbitals)
        parts = self._parts(path, header)
        values = {"overlap": elements.overlap} if "overlap" in matrices else {}
        if "hamiltonian" in matrices:
            values |= {str(n): elements.hamiltonian[n] for n in parts}
        edges, blocks = pair_blocks(
            orbitals, -header.cells, elements.cell, elements.rows, elements.columns, values
        )
        hamiltonian = None
        if "hamiltonian" in matrices:
            hamiltonian = _joined([blocks[str(n)] for n in parts], edges, orbitals)
        return Structure(
            name=name,
            numbers=orbitals.numbers,
            positions=header.positions,
            lattice=header.lattice,
            shells=orbitals.shells,
            spinful=header.parts > 2,
            fermi_level=header.fermi_level,
            edges=edges,
            hamiltonian=hamiltonian,
            overlap=blocks.get("overlap"),
        )

    def header(self, name: str) -> StructureHeader:
        path = self.places[name]
        header = read_hsx_header(path)
        self._parts(path, header)
        orbitals = _orbitals(path, header)
        return StructureHeader(orbitals.numbers, orbitals.shells, header.parts > 2, header.fermi_level)

    def reference_bands(self, name: str) -> ReferenceBands | None:
        path = self.places[name]
        energies, kpoints = _beside(path, ".EIG"), _beside(path, ".KP")
        if not energies.is_file() or not kpoints.is_file():
            return None
        return read_eig(energies, kpoints, read_hsx_header(path))

    def _parts(self, path: Path, header: HsxHeader) -> list[int]:
        """The parts of H that are read."""
        check_channel(self.spin, header.parts == 2, str(path))
        return list(range(header.parts)) if self.spin is None else [SPINS.index(self.spin)]


def _joined(
    parts: Sequence[Float[np.ndarray, " entries"]],
    edges: Int64[np.ndarray, "pairs 5"],
    orbitals: CellOrbitals,
) -> Shaped[np.ndarray, " all"]:
    """Entries of H from the parts of the file, see the module."""
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 4:
        mixed = parts[2] - 1j * parts[3]
        spins = [[parts[0], mixed], [mixed.conj(), parts[1]]]
    else:
        spins = [
            [parts[0] + 1j * parts[4], parts[2] - 1j * parts[3]],
            [parts[6] + 1j * parts[7], parts[1] + 1j * parts[5]],
        ]
    return join_spins(edges, orbitals.numbers, orbitals.basis, spins)


def _hsx_files(path: Path) -> list[Path]:
    """An ``.HSX`` file itself, or those in a folder."""
    candidates = path.iterdir() if path.is_dir() else [path]
    return [file for file in candidates if file.name.endswith(_SUFFIXES) and file.is_file()]


def _beside(path: Path, suffix: str) -> Path:
    """The file of the same run with another suffix."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".HSX") + suffix)


def _orbitals(path: Path, header: HsxHeader) -> CellOrbitals:
    """Elements and shells; a shell is 2l + 1 orbitals of one l, one after another."""
    numbers = _atomic_numbers(path, header)
    degrees = []
    for label, orbitals in zip(header.labels, header.orbitals, strict=True):
        found, position = [], 0
        while position < len(orbitals):
            degree = int(orbitals[position, 1])
            shell = orbitals[position : position + max(1, 2 * degree + 1)]
            if not 0 <= degree <= 6 or len(shell) != 2 * degree + 1 or (shell != shell[0]).any():
                raise DataError(
                    f"{path}: orbital {position + 1} of species {label} is of no whole shell (n, l, zeta: "
                    f"{orbitals[position].tolist()}); the file is damaged, run SIESTA again"
                )
            found.append(degree)
            position += len(shell)
        degrees.append(found)
    _check_species(path, header, numbers)
    return cell_orbitals(
        numbers, [degrees[kind] for kind in header.species], lambda m: (-1) ** (m % 2), str(path)
    )


def _check_species(path: Path, header: HsxHeader, numbers: Int64[np.ndarray, " atoms"]) -> None:
    """Raise `DataError` if two species of one element have other orbitals."""
    first: dict[int, int] = {}
    for number, kind in zip(numbers.tolist(), header.species.tolist(), strict=True):
        other = first.setdefault(number, kind)
        if not np.array_equal(header.orbitals[other], header.orbitals[kind]):
            raise DataError(
                f"{path}: the species {header.labels[other]} and {header.labels[kind]} of {SYMBOLS[number]} have "
                "different orbitals; one basis for each element is supported, so compute both with the same"
            )


def _atomic_numbers(path: Path, header: HsxHeader) -> Int64[np.ndarray, " atoms"]:
    for kind in sorted(set(header.species.tolist())):
        if not header.charges[kind] > 0:
            raise DataError(
                f"{path}: species {header.labels[kind]} has no electrons; ghost atoms are not supported, so compute "
                "the structure without them"
            )
    other = _beside(path, ".XV")
    if other.is_file():
        return _numbers_of_xv(other, path, header)
    elements = [labelled_element(label) for label in header.labels]
    numbers = np.array([elements[kind] or 0 for kind in header.species], dtype=np.int64)
    if not numbers.all():
        label = header.labels[header.species[int(numbers.argmin())]]
        raise DataError(
            f"{path}: the label {label!r} of a species starts with no symbol, and {other.name}, which has the atomic "
            "numbers, is not beside it; copy it there"
        )
    return numbers


def _numbers_of_xv(path: Path, hsx: Path, header: HsxHeader) -> Int64[np.ndarray, " atoms"]:
    try:
        rows = [[int(word) for word in line.split()[:2]] for line in read_text(path).splitlines()[4:]]
        table = np.array([row for row in rows if row], dtype=np.int64).reshape(-1, 2)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}: not understood ({error}); an .XV file of SIESTA is needed") from error
    if not np.array_equal(table[:, 0] - 1, header.species):
        raise DataError(
            f"{path}: has {len(table)} atoms whose species are not those of the {len(header.species)} atoms in "
            f"{hsx.name}; take both files from one run, or remove this one"
        )
    wrong = np.flatnonzero((table[:, 1] < 1) | (table[:, 1] >= len(SYMBOLS)))
    if len(wrong):
        raise DataError(
            f"{path}: atom {wrong[0] + 1} has atomic number {table[wrong[0], 1]}; ghost atoms and mixtures of "
            "elements are not supported"
        )
    return table[:, 1]


def _check_images(path: Path, header: HsxHeader, orbitals: CellOrbitals) -> None:
    """Raise `DataError` if an orbital of a run at Gamma only reaches an image of an atom."""
    radii = _radii(_beside(path, ".ORB_INDX"), path, orbitals)
    edges, distances = pairs_within(header.positions, header.lattice, 2 * float(radii.max()))
    images = edges[:, :3].any(1) & (distances < radii[edges[:, 3]] + radii[edges[:, 4]])
    if images.any():
        edge = edges[np.flatnonzero(images)[distances[images].argmin()]]
        raise DataError(
            f"{path}: a run at Gamma only, in which SIESTA adds the images of atoms to R = 0, and orbitals reach an "
            f"image (block {block_key(edge)}, {distances[images].min():.2f} angstrom); run it with k points "
            "(kgrid_Monkhorst_Pack), or a molecule in a larger cell"
        )


def _radii(path: Path, hsx: Path, orbitals: CellOrbitals) -> Float[np.ndarray, " atoms"]:
    """Largest radius of the orbitals of each atom, angstrom."""
    if not path.is_file():
        raise DataError(
            f"{hsx}: a run at Gamma only, in which SIESTA adds the images of atoms to R = 0; {path.name}, whose "
            "radii tell whether an image is reached, is not beside it: copy it there, or run SIESTA with k points"
        )
    rows = [line.split() for line in read_text(path).splitlines()[3:]]
    rows = rows[: len(orbitals.atoms)]
    try:
        atoms = [int(row[1]) - 1 for row in rows if len(row) == _COLUMNS]
        radii = np.array([float(row[11]) for row in rows if len(row) == _COLUMNS])
    except ValueError as error:
        raise DataError(f"{path}: not understood ({error}); an .ORB_INDX file of SIESTA is needed") from error
    if not np.array_equal(atoms, orbitals.atoms):
        raise DataError(
            f"{path}: its first {len(orbitals.atoms)} orbitals are not those of {hsx.name}; take both files from one "
            "run"
        )
    return np.array([radii[orbitals.atoms == atom].max() for atom in range(len(orbitals.numbers))]) * (
        ANGSTROM_PER_BOHR
    )
