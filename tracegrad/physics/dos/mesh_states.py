"""All states of a crystal on a k mesh, with their shares of groups of orbitals.

The share of the group g in the state c is the Mulliken population sum_{mu in g} Re(c_mu* (S c)_mu). The shares of all
groups add up to c^H S c = 1; single ones may be slightly negative.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError

from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.data.crystals.structure import Structure, check_structure
from tracegrad.errors import DataError
from tracegrad.physics.bands.bands import at_points
from tracegrad.physics.bands.dense import OVERLAP_THRESHOLD, all_states, count_ghosts, deepest_level
from tracegrad.physics.dos.kmesh import KMesh
from tracegrad.physics.dos.orbital_groups import OrbitalGroups


@dataclass(frozen=True, eq=False)
class MeshStates:
    """States of a k mesh.

    Args:
        mesh: the points.
        energies: eV, ascending at each point.
        shares: of each group in each state.
        mean_overlaps: see `tracegrad.physics.bands.dense.Eigenstates`.
        smallest_overlap: smallest eigenvalue of S(k) on the mesh.
        dropped: largest number of eigenvectors of S(k) that have been projected out at one point.
        deepest: energy below which states are ghosts, eV.
    """

    mesh: KMesh
    energies: Float[np.ndarray, "k bands"]
    shares: Float[np.ndarray, "k groups bands"]
    mean_overlaps: Float[np.ndarray, "k bands"]
    smallest_overlap: float
    dropped: int
    deepest: float

    def ghosts(self, level: float) -> int:
        """Largest number of ghost states below the Fermi level ``level`` (eV) at one point."""
        return max(
            count_ghosts(energies, overlaps, level, self.deepest)
            for energies, overlaps in zip(self.energies, self.mean_overlaps, strict=True)
        )

    def populations(
        self, occupations: Float[np.ndarray, "k bands"], spins: int
    ) -> Float[np.ndarray, " groups"]:
        """Electrons of each group (Mulliken): sums of shares times ``occupations`` (0 to 1) and ``spins``."""
        return spins * np.einsum("k,kgb,kb->g", self.mesh.weights, self.shares, occupations)


class MeshSolver:
    """States at one k: energies, shares of groups, mean overlaps, smallest eigenvalue of S, number projected out."""

    def __init__(self, structure: Structure, groups: OrbitalGroups, threshold: float) -> None:
        self.name, self.groups, self.threshold = structure.name, groups, threshold
        self.hamiltonian = BlochMatrix(structure, "hamiltonian")
        self.overlap = BlochMatrix(structure, "overlap")

    def __call__(
        self, k: Float[np.ndarray, " 3"]
    ) -> tuple[Float[np.ndarray, " bands"], Float[np.ndarray, "groups bands"], np.ndarray, float, int]:
        """The states at k (units of the reciprocal lattice vectors)."""
        where = f"{self.name}: k = {np.round(k, 6).tolist()}"
        overlap = self.overlap.at(k).toarray()
        try:
            found = all_states(self.hamiltonian.at(k).toarray(), overlap, where, self.threshold)
        except LinAlgError as error:
            raise DataError(
                f"{where}: the eigenproblem was not solved ({error}); S may be nearly singular, so give a larger "
                "overlap_threshold"
            ) from error
        vectors = found.states.vectors
        populations = (vectors.conj() * (overlap @ vectors)).real
        return (
            found.states.energies,
            self.groups.sums(populations),
            found.states.mean_overlaps,
            found.smallest_overlap,
            found.dropped,
        )


def mesh_states(
    structure: Structure,
    mesh: KMesh,
    groups: OrbitalGroups,
    *,
    threshold: float = OVERLAP_THRESHOLD,
    processes: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> MeshStates:
    """All states of a structure on a mesh.

    Starts processes by spawning if there is enough work: a script that calls this needs the guard
    `if __name__ == "__main__"`.

    Args:
        structure: with H and S.
        mesh: the points.
        groups: of orbitals.
        threshold: eigenvalues of S(k) below it are projected out. Where this leaves fewer bands at some points, the
            highest bands at the others are left out.
        processes: see `tracegrad.physics.bands.bands.band_structure`.
        on_progress: called with the number of points done and of all points.

    Raises:
        DataError: a matrix is missing or damaged, or S(k) is not positive.
        TraceGradError: a worker process died.
    """
    check_structure(structure, structure.name)
    solver = MeshSolver(structure, groups, threshold)
    results = at_points(structure.name, solver, mesh.points, len(groups.of_orbital), processes, on_progress)
    energies, shares, overlaps, smallest, dropped = zip(*results, strict=True)
    bands = min(map(len, energies))
    return MeshStates(
        mesh=mesh,
        energies=np.array([one[:bands] for one in energies]),
        shares=np.array([one[:, :bands] for one in shares]),
        mean_overlaps=np.array([one[:bands] for one in overlaps]),
        smallest_overlap=min(smallest),
        dropped=max(dropped),
        deepest=deepest_level(structure),
    )
