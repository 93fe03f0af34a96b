"""Symmetries that every overlap of atomic orbitals has, whatever the structure: they show wrong orders and signs.

An overlap of two atoms is a two-centre integral, which does not change when both atoms turn about their bond:
[n.G, S] = 0 with the generators G of rotations and the direction n of the bond. On one atom, S is a multiple of the
identity for two shells of one degree, and 0 for others. A wrong order of orbitals, a wrong sign, or an R that does
not belong to the positions violates one of them.
"""

from dataclasses import dataclass

import numpy as np

from tracegrad.data.crystals.angular_momentum import orbital_generators
from tracegrad.data.crystals.structure import Structure, species_entries
from tracegrad.hamiltonian.basis import LETTERS
from tracegrad.hamiltonian.neighbours import on_site_edges

_SMALLEST = 0.02  # largest element of the blocks that are used; smaller ones are mostly noise in some codes
_MOST_BLOCKS = 200  # of two elements


@dataclass(frozen=True)
class AxisError:
    """The largest deviation of overlaps from the symmetry about the bond.

    Args:
        size: |[n.G, S]| of a pair of shells in units of the largest element of S of the pair of atoms; 0 if there is
            no block that is large enough.
        edge: position of the edge of the block.
        shells: letters of the two shells, such as "sp".
    """

    size: float
    edge: int
    shells: str


def axis_error(structure: Structure) -> AxisError:
    """The pair of atoms and of shells that is farthest from the symmetry about the bond.

    Args:
        structure: with the overlap.
    """
    assert structure.overlap is not None
    x, edges = structure.positions, structure.edges
    vectors = x[edges[:, 4]] + edges[:, :3] @ structure.lattice - x[edges[:, 3]]
    lengths = np.linalg.norm(vectors, axis=1)
    worst = AxisError(0.0, 0, "")
    for chosen, where in species_entries(edges, structure.numbers, structure.basis_of("overlap")):
        blocks = structure.overlap[where]
        sizes = np.abs(blocks).max((1, 2))
        used = np.flatnonzero((lengths[chosen] > 1e-3) & (sizes > _SMALLEST))
        used = used[np.argsort(-sizes[used], kind="stable")[:_MOST_BLOCKS]]
        if not len(used):
            continue
        shells = [structure.shells[z] for z in structure.numbers[edges[chosen[0], 3:]].tolist()]
        directions = vectors[chosen[used]] / lengths[chosen[used]][:, None]
        left, right = (np.einsum("ea,aij->eij", directions, orbital_generators(one)) for one in shells)
        errors = np.abs(left @ blocks[used] - blocks[used] @ right) / sizes[used][:, None, None]
        one, row, column = np.unravel_index(errors.argmax(), errors.shape)
        if errors[one, row, column] > worst.size:
            letters = _letter(shells[0], int(row)) + _letter(shells[1], int(column))
            worst = AxisError(float(errors[one, row, column]), int(chosen[used[one]]), letters)
    return worst


def on_site_error(structure: Structure) -> tuple[float, int]:
    """Largest deviation of the overlaps on one atom from multiples of the identity, and the atom."""
    assert structure.overlap is not None
    edges, worst = structure.edges, (0.0, 0)
    on_site = on_site_edges(edges)
    for chosen, where in species_entries(edges, structure.numbers, structure.basis_of("overlap")):
        shells = structure.shells[int(structure.numbers[edges[chosen[0], 3]])]
        bounds = np.cumsum([0, *(2 * degree + 1 for degree in shells)])
        for one in np.flatnonzero(on_site[chosen]):
            block = structure.overlap[where[one]].copy()
            for p, q in np.ndindex(len(shells), len(shells)):
                part = block[bounds[p] : bounds[p + 1], bounds[q] : bounds[q + 1]]
                if shells[p] == shells[q]:
                    part -= np.diag(part).mean() * np.eye(len(part))
            error = float(np.abs(block).max())
            if error > worst[0]:
                worst = error, int(edges[chosen[one], 3])
    return worst


def _letter(shells: tuple[int, ...], orbital: int) -> str:
    bounds = np.cumsum([2 * degree + 1 for degree in shells])
    return LETTERS[shells[int(np.searchsorted(bounds, orbital, side="right"))]]
