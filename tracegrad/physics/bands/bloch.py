"""The generalised eigenproblem H(k) c = E S(k) c of crystals at one k; `BlochMatrix` has the conventions."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Complex, Float, Int
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh, eigvalsh, lapack
from scipy.sparse import csr_array
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.data.crystals.structure import Structure, check_structure
from tracegrad.errors import DataError
from tracegrad.physics.bands.dense import (
    OVERLAP_THRESHOLD,
    AllStates,
    Eigenstates,
    all_states,
    count_ghosts,
    deepest_level,
    not_positive,
)
from tracegrad.physics.first_order import DEGENERATE, first_order_slopes

EXTRA_STATES = 6  # computed besides the requested ones, because the outermost states are discarded
_ATTEMPTS = 4
_OFF_LEVEL = 1e-7  # eV, shift of a level that is an eigenvalue


@dataclass(frozen=True, eq=False)
class KPointBands:
    """The bands at one k.

    Args:
        first, energies: as in `Eigenstates`.
        smallest_overlap: smallest eigenvalue of S(k).
        dropped: number of eigenvectors of S that have been projected out.
        ghosts: number of ghost states, see `tracegrad.physics.bands.dense.count_ghosts`.
        predicted: the bands of the predicted Hamiltonian H', if there is one.
        first_order: then <c|H' - H|c> (eV) of the states c of the structure, see `first_order_shifts`.
    """

    first: int
    energies: Float[np.ndarray, " bands"]
    smallest_overlap: float
    dropped: int = 0
    ghosts: int = 0
    predicted: "KPointBands | None" = None
    first_order: Float[np.ndarray, " bands"] | None = None


class KPointSolver:
    """Solves the eigenproblem at one k, for the structure and for a predicted Hamiltonian.

    Args:
        structure: with H and S.
        level: eV; eigenstates around it are computed.
        bands: approximate number of bands; None: all.
        predicted: the same structure with another H.
        threshold: eigenvalues of S(k) below it are projected out if all bands are computed.

    Raises:
        DataError: a matrix is missing, damaged or not hermitian.
    """

    def __init__(
        self,
        structure: Structure,
        level: float,
        bands: int | None,
        predicted: Structure | None = None,
        threshold: float = OVERLAP_THRESHOLD,
    ) -> None:
        for one in (structure, predicted):
            if one is not None:
                check_structure(one, one.name)
        self.name, self.level, self.bands, self.threshold = structure.name, level, bands, threshold
        self.hamiltonian = BlochMatrix(structure, "hamiltonian")
        self.overlap = BlochMatrix(structure, "overlap")
        self.predicted = None if predicted is None else BlochMatrix(predicted, "hamiltonian")
        self.deepest = deepest_level(structure)

    def __call__(self, k: Float[np.ndarray, " 3"]) -> KPointBands:
        """The bands at k (units of the reciprocal lattice vectors).

        Raises:
            DataError: S(k) is not positive definite, or the eigenproblem cannot be solved.
        """
        hamiltonian, overlap = self.hamiltonian.at(k), self.overlap.at(k)
        where = f"{self.name}: k = {np.round(k, 6).tolist()}"
        own = self._states(hamiltonian, overlap, where)
        if self.predicted is None:
            return self._bands(own)
        predicted = self.predicted.at(k)
        bands = self._bands(self._states(predicted, overlap, where, own.smallest_overlap))
        shifts = first_order_shifts(own.states, predicted - hamiltonian)
        return replace(self._bands(own), predicted=bands, first_order=shifts)

    def _states(
        self, hamiltonian: csr_array, overlap: csr_array, where: str, smallest: float | None = None
    ) -> AllStates:
        try:
            if self.bands is None:
                return all_states(hamiltonian.toarray(), overlap.toarray(), where, self.threshold, smallest)
            if smallest is None:
                smallest = smallest_eigenvalue(overlap, dense=False)
            if not smallest > 0:
                raise not_positive(where, smallest)
            return AllStates(levels_around(hamiltonian, overlap, self.level, self.bands), smallest, 0)
        except (LinAlgError, ArpackError) as error:
            raise DataError(
                f"{where}: the eigenproblem was not solved ({error}); S may be nearly singular, or set bands to "
                "another number"
            ) from error

    def _bands(self, found: AllStates) -> KPointBands:
        states = found.states
        ghosts = count_ghosts(states.energies, states.mean_overlaps, self.level, self.deepest)
        return KPointBands(states.first, states.energies, found.smallest_overlap, found.dropped, ghosts)


def smallest_eigenvalue(matrix: csr_array, *, dense: bool) -> float:
    """Smallest eigenvalue of a hermitian matrix.

    Without ``dense`` it is computed by inverse iteration, and -inf is returned if it is not positive.
    """
    if dense:
        return float(eigvalsh(matrix.toarray(), subset_by_index=[0, 0])[0])
    try:
        factor = cho_factor(matrix.toarray(), lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError:
        return -np.inf
    inverse = _operator(matrix, lambda right: cho_solve(factor, right, check_finite=False))
    try:
        values = eigsh(
            matrix, 1, sigma=0, OPinv=inverse, tol=1e-4, return_eigenvectors=False, **_random(matrix, seed=0)
        )
    except ArpackError:
        return smallest_eigenvalue(matrix, dense=True)
    return float(values[0])


def levels_around(hamiltonian: csr_array, overlap: csr_array, level: float, bands: int) -> Eigenstates:
    """About ``bands`` consecutive eigenstates around ``level`` (eV), by Lanczos iterations on (H - level S)^-1.

    Lanczos iterations may miss states of a degenerate group. Therefore the outermost groups, which may be incomplete,
    are discarded, and the number of the others is compared with the number of eigenvalues between their limits, from
    Sylvester's law of inertia. If they differ, more states are computed; so they are if the iterations break down,
    which can happen when rounding exhausts the space of the starting vector.

    Raises:
        LinAlgError: states are missing, or the iterations break down, in every attempt.
    """
    factor, pivots, _ = _factors(hamiltonian, overlap, level)
    inverse = _operator(hamiltonian, lambda right: lapack.zhetrs(factor, pivots, right, lower=1)[0])
    reason = ""
    for attempt in range(1, _ATTEMPTS + 1):
        count = min(attempt * bands + EXTRA_STATES, hamiltonian.shape[0] - 2)
        try:
            _, space = eigsh(
                hamiltonian,
                count,
                M=overlap,
                sigma=level,
                OPinv=inverse,
                ncv=min(2 * count + 1, hamiltonian.shape[0]),
                **_random(hamiltonian, attempt),
            )
        except ArpackError as error:
            reason = f" ({error})"
            continue
        reason = ""
        # ARPACK's vectors of degenerate states are not orthogonal: solve the problem again in the space they span.
        projected = [space.conj().T @ (matrix @ space) for matrix in (hamiltonian, overlap)]
        energies, mixing = eigh(*projected)
        bounds = np.flatnonzero(np.diff(energies) > DEGENERATE) + 1
        if len(bounds) > 1:
            low, high = bounds[[0, -1]]
            below, above = (
                _factors(hamiltonian, overlap, energies[[n - 1, n]].mean())[2] for n in (low, high)
            )
            if above - below == high - low:
                return Eigenstates(below, energies[low:high], (space @ mixing)[:, low:high])
    raise LinAlgError(f"degenerate states are missing among the {count} nearest to {level:.3f} eV{reason}")


def states_below(hamiltonian: csr_array, overlap: csr_array, level: float) -> int:
    """Number of eigenstates below a level (eV)."""
    return _factors(hamiltonian, overlap, level)[2]


def _factors(
    hamiltonian: csr_array, overlap: csr_array, level: float
) -> tuple[Complex[np.ndarray, "size size"], Int[np.ndarray, " size"], int]:
    """LAPACK's factors L D L^H of H - level S with its pivots, and the number of eigenstates below the level.

    The factors are dense, because factorising matrices of atomic orbitals fills them. By Sylvester's law of inertia
    the number of eigenstates below the level is that of the negative eigenvalues of D; each of its 2 x 2 blocks
    (negative pivots) has one negative and one positive eigenvalue.
    """
    while True:
        shifted = (hamiltonian - level * overlap).toarray(order="F")
        length = int(lapack.zhetrf_lwork(len(shifted), lower=1)[0].real)
        factor, pivots, info = lapack.zhetrf(shifted, lower=1, lwork=length, overwrite_a=1)
        if info == 0:
            single = pivots > 0
            negative = (factor.diagonal().real[single] < 0).sum() + (~single).sum() // 2
            return factor, pivots, int(negative)
        level += _OFF_LEVEL  # the matrix is singular: the level is an eigenvalue to the last digit


def first_order_shifts(levels: Eigenstates, difference: csr_array) -> Float[np.ndarray, " bands"]:
    """First-order shifts <c|difference|c> (eV) of the states c.

    Of a degenerate group (energies within 1e-6 eV) they are the eigenvalues of the difference among its states,
    ascending.
    """
    elements = levels.vectors.conj().T @ (difference @ levels.vectors)
    return first_order_slopes(levels.energies, elements)


def _operator(
    like: csr_array, solve: Callable[[Complex[np.ndarray, " size"]], Complex[np.ndarray, " size"]]
) -> LinearOperator:
    return LinearOperator(like.shape, matvec=solve, dtype=complex)


def _random(like: csr_array, seed: int) -> dict[str, Any]:
    """Random starting vector and generator of `eigsh`: the same in each run, and without symmetry of the crystal."""
    random = np.random.default_rng(seed)
    return {"v0": random.normal(size=like.shape[0]) + 1j * random.normal(size=like.shape[0]), "rng": random}
