"""The files of a SIESTA run of a structure, in the layouts of SIESTA."""

import struct
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from tests.data.crystals.orbital_files import elements, orbitals
from tracegrad.data.crystals.structure import Structure
from tracegrad.elements import SYMBOLS
from tracegrad.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE_2018

RYDBERG = EV_PER_HARTREE_2018 / 2
LEVEL = -4.25  # eV


def record(*parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack("<i", len(content)) + content + struct.pack("<i", len(content))


def ints(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def doubles(values: np.ndarray) -> bytes:
    return np.asarray(values, dtype="<f8").tobytes()


def siesta_cells(structure: Structure) -> tuple[list[int], list[tuple[int, ...]]]:
    """Number of cells along each vector, and R of all of them; the first vector is fastest, 0, 1, .., -1."""
    reach = np.abs(structure.edges[:, :3]).max(0).tolist()
    along = [[*range(n + 1), *range(-n, 0)] for n in reach]
    return [2 * n + 1 for n in reach], [(x, y, z) for z, y, x in product(*along[::-1])]


def kinds_of(structure: Structure) -> list[int]:
    """Species of each atom, from 1: one for each element."""
    elements_in_turn = list(dict.fromkeys(structure.numbers.tolist()))
    return [elements_in_turn.index(number) + 1 for number in structure.numbers.tolist()]


def hsx(
    structure: Structure,
    parts: Sequence[dict],
    *,
    version: int = 1,
    true: int = 1,
    double: bool = True,
    labels: Sequence[str] = ("Mo", "S"),
    kinds: list[int] | None = None,
    charge: float = 6.0,
) -> bytes:
    """An .HSX file of a structure, whose H has these parts, see `part`."""
    rows, species = orbitals(structure, "siesta"), kinds or kinds_of(structure)
    nsc, cells = siesta_cells(structure)
    counts = [sum(row[0] == atom for row in rows) for atom in range(len(species))]
    content = [record(ints(version)), record(ints(true if double else 0))]
    content.append(record(ints(len(species), len(rows), len(parts), max(species), *nsc)))
    cell_numbers = [*structure.lattice.ravel() / ANGSTROM_PER_BOHR, LEVEL / RYDBERG, 18.0, 0.001]
    content.append(record(doubles(np.array(cell_numbers))))
    geometry = [
        ints(*np.array(cells).ravel().tolist()),
        doubles(structure.positions.ravel() / ANGSTROM_PER_BOHR),
    ]
    content.append(record(*geometry, ints(*species), ints(*np.cumsum(counts).tolist())))
    of_kind = [[row for row in rows if row[0] == species.index(kind)] for kind in sorted(set(species))]
    described = [
        struct.pack("<20sdi", label.encode().ljust(20), charge, len(shell))
        for label, shell in zip(labels, of_kind, strict=True)
    ]
    content.append(record(*described))
    for shell in of_kind:
        content.append(record(*(ints(3 + degree, degree, zeta) for _, _, _, degree, zeta, _ in shell)))
    if version == 2:
        content.append(record(ints(2, 0, 0, 0, 2, 0, 0, 0, 1), doubles(np.zeros(3))))
    return b"".join(content) + sparse(structure, [*parts, part(structure, "overlap")], double)


def sparse(structure: Structure, matrices: Sequence[dict], double: bool = True) -> bytes:
    """Lengths, lists and the matrices; H in rydberg."""
    size, (_, cells) = len(orbitals(structure, "siesta")), siesta_cells(structure)
    overlap = part(structure, "overlap")
    lists: list[list[tuple]] = [[] for _ in range(size)]
    for cell, row, column in overlap:
        # The list of the column has its elements <row, -R| |column, 0>.
        lists[column].append((tuple(-n for n in cell), row))
    content = [record(ints(*map(len, lists)))]
    for members in lists:
        content.append(record(ints(*(1 + row + size * cells.index(cell) for cell, row in members))))
    for matrix in matrices:
        for column, members in enumerate(lists):
            keys = [(tuple(-n for n in cell), row, column) for cell, row in members]
            values = np.array([matrix[key] for key in keys]) / (1.0 if matrix == overlap else RYDBERG)
            content.append(record(values.astype("<f8" if double else "<f4").tobytes()))
    return b"".join(content)


def tshs(structure: Structure, only_overlap: int = 0) -> bytes:
    """The .TSHS file of a structure without spin, or with spin-orbit coupling if it is spinful."""
    rows, parts = orbitals(structure, "siesta"), parts_of(structure)
    nsc, cells = siesta_cells(structure)
    gamma = int(len(cells) == 1)
    counts = [sum(row[0] == atom for row in rows) for atom in range(len(structure.numbers))]
    geometry = np.concatenate([structure.lattice, structure.positions]).ravel() / ANGSTROM_PER_BOHR
    overlap = part(structure, "overlap")
    content = [
        record(ints(1)),
        record(ints(len(counts), len(rows), len(rows) * len(cells), len(parts), len(overlap))),
        record(ints(*nsc)),
        record(doubles(geometry)),
        record(ints(gamma, gamma, only_overlap)),
        record(ints(2, 0, 0, 0, 2, 0, 0, 0, 1), doubles(np.zeros(3))),
        record(doubles(np.array([LEVEL / RYDBERG, 18.0, 0.001]))),
        record(ints(0, 0)),
        record(ints(0, *np.cumsum(counts).tolist())),
        sparse(structure, [overlap, *parts]),
    ]
    if not gamma:
        content.append(record(ints(*np.array(cells).ravel().tolist())))
    return b"".join(content)


def part(structure: Structure, matrix: str = "hamiltonian", spins: tuple[int, int] = (0, 0)) -> dict:
    """Elements by (R, row, column)."""
    return {(cell, a, b): value for cell, a, b, value in elements(structure, matrix, "siesta", spins)}


def parts_of(structure: Structure) -> list[dict]:
    """The parts of H in a file: one without spin, eight with spin-orbit coupling."""
    if not structure.spinful:
        return [part(structure)]
    uu, ud, du, dd = (part(structure, "hamiltonian", spins) for spins in product((0, 1), repeat=2))

    def real(one: dict) -> dict:
        return {key: value.real for key, value in one.items()}

    def imaginary(one: dict, sign: int = 1) -> dict:
        return {key: sign * value.imag for key, value in one.items()}

    diagonal = [real(uu), real(dd), real(ud), imaginary(ud, -1), imaginary(uu), imaginary(dd)]
    return [*diagonal, real(du), imaginary(du)]


def run_bytes(structure: Structure, **options) -> bytes:
    """The .HSX file of a structure without spin, or with spin-orbit coupling if it is spinful."""
    return hsx(structure, parts_of(structure), **options)


def write_run(structure: Structure, folder: Path, content: bytes | None = None, label: str = "run") -> Path:
    """The .HSX, .XV and .ORB_INDX files of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{label}.HSX").write_bytes(run_bytes(structure) if content is None else content)
    (folder / f"{label}.XV").write_text(xv(structure))
    (folder / f"{label}.ORB_INDX").write_text(orb_indx(structure))
    return folder


def xv(structure: Structure) -> str:
    zeros = "  0.000000000" * 3
    lines = ["  ".join(f"{x / ANGSTROM_PER_BOHR:18.9f}" for x in row) + zeros for row in structure.lattice]
    lines.append(f"{len(structure.numbers):12d}")
    atoms = zip(kinds_of(structure), structure.numbers.tolist(), structure.positions, strict=True)
    for kind, number, position in atoms:
        moved = "  ".join(f"{x / ANGSTROM_PER_BOHR + 0.01:18.9f}" for x in position)  # the next step
        lines.append(f"{kind:3d}{number:6d}  {moved}{zeros}")
    return "\n".join(lines) + "\n"


def orb_indx(structure: Structure, radius: float = 5.0, kinds: list[int] | None = None) -> str:
    """The file with this radius (bohr) of all orbitals."""
    rows = orbitals(structure, "siesta")
    kinds = kinds or kinds_of(structure)
    lines = [f"{len(rows):7d} {len(rows):7d} = orbitals in unit cell and supercell. See end of file.", ""]
    lines.append("    io    ia is   spec iao  n  l  m  z  p          sym      rc    isc     iuo")
    for n, (atom, place, _, degree, zeta, m) in enumerate(rows, 1):
        number = int(structure.numbers[atom])
        lines.append(
            f"{n:6d}{atom + 1:6d}{kinds[atom]:3d}{SYMBOLS[number]:>7s}{place + 1:4d}{3 + degree:3d}"
            f"{degree:3d}{m:3d}{zeta:3d}  F            s{radius:8.3f}  0  0  0{n:6d}"
        )
    return "\n".join([*lines, "", "Column codes:", "  io = Orbital index in supercell", ""])
