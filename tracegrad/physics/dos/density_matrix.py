"""The density matrix of a crystal in real space, by occupying the states of a k mesh.

With the weights w(k) of the points, the coefficients c_n(k) of the states, which are normalised by c^H S c = 1, and
their occupations f_n(k),

    D(R) = g sum_k w(k) sum_n f_n(k) c_n(k) c_n(k)^H exp(-2 pi i k.R),

where g = 2 electrons without spin and 1 for a spin of a collinear calculation. Only the blocks of H and S are
computed, which suffices for the number of electrons and the energy of the bands:

    sum_R Tr D(R) S(R)^T = number of electrons,      sum_R Tr D(R) H(R)^T = sum of the occupied energies.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError

from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.data.crystals.spins import with_same_pairs
from tracegrad.data.crystals.structure import Structure, species_entries
from tracegrad.errors import DataError
from tracegrad.physics.bands.bands import each_point
from tracegrad.physics.bands.dense import OVERLAP_THRESHOLD, all_states
from tracegrad.physics.dos.fermi_level import SMEARINGS, FermiCount, count_fermi_level
from tracegrad.physics.dos.kmesh import KMesh
from tracegrad.physics.dos.mesh_states import mesh_states
from tracegrad.physics.dos.orbital_groups import orbital_groups

DENSITY_SPACING = 0.15  # 1/angstrom, between points of a mesh that suffices for a density to start from


@dataclass(frozen=True, eq=False)
class DensityMatrix:
    """Density matrices of a structure, of one for both spins together or of each spin.

    Args:
        structures: one without spin, or spin up and down of one with the same edges.
        entries: for each of them the blocks <i in cell 0| D |j in cell R> in the order of `Structure.hamiltonian`;
            without spin D is that of all electrons.
        counted: Fermi level of the occupations.
    """

    structures: list[Structure]
    entries: list[Float[np.ndarray, " entries"]]
    counted: FermiCount

    @property
    def electrons(self) -> list[float]:
        """sum_R Tr D(R) S(R)^T of each."""
        pairs = zip(self.entries, self.structures, strict=True)
        return [float(entries @ structure.overlap) for entries, structure in pairs]


def density_matrix(
    structures: Sequence[Structure],
    mesh: KMesh,
    electrons: float,
    *,
    smearing: str | None = "gaussian",
    width: float = 0.05,
    threshold: float = OVERLAP_THRESHOLD,
    processes: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> DensityMatrix:
    """The density matrix of a number of electrons.

    All states of the mesh are computed twice, once for the Fermi level and once for the matrix.

    Args:
        structures: one without spin, or spin up and down of one, with H and S.
        mesh: of their lattice, with one point for k and -k.
        electrons: of a cell, of both spins together.
        smearing, width: of metals, see `count_fermi_level`.
        threshold: eigenvalues of S(k) below it are projected out.
        processes: see `tracegrad.physics.bands.bands.band_structure`.
        on_progress: called with the number of points done and of all points, for each series of points.

    Raises:
        ConfigError: the bands cannot hold the electrons, or a metal without smearing.
        DataError: spin-orbit coupling; the structures are not the spins of one; a matrix is missing or damaged.
        TraceGradError: a worker process died.
    """
    first, occupation = structures[0], 3 - len(structures)
    if first.spinful:
        raise DataError(
            f"{first.name}: density matrices are written without spin and for collinear spin, not with spin-orbit "
            "coupling; take H without it"
        )
    structures = list(with_same_pairs(*structures)) if len(structures) == 2 else list(structures)
    groups = orbital_groups(first.numbers, first.basis, "element")
    states = [
        mesh_states(one, mesh, groups, threshold=threshold, processes=processes, on_progress=on_progress)
        for one in structures
    ]
    counted = count_fermi_level(
        np.sort(np.concatenate([one.energies for one in states], axis=1)),
        mesh.weights,
        electrons,
        spins=occupation,
        smearing=smearing,
        width=width,
        name=first.name,
    )
    found = []
    for one in structures:
        solver = DensitySolver(one, counted, smearing, width, threshold)
        size = solver.hamiltonian.size
        entries = np.zeros(len(one.hamiltonian))  # type: ignore[arg-type]
        for point, part in each_point(one.name, solver, mesh.points, size, processes, on_progress):
            entries += occupation * mesh.weights[point] * part
        found.append(entries)
    return DensityMatrix(structures, found, counted)


class DensitySolver:
    """The blocks of Re sum_n f_n(k) c_n(k) c_n(k)^H exp(-2 pi i k.R) of one point, in the order of the edges.

    The real part is the mean of k and -k, because H(R) and S(R) are real.
    """

    def __init__(
        self, structure: Structure, counted: FermiCount, smearing: str | None, width: float, threshold: float
    ) -> None:
        self.structure, self.counted, self.threshold = structure, counted, threshold
        self.smearing, self.width = smearing, width
        self.hamiltonian, self.overlap = (
            BlochMatrix(structure, matrix) for matrix in ("hamiltonian", "overlap")
        )

    def __call__(self, k: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " entries"]:
        """The blocks at k (units of the reciprocal lattice vectors)."""
        structure = self.structure
        where = f"{structure.name}: k = {np.round(k, 6).tolist()}"
        try:
            h, s = (matrix.at(k).toarray() for matrix in (self.hamiltonian, self.overlap))
            states = all_states(h, s, where, self.threshold).states
        except LinAlgError as error:
            raise DataError(f"{where}: the eigenproblem was not solved ({error})") from error
        occupations = self._occupations(states.energies)
        filled = occupations > 0
        vectors = states.vectors[:, filled]
        density = (vectors * occupations[filled]) @ vectors.conj().T
        edges, sizes = structure.edges, structure.basis.sizes[structure.numbers]
        starts, phases = np.cumsum(sizes) - sizes, np.exp(-2j * np.pi * (edges[:, :3] @ k))
        entries = np.empty(len(structure.hamiltonian))  # type: ignore[arg-type]
        for chosen, places in species_entries(edges, structure.numbers, structure.basis):
            rows, columns = (
                starts[edges[chosen, end]][:, None] + np.arange(width)
                for end, width in zip((3, 4), places.shape[1:], strict=True)
            )
            blocks = density[rows[:, :, None], columns[:, None, :]]
            entries[places] = (phases[chosen, None, None] * blocks).real
        return entries

    def _occupations(self, energies: Float[np.ndarray, " bands"]) -> Float[np.ndarray, " bands"]:
        shifted = energies - self.counted.level
        if not self.counted.metal or self.smearing is None:
            return (shifted < 0).astype(np.float64)
        return SMEARINGS[self.smearing](shifted / self.width)
