"""The pairs of atoms that have a block of H: from the radii of their orbitals, and what given pairs say of radii."""

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from jaxtyping import Bool, Float, Int64

from tracegrad.errors import BasisError
from tracegrad.hamiltonian.basis import OrbitalBasis

_ROUNDING = 1e-6  # angstrom
_CANDIDATES = 1 << 20  # pairs whose distances are computed at once


def edges_within_range(
    numbers: Int64[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    lattice: Float[np.ndarray, "3 3"],
    periodic: Bool[np.ndarray, " 3"],
    basis: OrbitalBasis,
) -> Int64[np.ndarray, "edges 5"]:
    """All pairs closer than the sum of their radii, on-site ones first, as rows [Rx, Ry, Rz, i, j].

    These are the blocks that OpenMX writes.

    Args:
        numbers: atomic numbers.
        positions: angstrom.
        lattice: rows are lattice vectors, angstrom.
        periodic: along which of them the structure goes on.
        basis: with radii.

    Raises:
        BasisError: an element that the basis does not have, or a basis without radii.
    """
    basis.check(numbers, "structure")
    if basis.radii is None:
        raise BasisError(
            f"the basis {basis.name} has no radii, so the pairs of atoms cannot be found; give a structure folder "
            "with overlaps, or train with the radii in the names of the basis, such as basis.shells=[C6.0-s2p2d1]"
        )
    radii = [basis.radii[int(number)] for number in numbers]
    atoms = Atoms(numbers, positions=positions, cell=lattice, pbc=periodic)
    i, j, cells = neighbor_list("ijS", atoms, radii, self_interaction=False)
    on_site = np.zeros((len(numbers), 5), dtype=np.int64)
    on_site[:, 3] = on_site[:, 4] = np.arange(len(numbers))
    pairs = np.concatenate([cells, i[:, None], j[:, None]], axis=1)
    return np.concatenate([on_site, pairs]).astype(np.int64)


@dataclass(frozen=True)
class PairRange:
    """How far the pairs of two elements reach in a list of edges; on-site ones are left out.

    Args:
        longest: largest distance of a pair in the list, angstrom; 0 without any.
        farthest: the edge [Rx, Ry, Rz, i, j] of that pair.
        absent: smallest distance of a pair that is not in the list, angstrom; infinite if none lies within the
            distances that were searched.
        nearest: the edge of that pair.
    """

    longest: float
    farthest: tuple[int, ...]
    absent: float
    nearest: tuple[int, ...]


def pair_ranges(
    numbers: Int64[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    lattice: Float[np.ndarray, "3 3"],
    edges: Int64[np.ndarray, "edges 5"],
    search: float = 0.0,
) -> dict[tuple[int, int], PairRange]:
    """For each two elements (atomic numbers, ascending) how far their pairs reach.

    A list that a cutoff made has no pair that is longer than an absent one of the same elements.

    Args:
        numbers: atomic numbers.
        positions: angstrom.
        lattice: rows are lattice vectors, angstrom; the structure goes on along all of them.
        edges: rows [Rx, Ry, Rz, i, j], on-site ones and both directions included.
        search: absent pairs are looked for to this distance, and to the longest one in the list, angstrom.
    """
    lengths = edge_lengths(positions, lattice, edges)
    # Where the data contradict each other the longest pair may be anywhere; so many pairs show it earlier.
    enough = (
        3 * (4 * len(edges) + 1000) * abs(np.linalg.det(lattice)) / (4 * np.pi * len(numbers) ** 2)
    ) ** (1 / 3)
    reach = min(max(float(lengths.max()), search), enough) + _ROUNDING
    near, distances = _pairs_within(positions, lattice, reach)
    listed, possible = _elements(numbers, edges), _elements(numbers, near)
    on_site = (edges[:, :3] == 0).all(1) & (edges[:, 3] == edges[:, 4])
    found = {}
    for a, b in np.unique(possible if len(possible) else listed, axis=0).tolist():
        mine = np.flatnonzero((listed == (a, b)).all(1) & ~on_site)
        others = np.flatnonzero((possible == (a, b)).all(1))
        others = others[np.argsort(distances[others], kind="stable")]
        farthest = mine[lengths[mine].argmax()] if len(mine) else -1
        # Sorted, both lists agree up to the first pair that is absent.
        present = np.full(len(others), np.inf)
        present[: len(mine)] = np.sort(lengths[mine])[: len(others)]
        absent = np.flatnonzero(distances[others] < present - _ROUNDING)
        shortest = float(distances[others[absent[0]]]) if len(absent) else np.inf
        ties = others[np.abs(distances[others] - shortest) <= 2 * _ROUNDING]
        nearest = next((n for n in ties if not (edges == near[n]).all(1).any()), -1)
        found[a, b] = PairRange(
            float(lengths[farthest]) if farthest >= 0 else 0.0,
            tuple(edges[farthest].tolist()) if farthest >= 0 else (),
            shortest,
            tuple(near[nearest].tolist()) if nearest >= 0 else (),
        )
    return found


def edge_lengths(
    positions: Float[np.ndarray, "atoms 3"],
    lattice: Float[np.ndarray, "3 3"],
    edges: Int64[np.ndarray, "edges 5"],
) -> Float[np.ndarray, " edges"]:
    """Distances of the pairs of atoms, angstrom."""
    return np.linalg.norm(positions[edges[:, 4]] + edges[:, :3] @ lattice - positions[edges[:, 3]], axis=1)


def _elements(
    numbers: Int64[np.ndarray, " atoms"], edges: Int64[np.ndarray, "edges 5"]
) -> Int64[np.ndarray, "edges 2"]:
    return np.sort(numbers[edges[:, 3:]], axis=1)


def _pairs_within(
    positions: Float[np.ndarray, "atoms 3"], lattice: Float[np.ndarray, "3 3"], reach: float
) -> tuple[Int64[np.ndarray, "edges 5"], Float[np.ndarray, " edges"]]:
    """All pairs up to a distance (angstrom) but the on-site ones, and their distances.

    Faster than a neighbour list of ASE up to thousands of atoms.
    """
    inverse = np.linalg.inv(lattice)
    counts = np.floor(reach * np.linalg.norm(inverse, axis=0) + 0.5).astype(np.int64)
    cells = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in counts), indexing="ij"), -1).reshape(-1, 3)
    fractional = positions @ inverse
    step = max(1, _CANDIDATES // (len(cells) * len(positions)))
    edges, distances = [], []
    for first in range(0, len(positions), step):
        differences = fractional[None] - fractional[first : first + step, None]
        whole = np.rint(differences)
        vectors = ((differences - whole) @ lattice)[:, :, None] + cells @ lattice
        lengths = np.linalg.norm(vectors, axis=-1)
        i, j, c = np.nonzero(lengths <= reach)
        shifts = cells[c] - whole[i, j].astype(np.int64)
        keys = np.concatenate([shifts, first + i[:, None], j[:, None]], axis=1)
        other = (keys[:, 3] != keys[:, 4]) | keys[:, :3].any(1)
        edges.append(keys[other])
        distances.append(lengths[i, j, c][other])
    return np.concatenate(edges), np.concatenate(distances)
