"""Bloch matrices of crystals, H(k) = sum_R exp(2 pi i k.R) H(R), and their generalised eigenproblem H c = E S c.

Orbitals stand atom after atom as in the files. With spin-orbit coupling those of an atom with spin up come first,
then those with spin down, and S stands for S (x) 1_2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Complex, Float, Int, Int64, Shaped
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh, eigvalsh, lapack
from scipy.sparse import csr_array
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from tracegrad.data.crystals.structure import Structure, check_structure, species_entries
from tracegrad.errors import DataError

DEGENERATE = 1e-6  # eV
EXTRA_STATES = 6  # found besides those asked for, because the outermost ones are not used
_EFFORTS = 4
_OFF_LEVEL = 1e-7  # eV, from a level that is an eigenvalue


class BlochMatrix:
    """One matrix of a structure, to be summed at any k.

    Args:
        structure: with the matrix.
        matrix: "hamiltonian" or "overlap".
    """

    def __init__(self, structure: Structure, matrix: str) -> None:
        self.cells, cell_of_edge = np.unique(structure.edges[:, :3], axis=0, return_inverse=True)
        sizes = structure.basis.sizes[structure.numbers]
        self.size = int(sizes.sum())
        rows, columns, cells, values = _triples(structure, matrix, np.cumsum(sizes) - sizes)
        places, place = np.unique(rows * self.size + columns, return_inverse=True)
        table = (values, (place, cell_of_edge.ravel()[cells]))
        self._table = csr_array(table, shape=(len(places), len(self.cells)))
        self._columns = places % self.size
        self._starts = np.searchsorted(places, self.size * np.arange(self.size + 1))

    def at(self, k: Float[np.ndarray, " 3"]) -> csr_array:
        """The matrix (size, size), complex, at k in units of the reciprocal lattice vectors."""
        phases = np.exp(2j * np.pi * (self.cells @ k))
        shape = (self.size, self.size)
        return csr_array((self._table @ phases, self._columns, self._starts), shape=shape)


def _triples(
    structure: Structure, matrix: str, starts: Int64[np.ndarray, " atoms"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Shaped[np.ndarray, " numbers"]]:
    """Row, column, edge and value of every number; ``starts`` are the first rows of the atoms."""
    basis, edges = structure.basis_of(matrix), structure.edges
    values = getattr(structure, matrix)
    if values is None:
        raise DataError(f"{structure.name}: the {matrix} has not been read; bands need H and S")
    copies = structure.basis.spins // basis.spins  # S is the same for both spins
    parts: list[tuple[np.ndarray, ...]] = []
    for chosen, where in species_entries(edges, structure.numbers, basis):
        _, height, width = where.shape
        for spin in range(copies):
            row = starts[edges[chosen, 3]][:, None] + np.arange(height) + spin * height
            column = starts[edges[chosen, 4]][:, None] + np.arange(width) + spin * width
            places = np.broadcast_arrays(row[:, :, None], column[:, None, :], chosen[:, None, None])
            parts.append((*(place.ravel() for place in places), values[where].ravel()))
    rows, columns, cells, numbers = (np.concatenate(part) for part in zip(*parts, strict=True))
    return rows, columns, cells, numbers


@dataclass(frozen=True, eq=False)
class Eigenstates:
    """Eigenstates at one k, ascending.

    Args:
        first: number of the eigenstates below these.
        energies: eV.
        vectors: columns c with c^H S c = 1.
    """

    first: int
    energies: Float[np.ndarray, " bands"]
    vectors: Complex[np.ndarray, "size bands"]


@dataclass(frozen=True, eq=False)
class PredictedKPointBands:
    """What a predicted Hamiltonian H' gives at one k.

    Args:
        first, energies: its eigenstates, as in `Eigenstates`.
        first_order: <c|H' - H|c> of the states c of the structure, eV; those of degenerate states (within 1e-6 eV)
            are the eigenvalues among them, ascending.
    """

    first: int
    energies: Float[np.ndarray, " other"]
    first_order: Float[np.ndarray, " bands"]


@dataclass(frozen=True, eq=False)
class KPointBands:
    """What is known of one k.

    Args:
        first, energies: of the structure, as in `Eigenstates`.
        smallest_overlap: smallest eigenvalue of S(k).
        predicted: with the other Hamiltonian.
    """

    first: int
    energies: Float[np.ndarray, " bands"]
    smallest_overlap: float
    predicted: PredictedKPointBands | None = None


class KPointSolver:
    """Solves one k after another.

    Args:
        structure: with H and S.
        level: eV; eigenstates around it are found.
        bands: about how many; None: all.
        predicted: the same structure with another H.

    Raises:
        DataError: a matrix is missing, damaged or not hermitian.
    """

    def __init__(
        self, structure: Structure, level: float, bands: int | None, predicted: Structure | None = None
    ) -> None:
        for one in (structure, predicted):
            if one is not None:
                check_structure(one, one.name)
        self.name, self.level, self.bands = structure.name, level, bands
        self.hamiltonian = BlochMatrix(structure, "hamiltonian")
        self.overlap = BlochMatrix(structure, "overlap")
        self.predicted = None if predicted is None else BlochMatrix(predicted, "hamiltonian")

    def __call__(self, k: Float[np.ndarray, " 3"]) -> KPointBands:
        """
        Raises:
            DataError: S(k) is not positive definite.
        """
        hamiltonian, overlap = self.hamiltonian.at(k), self.overlap.at(k)
        smallest = smallest_eigenvalue(overlap, dense=self.bands is None)
        where = f"{self.name}: k = {np.round(k, 6).tolist()}"
        if not smallest > 0:
            raise DataError(
                f"{where}: S is not positive definite (smallest eigenvalue {smallest:.1e}), so there are no bands; "
                "the overlap is damaged or the basis linearly dependent"
            )
        levels = self._levels(hamiltonian, overlap, where)
        if self.predicted is None:
            return KPointBands(levels.first, levels.energies, smallest)
        predicted = self.predicted.at(k)
        other = self._levels(predicted, overlap, where)
        shifts = first_order_shifts(levels, predicted - hamiltonian)
        return KPointBands(
            levels.first, levels.energies, smallest, PredictedKPointBands(other.first, other.energies, shifts)
        )

    def _levels(self, hamiltonian: csr_array, overlap: csr_array, where: str) -> Eigenstates:
        try:
            if self.bands is None:
                energies, vectors = eigh(hamiltonian.toarray(), overlap.toarray(), overwrite_a=True)
                return Eigenstates(0, energies, vectors)
            return levels_around(hamiltonian, overlap, self.level, self.bands)
        except (LinAlgError, ArpackError) as error:
            raise DataError(
                f"{where}: the eigenproblem was not solved ({error}); S is nearly singular, or set other bands"
            ) from error


def smallest_eigenvalue(matrix: csr_array, *, dense: bool) -> float:
    """Smallest eigenvalue of a hermitian matrix; without ``dense``, -inf stands for any that is not positive."""
    if dense:
        return float(eigvalsh(matrix.toarray(), subset_by_index=[0, 0])[0])
    try:
        factor = cho_factor(matrix.toarray(), lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError:
        return -np.inf
    inverse = _operator(matrix, lambda right: cho_solve(factor, right, check_finite=False))
    try:
        found = eigsh(
            matrix, 1, sigma=0, OPinv=inverse, tol=1e-4, return_eigenvectors=False, **_random(matrix, seed=0)
        )
    except ArpackError:
        return smallest_eigenvalue(matrix, dense=True)
    return float(found[0])


def levels_around(hamiltonian: csr_array, overlap: csr_array, level: float, bands: int) -> Eigenstates:
    """About ``bands`` eigenstates around ``level`` (eV), without holes, by Lanczos iterations on (H - level S)^-1.

    Lanczos iterations may miss states of a degenerate group, so the states between two levels are counted as well;
    the outermost groups, which may be cut, are left away. Where the count differs, more states are asked for; so are
    they where the iterations break down, as they may by rounding when the starting vector is used up.

    Raises:
        LinAlgError: states are missing, or the iterations break down, in each of several tries.
    """
    factor, pivots, _ = _factors(hamiltonian, overlap, level)
    inverse = _operator(hamiltonian, lambda right: lapack.zhetrs(factor, pivots, right, lower=1)[0])
    reason = ""
    for effort in range(1, _EFFORTS + 1):
        wanted = min(effort * bands + EXTRA_STATES, hamiltonian.shape[0] - 2)
        try:
            _, space = eigsh(
                hamiltonian,
                wanted,
                M=overlap,
                sigma=level,
                OPinv=inverse,
                ncv=min(2 * wanted + 1, hamiltonian.shape[0]),
                **_random(hamiltonian, effort),
            )
        except ArpackError as error:
            reason = f" ({error})"
            continue
        reason = ""
        # ARPACK leaves the vectors of degenerate states skew.
        inside = [space.conj().T @ (matrix @ space) for matrix in (hamiltonian, overlap)]
        energies, mixing = eigh(*inside)
        bounds = np.flatnonzero(np.diff(energies) > DEGENERATE) + 1
        if len(bounds) > 1:
            low, high = bounds[[0, -1]]
            below, above = (
                _factors(hamiltonian, overlap, energies[[n - 1, n]].mean())[2] for n in (low, high)
            )
            if above - below == high - low:
                return Eigenstates(below, energies[low:high], (space @ mixing)[:, low:high])
    raise LinAlgError(f"degenerate states are missing among the {wanted} nearest to {level:.3f} eV{reason}")


def _factors(
    hamiltonian: csr_array, overlap: csr_array, level: float
) -> tuple[Complex[np.ndarray, "size size"], Int[np.ndarray, " size"], int]:
    """LAPACK's L D L^H of H - level S, and the number of eigenstates below the level.

    Matrices of atomic orbitals fill up when they are factorised, so the factors are dense. The signs of D count
    eigenstates (Sylvester's law of inertia); each of its 2 x 2 blocks (negative pivots) has one of each.
    """
    while True:
        shifted = (hamiltonian - level * overlap).toarray(order="F")
        length = int(lapack.zhetrf_lwork(len(shifted), lower=1)[0].real)
        factor, pivots, info = lapack.zhetrf(shifted, lower=1, lwork=length, overwrite_a=1)
        if info == 0:
            single = pivots > 0
            negative = (factor.diagonal().real[single] < 0).sum() + (~single).sum() // 2
            return factor, pivots, int(negative)
        level += _OFF_LEVEL  # it is an eigenvalue to the last digit


def first_order_shifts(levels: Eigenstates, difference: csr_array) -> Float[np.ndarray, " bands"]:
    """<c|difference|c> of each state, eV; within a degenerate group the eigenvalues, ascending."""
    elements = levels.vectors.conj().T @ (difference @ levels.vectors)
    shifts = elements.diagonal().real.copy()
    bounds = np.flatnonzero(np.diff(levels.energies) > DEGENERATE) + 1
    for group in np.split(np.arange(len(shifts)), bounds):
        if len(group) > 1:
            shifts[group] = eigvalsh(elements[np.ix_(group, group)])
    return shifts


def _operator(
    like: csr_array, solve: Callable[[Complex[np.ndarray, " size"]], Complex[np.ndarray, " size"]]
) -> LinearOperator:
    return LinearOperator(like.shape, matvec=solve, dtype=complex)


def _random(like: csr_array, seed: int) -> dict[str, Any]:
    """Start and restarts of Lanczos iterations: the same in each run, and without any symmetry of the crystal."""
    random = np.random.default_rng(seed)
    return {"v0": random.normal(size=like.shape[0]) + 1j * random.normal(size=like.shape[0]), "rng": random}
