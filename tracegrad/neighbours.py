"""The pairs of atoms that have a block of H, from the radii of their orbitals."""

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from jaxtyping import Bool, Float, Int64

from tracegrad.basis import OrbitalBasis
from tracegrad.errors import BasisError


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
