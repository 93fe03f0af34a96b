"""Hamiltonians in the symmetrically orthogonalised basis of Loewdin (J. Chem. Phys. 18, 365 (1950)).

On a mesh of N points k, H'(k) = S(k)^-1/2 H(k) S(k)^-1/2 has the eigenvalues of H(k) c = E S(k) c, and

    H'(R) = 1/N sum_k exp(-2 pi i k.R) H'(k)

are matrices between orthogonal orbitals at the same atoms. S^-1/2 has a longer range than S, the longer, the smaller
the smallest eigenvalue of S is, and the mesh cuts it off. The eigenvalues are exact at the points of the mesh; the
error is measured between them.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Complex, Float, Int64
from scipy.linalg import eigvalsh

from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import ConfigError, DataError
from tracegrad.physics.bands.kpath import periodic_axes

TOLERANCE = 1e-3  # eV; a mesh is enlarged until the bands are right to this
MOST_NUMBERS = 20_000_000  # of all H'(R) together; more take gigabytes
_TRIALS = 6  # points at which the error is measured
_GROWTH = 1.4  # of the number of points along each vector


@dataclass(frozen=True, eq=False)
class OrthogonalHamiltonian:
    """H in Loewdin's basis.

    Args:
        cells: R in units of the lattice vectors; with every R also -R.
        matrices: H'(R), eV, hermitian as a whole: H'(-R) = H'(R)^dagger.
        mesh: numbers of points of the mesh along the reciprocal lattice vectors, odd.
        error: largest difference of a band between points of the mesh, over all bands, eV.
        smallest_overlap: smallest eigenvalue of S(k) on the mesh.
    """

    cells: Int64[np.ndarray, "cells 3"]
    matrices: Complex[np.ndarray, "cells n n"]
    mesh: tuple[int, int, int]
    error: float
    smallest_overlap: float

    def at(self, k: Float[np.ndarray, " 3"]) -> Complex[np.ndarray, "n n"]:
        """H'(k) = sum_R exp(2 pi i k.R) H'(R), eV; k in units of the reciprocal lattice vectors."""
        return np.tensordot(np.exp(2j * np.pi * (self.cells @ k)), self.matrices, axes=1)


def orthogonalised(
    structure: Structure,
    mesh: Sequence[int] | None = None,
    *,
    tolerance: float = TOLERANCE,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> OrthogonalHamiltonian:
    """The Hamiltonian of a structure in Loewdin's basis.

    Args:
        structure: with H and S.
        mesh: odd numbers of points along the reciprocal lattice vectors, 1 along those that no block crosses; None:
            as many as are needed.
        tolerance: largest error of a band, eV, up to which the mesh is enlarged.
        on_progress: called with the number of points done and in all, for each mesh that is tried.

    Raises:
        ConfigError: a mesh that is not three odd numbers.
        DataError: S is missing or not positive definite, or no mesh of a reasonable size has the tolerance.
    """
    hamiltonian, overlap = (BlochMatrix(structure, name) for name in ("hamiltonian", "overlap"))
    if mesh is not None:
        counts = [int(count) for count in mesh]
        if len(counts) != 3 or min(counts) < 1 or not all(count % 2 for count in counts):
            raise ConfigError(
                f"mesh={_setting(mesh)} is not understood; give three odd numbers, such as [21,21,1]"
            )
        _check_size(structure, hamiltonian.size, counts)
        return _on_mesh(structure, hamiltonian, overlap, counts, on_progress)
    periodic = periodic_axes(structure.edges)
    counts = (2 * np.abs(hamiltonian.cells).max(0) + 1).tolist()
    while True:
        _check_size(structure, hamiltonian.size, counts)
        found = _on_mesh(structure, hamiltonian, overlap, counts, on_progress)
        if found.error <= tolerance:
            return found
        larger = [
            int(_GROWTH * n / 2) * 2 + 3 if along else 1 for n, along in zip(counts, periodic, strict=True)
        ]
        if hamiltonian.size**2 * np.prod(larger) > MOST_NUMBERS:
            raise DataError(
                f"{structure.name}: with a mesh of {_setting(counts)} points the orthogonalised bands are wrong by "
                f"up to {found.error:.2g} eV, because the basis is nearly linearly dependent (smallest eigenvalue of "
                f"S {found.smallest_overlap:.1e}), and a larger mesh has over {MOST_NUMBERS:,} numbers; accept "
                f"this error with mesh={_setting(counts)}, or export H and S without orthogonalising"
            )
        counts = larger


def _check_size(structure: Structure, size: int, counts: Sequence[int]) -> None:
    numbers = size**2 * int(np.prod(counts))
    if numbers > MOST_NUMBERS:
        raise DataError(
            f"{structure.name}: {size} orbitals with a mesh of {_setting(counts)} points make {numbers:,} numbers "
            f"(at most {MOST_NUMBERS:,}); export H and S without orthogonalising, or to=sisl, which keeps them sparse"
        )


def _on_mesh(
    structure: Structure,
    hamiltonian: BlochMatrix,
    overlap: BlochMatrix,
    counts: Sequence[int],
    on_progress: Callable[[int, int], None],
) -> OrthogonalHamiltonian:
    indices = np.array(list(itertools.product(*map(range, counts))))
    points, cells = indices / counts, indices - np.array(counts) // 2
    matrices = np.zeros((len(points), hamiltonian.size, hamiltonian.size), dtype=np.complex128)
    smallest = np.inf
    for done, k in enumerate(points, start=1):
        values, vectors = np.linalg.eigh(overlap.at(k).toarray())
        smallest = min(smallest, float(values[0]))
        if not smallest > 0:
            raise DataError(
                f"{structure.name}: k = {k.round(6).tolist()}: S is not positive definite (smallest eigenvalue "
                f"{smallest:.1e}); the overlap is damaged or the basis linearly dependent"
            )
        root = (vectors / np.sqrt(values)) @ vectors.conj().T
        matrices[done - 1] = root @ hamiltonian.at(k).toarray() @ root
        on_progress(done, len(points))
    matrices = _to_cells(matrices, cells, counts)
    found = OrthogonalHamiltonian(cells, matrices, tuple(counts), np.nan, smallest)  # type: ignore[arg-type]
    return replace(found, error=_error(found, hamiltonian, overlap))


def _to_cells(
    matrices: Complex[np.ndarray, "points n n"], cells: Int64[np.ndarray, "cells 3"], counts: Sequence[int]
) -> Complex[np.ndarray, "cells n n"]:
    """H'(R) from H'(k), both in the order of the points and cells of a mesh, and exactly hermitian."""
    grid = matrices.reshape(*counts, *matrices.shape[1:])
    # numpy's forward transform has the sign of exp(-2 pi i k.R); R = 0 moves from the first place to the middle.
    transformed = np.fft.fftshift(np.fft.fftn(grid, axes=(0, 1, 2), norm="forward"), axes=(0, 1, 2))
    result = transformed.reshape(matrices.shape)
    return (result + result[::-1].conj().swapaxes(1, 2)) / 2  # the cells in reverse order are their negatives


def _error(found: OrthogonalHamiltonian, hamiltonian: BlochMatrix, overlap: BlochMatrix) -> float:
    """Largest difference of a band at points that lie as far as possible from those of the mesh, eV."""
    random = np.random.default_rng(0)
    counts = np.array(found.mesh)
    largest = 0.0
    for _ in range(_TRIALS):
        k = np.where(counts > 1, (random.integers(0, counts) + 0.5) / counts, 0.0)
        exact = eigvalsh(hamiltonian.at(k).toarray(), overlap.at(k).toarray())
        largest = max(largest, float(np.abs(eigvalsh(found.at(k)) - exact).max()))
    return largest


def _setting(counts: Sequence[int]) -> str:
    """A mesh as it is written on a command line."""
    return "[" + ",".join(map(str, counts)) + "]"
