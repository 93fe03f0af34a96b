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


def hsx(
    structures: Sequence[Structure],
    parts: Sequence[dict],
    *,
    version: int = 1,
    true: int = 1,
    double: bool = True,
    labels: Sequence[str] = ("Mo", "S"),
    charge: float = 6.0,
) -> bytes:
    """An .HSX file; part n of H is that of structure n, with elements[orbital pair] from ``parts``, see `part`."""
    structure = structures[0]
    rows = orbitals(structure, "siesta")
    nsc, cells = siesta_cells(structure)
    kinds = list(dict.fromkeys(structure.numbers.tolist()))
    species = [kinds.index(number) + 1 for number in structure.numbers.tolist()]
    counts = [sum(row[0] == atom for row in rows) for atom in range(len(species))]
    content = [record(ints(version)), record(ints(true if double else 0))]
    content.append(record(ints(len(species), len(rows), len(parts), len(kinds), *nsc)))
    cell_numbers = [*structure.lattice.ravel() / ANGSTROM_PER_BOHR, LEVEL / RYDBERG, 18.0, 0.001]
    content.append(record(doubles(np.array(cell_numbers))))
    geometry = [
        ints(*np.array(cells).ravel().tolist()),
        doubles(structure.positions.ravel() / ANGSTROM_PER_BOHR),
    ]
    content.append(record(*geometry, ints(*species), ints(*np.cumsum(counts).tolist())))
    of_kind = [[row for row in rows if row[0] == species.index(kind + 1)] for kind in range(len(kinds))]
    described = [
        struct.pack("<20sdi", label.encode().ljust(20), charge, len(shell))
        for label, shell in zip(labels, of_kind, strict=True)
    ]
    content.append(record(*described))
    for shell in of_kind:
        content.append(record(*(ints(3 + degree, degree, zeta) for _, _, _, degree, zeta, _ in shell)))
    if version == 2:
        content.append(record(ints(2, 0, 0, 0, 2, 0, 0, 0, 1), doubles(np.zeros(3))))
    overlap = part(structure, "overlap")
    lists: list[list[tuple]] = [[] for _ in rows]
    for cell, row, column in overlap:
        # The list of the column has its elements <row, -R| |column, 0>.
        lists[column].append((tuple(-n for n in cell), row))
    content.append(record(ints(*map(len, lists))))
    for members in lists:
        content.append(record(ints(*(1 + row + len(rows) * cells.index(cell) for cell, row in members))))
    for matrix, unit in [*((one, RYDBERG) for one in parts), (overlap, 1.0)]:
        for column, members in enumerate(lists):
            keys = [(tuple(-n for n in cell), row, column) for cell, row in members]
            values = np.array([matrix[key] / unit for key in keys])
            content.append(record(values.astype("<f8" if double else "<f4").tobytes()))
    return b"".join(content)


def part(structure: Structure, matrix: str = "hamiltonian", spins: tuple[int, int] = (0, 0)) -> dict:
    """Elements by (R, row, column)."""
    return {(cell, a, b): value for cell, a, b, value in elements(structure, matrix, "siesta", spins)}


def run_bytes(structure: Structure, **options) -> bytes:
    """The .HSX file of a structure without spin, or with spin-orbit coupling if it is spinful."""
    if not structure.spinful:
        return hsx([structure], [part(structure)], **options)
    uu, ud, du, dd = (part(structure, "hamiltonian", spins) for spins in product((0, 1), repeat=2))

    def real(one: dict) -> dict:
        return {key: value.real for key, value in one.items()}

    def imaginary(one: dict, sign: int = 1) -> dict:
        return {key: sign * value.imag for key, value in one.items()}

    return hsx(
        [structure],
        [
            real(uu),
            real(dd),
            real(ud),
            imaginary(ud, -1),
            imaginary(uu),
            imaginary(dd),
            real(du),
            imaginary(du),
        ],
        **options,
    )


def write_run(structure: Structure, folder: Path, content: bytes | None = None, label: str = "run") -> Path:
    """The .HSX, .XV and .ORB_INDX files of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{label}.HSX").write_bytes(run_bytes(structure) if content is None else content)
    (folder / f"{label}.XV").write_text(xv(structure))
    (folder / f"{label}.ORB_INDX").write_text(orb_indx(structure))
    return folder


def xv(structure: Structure) -> str:
    kinds = list(dict.fromkeys(structure.numbers.tolist()))
    zeros = "  0.000000000" * 3
    lines = ["  ".join(f"{x / ANGSTROM_PER_BOHR:18.9f}" for x in row) + zeros for row in structure.lattice]
    lines.append(f"{len(structure.numbers):12d}")
    for number, position in zip(structure.numbers.tolist(), structure.positions, strict=True):
        moved = "  ".join(f"{x / ANGSTROM_PER_BOHR + 0.01:18.9f}" for x in position)  # the next step
        lines.append(f"{kinds.index(number) + 1:3d}{number:6d}  {moved}{zeros}")
    return "\n".join(lines) + "\n"


def orb_indx(structure: Structure, radius: float = 5.0) -> str:
    """The file with this radius (bohr) of all orbitals."""
    rows = orbitals(structure, "siesta")
    kinds = list(dict.fromkeys(structure.numbers.tolist()))
    lines = [f"{len(rows):7d} {len(rows):7d} = orbitals in unit cell and supercell. See end of file.", ""]
    lines.append("    io    ia is   spec iao  n  l  m  z  p          sym      rc    isc     iuo")
    for n, (atom, place, _, degree, zeta, m) in enumerate(rows, 1):
        number = int(structure.numbers[atom])
        lines.append(
            f"{n:6d}{atom + 1:6d}{kinds.index(number) + 1:3d}{SYMBOLS[number]:>7s}{place + 1:4d}{3 + degree:3d}"
            f"{degree:3d}{m:3d}{zeta:3d}  F            s{radius:8.3f}  0  0  0{n:6d}"
        )
    return "\n".join([*lines, "", "Column codes:", "  io = Orbital index in supercell", ""])
