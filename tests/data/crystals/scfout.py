"""A small crystal with random matrices, and the bytes of its .scfout file."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tracegrad.data.crystals.structure import Structure, edge_order, species_entries
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.blocks import block_starts
from tracegrad.hamiltonian.graph import reversed_edges
from tracegrad.units import ANGSTROM_PER_BOHR as BOHR
from tracegrad.units import EV_PER_HARTREE as HARTREE

SHELLS = {16: (0, 1), 42: (0, 0, 1, 2)}
INPUT = """System.Name small
Species.Number 3
<Definition.of.Atomic.Species   # of both elements
  Mo_a  Mo7.0-s2p1d1  Mo_PBE19
  S  S7.0-s1p1  S_PBE19
  S2  S7.0H-s1p1  S_PBE19
Definition.of.Atomic.Species>
Atoms.Number 3
<Atoms.SpeciesAndCoordinates
 1 Mo_a 0.0 0.0 0.0 7.0 7.0

 2 S 0.3 0.3 0.1 3.0 3.0
 3 S2 0.6 0.3 0.1 3.0 3.0
Atoms.SpeciesAndCoordinates>
"""


def small_structure(spinful: bool = False, name: str = "small", seed: int = 0) -> Structure:
    """3 atoms of MoS2 above each other, all pairs up to 3.5 angstrom aside in 5 cells, random hermitian H and S."""
    random = np.random.default_rng(seed)
    numbers = np.array([42, 16, 16])
    edges = [[rx, ry, 0, i, j] for rx in (-1, 0, 1) for ry in (0, rx) for i in range(3) for j in range(3)]
    edges = np.unique(np.array(edges), axis=0)
    edges = edges[edge_order(edges)]
    structure = Structure(
        name=name,
        numbers=numbers,
        positions=np.array([[0.1, 0.2, 0.3], [0.2, 0.3, 2.1], [0.3, 0.1, -1.6]])
        + 0.1 * random.random((3, 3)),
        lattice=np.array([[3.0, 0.0, 0.0], [-3.0, 3.0, 0.0], [0.1, 0.2, 15.0]]),
        shells=SHELLS,
        spinful=spinful,
        fermi_level=-4.25,
        edges=edges,
    )
    matrices = {}
    for matrix in ("hamiltonian", "overlap"):
        basis = structure.basis_of(matrix)
        entries = random.normal(size=block_starts(edges[:, 3:].T, numbers, basis)[-1])
        if basis.spinful:
            entries = entries + 1j * random.normal(size=len(entries))
        matrices[matrix] = (entries + daggers(entries, structure, matrix)) / 2
    return replace(structure, **matrices)


def daggers(entries: np.ndarray, structure: Structure, matrix: str) -> np.ndarray:
    """The dagger of the partner of each block, at the position of the block."""
    edges = structure.edges
    starts = block_starts(edges[:, 3:].T, structure.numbers, structure.basis_of(matrix))
    reverse = reversed_edges(edges[:, :3], edges[:, 3:].T)
    shapes = structure.basis_of(matrix).sizes[structure.numbers[edges[:, 3:]]]
    blocks = [b.reshape(s) for b, s in zip(np.split(entries, starts[1:-1]), shapes, strict=True)]
    return np.concatenate([blocks[r].conj().T.ravel() for r in reverse])


def scfout(
    structure: Structure,
    *,
    text: str = INPUT,
    word: int | None = None,
    header: Sequence[int] = (),
    down: Structure | None = None,
) -> bytes:
    """Bytes of the file; ``word`` and the first numbers of the header can be replaced.

    With ``down``, the Hamiltonian of spin down, the calculation is collinear.
    """
    random = np.random.default_rng(1)
    numbers, edges = structure.numbers, structure.edges
    atoms = len(numbers)
    cells = sorted(set(map(tuple, edges[:, :3].tolist())), key=lambda cell: (cell != (0, 0, 0), cell))
    basis = OrbitalBasis.openmx(structure.shells)
    spin = 3 if structure.spinful else 0 if down is None else 1
    head = [atoms, 4 * 3 + spin if word is None else word, 0, 0, 0, len(cells) - 1, 1]
    head[: len(header)] = header
    neighbours = [edges[edges[:, 3] == i] for i in range(atoms)]

    def ints(values) -> bytes:
        return np.asarray(values).astype("<i4").tobytes()

    def doubles(values) -> bytes:
        return np.asarray(values, dtype="<f8").tobytes()

    def vectors(rows) -> bytes:
        return doubles([[-7.0, *row] for row in rows])

    size = block_starts(edges[:, 3:].T, numbers, basis)[-1]
    lattice = structure.lattice / BOHR
    parts = [
        ints(head),
        vectors(np.array(cells) @ lattice),
        ints([[9, *cell] for cell in cells]),
        ints(basis.sizes[numbers]),
        ints([len(mine) - 1 for mine in neighbours]),
        *(ints(mine[:, 4] + 1) for mine in neighbours),
        *(ints([cells.index(tuple(cell)) for cell in mine[:, :3].tolist()]) for mine in neighbours),
        vectors(lattice),
        vectors(2 * np.pi * np.linalg.inv(lattice).T),
        vectors(structure.positions / BOHR),
        *(doubles(part / HARTREE) for part in _parts(structure, random)),
        *([] if down is None else [doubles(down.hamiltonian / HARTREE)]),
        doubles(structure.overlap),
        *(doubles(random.normal(size=size)) for _ in range(6 + spin + 1 + 2)),
        ints([3]),
        doubles([structure.fermi_level / HARTREE, *random.normal(size=9)]),
        ints([len(text.splitlines())]),
        *((line.encode() + b"\n\0leftover").ljust(256, b"*") for line in text.splitlines()),
    ]
    return b"".join(parts)


def _parts(structure: Structure, random: np.random.Generator) -> list[np.ndarray]:
    if not structure.spinful:
        return [structure.hamiltonian]
    numbers, edges = structure.numbers, structure.edges
    size = len(structure.overlap)
    uu, dd, ud = (np.empty(size, complex) for _ in range(3))
    whole = species_entries(edges, numbers, structure.basis)
    for (_, where), (_, inside) in zip(
        whole, species_entries(edges, numbers, structure.basis_of("overlap")), strict=True
    ):
        rows, columns = inside.shape[1:]
        uu[inside] = structure.hamiltonian[where[:, :rows, :columns]]
        ud[inside] = structure.hamiltonian[where[:, :rows, columns:]]
        dd[inside] = structure.hamiltonian[where[:, rows:, columns:]]
    split = random.normal(size=size)
    return [uu.real, dd.real, ud.real, ud.imag - split, uu.imag, dd.imag, split]
