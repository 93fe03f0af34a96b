"""Pairs of atoms that have a block of H: computed from the radii of orbitals, and measured in a list of edges."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from tracegrad.errors import BasisError
from tracegrad.extras import require
from tracegrad.hamiltonian.basis import OrbitalBasis

_ROUNDING = 1e-6  # angstrom
_CANDIDATES = 1 << 20  # number of pairs whose distances are computed at a time


def edges_within_range(
    numbers: Int64[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    lattice: Float[np.ndarray, "3 3"],
    periodic: Bool[np.ndarray, " 3"],
    basis: OrbitalBasis,
) -> Int64[np.ndarray, "edges 5"]:
    """All pairs closer than the sum of their radii, on-site ones first, as rows [Rx, Ry, Rz, i, j].

    OpenMX writes a block for each of these pairs.

    Args:
        numbers: atomic numbers.
        positions: angstrom.
        lattice: rows are lattice vectors, angstrom.
        periodic: along which lattice vectors the structure is periodic.
        basis: orbital basis with radii.

    Raises:
        BasisError: an element that the basis does not have, or a basis without radii.
        MissingExtraError: ASE is not installed.
    """
    require("ase")
    from ase import Atoms  # here: other pairs do not need ASE
    from ase.neighborlist import neighbor_list

    basis.check(numbers, "structure")
    if basis.radii is None:
        raise BasisError(
            f"the basis {basis.name} has no radii, so the pairs of atoms cannot be computed; give a structure folder "
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
    """Largest listed and smallest missing distance of the pairs of two elements, without on-site pairs.

    Args:
        longest: largest distance of a pair in the list, angstrom; 0 if there is no such pair.
        farthest: edge [Rx, Ry, Rz, i, j] of that pair.
        absent: smallest distance of a pair that is not in the list, angstrom; infinite if there is none within the
            distance that was searched.
        nearest: edge of that pair.
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
    """`PairRange` of each pair of elements (atomic numbers, ascending).

    In a list of all pairs within a cutoff, ``longest`` is at most ``absent``.

    Args:
        numbers: atomic numbers.
        positions: angstrom.
        lattice: rows are lattice vectors, angstrom; the structure is periodic along all of them.
        edges: rows [Rx, Ry, Rz, i, j], on-site ones and both directions included.
        search: missing pairs are searched up to this distance and up to the longest one in the list, angstrom.
    """
    lengths = edge_lengths(positions, lattice, edges)
    # In contradictory data the longest pair may be arbitrarily long. Within this radius there are several times as
    # many pairs as are listed, so that a missing one is certainly among them.
    enough = (
        3 * (4 * len(edges) + 1000) * abs(np.linalg.det(lattice)) / (4 * np.pi * len(numbers) ** 2)
    ) ** (1 / 3)
    reach = min(max(float(lengths.max()), search), enough) + _ROUNDING
    near, distances = pairs_within(positions, lattice, reach)
    listed, possible = _elements(numbers, edges), _elements(numbers, near)
    on_site = on_site_edges(edges)
    ranges = {}
    for a, b in np.unique(possible if len(possible) else listed, axis=0).tolist():
        in_list = np.flatnonzero((listed == (a, b)).all(1) & ~on_site)
        within = np.flatnonzero((possible == (a, b)).all(1))
        within = within[np.argsort(distances[within], kind="stable")]
        farthest = in_list[lengths[in_list].argmax()] if len(in_list) else -1
        # Sorted by distance, both lists agree up to the first pair that is absent.
        present = np.full(len(within), np.inf)
        present[: len(in_list)] = np.sort(lengths[in_list])[: len(within)]
        absent = np.flatnonzero(distances[within] < present - _ROUNDING)
        shortest = float(distances[within[absent[0]]]) if len(absent) else np.inf
        ties = within[np.abs(distances[within] - shortest) <= 2 * _ROUNDING]
        nearest = next((n for n in ties if not (edges == near[n]).all(1).any()), -1)
        ranges[a, b] = PairRange(
            float(lengths[farthest]) if farthest >= 0 else 0.0,
            tuple(edges[farthest].tolist()) if farthest >= 0 else (),
            shortest,
            tuple(near[nearest].tolist()) if nearest >= 0 else (),
        )
    return ranges


def on_site_edges(edges: Int64[np.ndarray, "edges 5"]) -> Bool[np.ndarray, " edges"]:
    """Which edges, rows [Rx, Ry, Rz, i, j], join an atom with itself."""
    return (edges[:, :3] == 0).all(1) & (edges[:, 3] == edges[:, 4])


def edge_lengths(
    positions: Float[np.ndarray, "atoms 3"],
    lattice: Float[np.ndarray, "3 3"],
    edges: Int64[np.ndarray, "edges 5"],
) -> Float[np.ndarray, " edges"]:
    """Distance between the two atoms of each edge, angstrom."""
    return np.linalg.norm(positions[edges[:, 4]] + edges[:, :3] @ lattice - positions[edges[:, 3]], axis=1)


def _elements(
    numbers: Int64[np.ndarray, " atoms"], edges: Int64[np.ndarray, "edges 5"]
) -> Int64[np.ndarray, "edges 2"]:
    return np.sort(numbers[edges[:, 3:]], axis=1)


def pairs_within(
    positions: Float[np.ndarray, "atoms 3"], lattice: Float[np.ndarray, "3 3"], reach: float
) -> tuple[Int64[np.ndarray, "edges 5"], Float[np.ndarray, " edges"]]:
    """All pairs except on-site ones up to a distance (angstrom), and their distances.

    Up to thousands of atoms this is faster than the neighbour list of ASE.
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
