"""A small crystal whose matrices decay with distance, and its elements in the orders and signs of other codes."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tests.crystals import crystal
from tests.data.crystals.scfout import SHELLS, daggers
from tracegrad.data.crystals.structure import Structure, edge_order
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.blocks import block_starts

# The functions of a shell in the order of each code.
NAMES = {
    "openmx": (["s"], ["x", "y", "z"], ["z2", "x2-y2", "xy", "xz", "yz"]),
    "siesta": (["s"], ["-y", "z", "-x"], ["xy", "-yz", "z2", "-xz", "x2-y2"]),
    "aims": (["s"], ["y", "z", "-x"], ["xy", "yz", "z2", "-xz", "x2-y2"]),
}
POSITIONS = [[0.0, 0.0, 9.0], [0.02, 1.82, 10.56], [-0.03, 1.83, 7.45]]
LATTICE = [[3.16, 0.0, 0.0], [-1.58, 2.74, 0.0], [0.1, 0.0, 18.0]]


def mos2(spinful: bool = False, name: str = "mos2", seed: int = 0) -> Structure:
    """A layer of MoS2 with random hermitian H and S that decay with distance; S is positive definite.

    Mo is in the middle of the cell, and S outside of the cell around zero.
    """
    numbers, positions, lattice, edges = crystal([42, 16, 16], POSITIONS, LATTICE, 4.6)
    edges = edges[edge_order(edges)].astype(np.int64)
    structure = Structure(name, numbers, positions, lattice, SHELLS, spinful, None, edges)
    return with_random_matrices(structure, seed)


def with_random_matrices(structure: Structure, seed: int = 0) -> Structure:
    """The structure with random hermitian H and S that decay with distance."""
    random = np.random.default_rng(seed)
    edges, numbers = structure.edges, structure.numbers
    vectors = (
        structure.positions[edges[:, 4]] + edges[:, :3] @ structure.lattice - structure.positions[edges[:, 3]]
    )
    decay = np.exp(-np.linalg.norm(vectors, axis=1))
    matrices = {}
    for matrix, scale in (("hamiltonian", 10.0), ("overlap", 0.04)):
        basis = structure.basis_of(matrix)
        starts = block_starts(edges[:, 3:].T, numbers, basis)
        entries = random.normal(size=starts[-1])
        if basis.spinful:
            entries = entries + 1j * random.normal(size=len(entries))
        entries = scale * np.repeat(decay, np.diff(starts)) * entries
        matrices[matrix] = (entries + daggers(entries, structure, matrix)) / 2
    for block, start in on_site(structure):
        size = int(structure.basis_of("overlap").sizes[numbers[edges[block, 3]]])
        matrices["overlap"][start : start + size * size] = np.eye(size).ravel()
    return replace(structure, **matrices)


def on_site(structure: Structure) -> Iterator[tuple[int, int]]:
    """Positions of the on-site edges and of the first entries of their blocks of S."""
    edges = structure.edges
    starts = block_starts(edges[:, 3:].T, structure.numbers, structure.basis_of("overlap"))
    for edge, (rx, ry, rz, i, j) in enumerate(edges.tolist()):
        if (rx, ry, rz, i) == (0, 0, 0, j):
            yield edge, int(starts[edge])


def orbitals(structure: Structure, code: str) -> list[tuple[int, int, int, int, int, int]]:
    """For each orbital in the order of a code: atom, place in the order of OpenMX, sign, l, zeta and m."""
    rows = []
    for atom, number in enumerate(structure.numbers.tolist()):
        start, zetas = 0, [0, 0, 0]
        for degree in structure.shells[number]:
            zetas[degree] += 1
            for m, name in enumerate(NAMES[code][degree], -degree):
                place = start + NAMES["openmx"][degree].index(name.removeprefix("-"))
                rows.append((atom, place, -1 if name[0] == "-" else 1, degree, zetas[degree], m))
            start += 2 * degree + 1
    return rows


# R of the column, row, column and element <row in cell 0| |column in cell R>
Elements = list[tuple[tuple[int, int, int], int, int, complex]]


def elements(structure: Structure, matrix: str, code: str, spins: tuple[int, int] = (0, 0)) -> Elements:
    """All elements of a matrix, or of one of the spin blocks of a spinful H, in the order and signs of a code."""
    rows = orbitals(structure, code)
    of_atom = [[n for n, row in enumerate(rows) if row[0] == atom] for atom in range(len(structure.numbers))]
    sizes = OrbitalBasis.openmx(structure.shells).sizes[structure.numbers]
    found: Elements = []
    for (rx, ry, rz, i, j), block in zip(structure.edges.tolist(), structure.blocks(matrix), strict=True):
        for a in of_atom[i]:
            for b in of_atom[j]:
                value = block[rows[a][1] + spins[0] * sizes[i], rows[b][1] + spins[1] * sizes[j]]
                found.append(((rx, ry, rz), a, b, rows[a][2] * rows[b][2] * value))
    return found


def assert_same_crystal(found: Structure, expected: Structure, tolerance: float = 1e-12) -> None:
    assert np.array_equal(found.numbers, expected.numbers)
    assert np.array_equal(found.edges, expected.edges)
    assert found.shells == expected.shells
    assert found.spinful == expected.spinful
    for name in ("positions", "lattice", "hamiltonian", "overlap"):
        array, other = getattr(found, name), getattr(expected, name)
        assert array.dtype == other.dtype
        assert np.abs(array - other).max() <= tolerance
