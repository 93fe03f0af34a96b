"""Crystals whose bands are known: chains and graphene in a tight-binding model, and made-up bands."""

import itertools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tracegrad.data.crystals.structure import Structure, edge_order
from tracegrad.physics.bands.bands import BandStructure
from tracegrad.physics.bands.kpath import KPath

A = 2.46
HEXAGONAL = np.array([[A, 0, 0], [A / 2, A * 3**0.5 / 2, 0], [0, 0, 15]])
LAYER = np.array([True, True, False])


def tight_binding(
    lattice: np.ndarray,
    positions: np.ndarray,
    hoppings: Mapping[tuple[int, ...], float],
    overlaps: Mapping[tuple[int, ...], float] | None = None,
    on_site: float = 0.0,
) -> Structure:
    """A structure with one s orbital on each atom; ``hoppings`` (eV) by (Rx, Ry, Rz, i, j), in one direction."""
    overlaps = overlaps or {}
    table = {(0, 0, 0, i, i): (on_site, 1.0) for i in range(len(positions))}
    for (rx, ry, rz, i, j), hopping in hoppings.items():
        value = (hopping, overlaps.get((rx, ry, rz, i, j), 0.0))
        table[rx, ry, rz, i, j] = table[-rx, -ry, -rz, j, i] = value
    edges = np.array(list(table))
    order = edge_order(edges)
    values = np.array(list(table.values()))[order]
    return Structure(
        name="toy",
        numbers=np.full(len(positions), 6),
        positions=np.asarray(positions, dtype=float),
        lattice=np.asarray(lattice, dtype=float),
        shells={6: (0,)},
        spinful=False,
        fermi_level=0.0,
        edges=edges[order],
        hamiltonian=values[:, 0].copy(),
        overlap=values[:, 1].copy(),
    )


def graphene(hopping=-2.7, overlap=0.1, on_site=0.0) -> Structure:
    positions = np.array([[1 / 3, 1 / 3, 0.5], [2 / 3, 2 / 3, 0.5]]) @ HEXAGONAL
    pairs = [(0, 0, 0, 0, 1), (-1, 0, 0, 0, 1), (0, -1, 0, 0, 1)]
    return tight_binding(
        HEXAGONAL, positions, dict.fromkeys(pairs, hopping), dict.fromkeys(pairs, overlap), on_site
    )


def chain(hopping=-1.0, overlap=0.2, length=2.0) -> Structure:
    return tight_binding(
        np.diag([length, 10, 10]), [[0.1, 5, 5]], {(1, 0, 0, 0, 0): hopping}, {(1, 0, 0, 0, 0): overlap}
    )


def supercell(structure: Structure, repeats: tuple[int, int]) -> Structure:
    counts = np.array([*repeats, 1])
    cells = list(itertools.product(range(repeats[0]), range(repeats[1]), [0]))
    atoms = len(structure.numbers)
    edges, parts = [], {"hamiltonian": [], "overlap": []}
    for n, cell in enumerate(cells):
        for edge, *blocks in zip(
            structure.edges.tolist(), *(structure.blocks(matrix) for matrix in parts), strict=True
        ):
            target = np.array(cell) + edge[:3]
            inside = tuple((target % counts).tolist())
            edges.append([*(target // counts), n * atoms + edge[3], cells.index(inside) * atoms + edge[4]])
            for matrix, block in zip(parts, blocks, strict=True):
                parts[matrix].append(block.ravel())
    order = edge_order(np.array(edges))
    return replace(
        structure,
        name="supercell",
        numbers=np.tile(structure.numbers, len(cells)),
        positions=np.concatenate(
            [structure.positions + cell @ structure.lattice for cell in np.array(cells)]
        ),
        lattice=structure.lattice * counts[:, None],
        edges=np.array(edges)[order],
        **{matrix: np.concatenate([blocks[n] for n in order]) for matrix, blocks in parts.items()},
    )


def points_of(*points) -> KPath:
    return KPath("A", np.array(points, dtype=float), np.arange(float(len(points))), ((0.0, "A"),))


def positive(structure: Structure) -> Structure:
    """The structure with random overlaps that are small compared with 1."""
    on_site = [e[:3] == [0, 0, 0] and e[3] == e[4] for e in structure.edges.tolist()]
    blocks = [
        0.005 * block + np.eye(len(block)) * alone if alone else 0.005 * block
        for block, alone in zip(structure.blocks("overlap"), on_site, strict=True)
    ]
    return replace(structure, overlap=np.concatenate([block.ravel() for block in blocks]))


def flat(energies, fermi_level=0.0, first=0) -> BandStructure:
    energies = np.array(energies, dtype=float)
    path = points_of(*([0.1 * n, 0, 0] for n in range(len(energies))))
    return BandStructure("toy", path, energies, first, first + energies.shape[1] + 3, fermi_level, 1.0)
