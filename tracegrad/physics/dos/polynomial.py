"""Densities of states of large cells by Chebyshev polynomials (the kernel polynomial method), without eigenstates.

The energies are the eigenvalues of B = H S^-1. With B scaled to (-1, 1) the density of states of a group g of
orbitals (Mulliken) is a sum over the moments mu_m = Re tr(P_g T_m(B)), damped by the Jackson kernel g_m,

    rho(x) = (g_0 mu_0 + 2 sum_m g_m mu_m T_m(x)) / (pi sqrt(1 - x^2)).

Traces are estimated with random vectors z whose mean of z z^H is S: z = L D^(1/2) w, where S = L D L^H is a sparse
factorisation and w has random phases. With t_m = T_m(B) z and y_m = S^-1 t_m, because B S = S B^H,

    mu_2m = 2 Re <y_m, P_g t_m> - mu_0,    mu_2m+1 = 2 Re <y_m+1, P_g t_m> - mu_1

on average: each product with H and each solution with S gives two moments. A. Weisse et al., Rev. Mod. Phys. 78, 275
(2006), for an orthogonal basis.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigvalsh
from scipy.sparse import csc_array, csr_array
from scipy.sparse.linalg import ArpackError, LinearOperator, SuperLU, eigsh, splu

from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.data.crystals.structure import Structure, check_structure
from tracegrad.errors import ConfigError, DataError
from tracegrad.physics.bands.bands import at_points
from tracegrad.physics.bands.dense import OVERLAP_THRESHOLD, not_positive
from tracegrad.physics.dos.density import DensityOfStates
from tracegrad.physics.dos.kmesh import KMesh
from tracegrad.physics.dos.orbital_groups import OrbitalGroups

VECTORS = 8  # random vectors at each k
_MARGIN = 4  # widths between the spectrum and the ends of the interval
_BOUND_TOLERANCE = 1e-3  # relative, of the ends of the spectrum
_SMALL = 64  # orbitals, up to which all eigenvalues are computed
_REAL = 1e-12  # imaginary parts below it are rounding


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments at one k.

    Args:
        centre, half: of the interval of energies that is scaled to (-1, 1), eV.
        total: moments of each random vector, without projection.
        groups: moments of each group, mean over the vectors.
        smallest_overlap: smallest eigenvalue of S(k).
    """

    centre: float
    half: float
    total: Float[np.ndarray, "vectors moments"]
    groups: Float[np.ndarray, "groups moments"]
    smallest_overlap: float

    def density(
        self, moments: Float[np.ndarray, "rows moments"], energies: Float[np.ndarray, " energies"]
    ) -> Float[np.ndarray, "rows energies"]:
        """States/eV (without spin) of rows of moments."""
        x, inside = self._scaled(energies)
        angles = np.arccos(x)
        waves = np.cos(np.arange(moments.shape[1])[:, None] * angles)
        sines = np.where(inside, np.sin(angles), 1.0)
        values = self._damped(moments) @ waves / (np.pi * sines * self.half)
        return np.where(inside, values, 0.0)

    def below(
        self, moments: Float[np.ndarray, "rows moments"], energies: Float[np.ndarray, " energies"]
    ) -> Float[np.ndarray, "rows energies"]:
        """Number of states (without spin) below energies, of rows of moments."""
        x, _ = self._scaled(energies)
        angles = np.arccos(x)
        orders = np.arange(1, moments.shape[1])[:, None]
        damped = self._damped(moments)
        waves = np.sin(orders * angles) / (np.pi * orders)
        return damped[:, :1] * (1 - angles / np.pi) - damped[:, 1:] @ waves

    def _scaled(self, energies: Float[np.ndarray, " energies"]) -> tuple[np.ndarray, np.ndarray]:
        x = (energies - self.centre) / self.half
        return np.clip(x, -1, 1), np.abs(x) < 1

    def _damped(self, moments: Float[np.ndarray, "rows moments"]) -> Float[np.ndarray, "rows moments"]:
        factors = 2 * jackson_kernel(moments.shape[1])
        factors[0] /= 2
        return moments * factors


def jackson_kernel(count: int) -> Float[np.ndarray, " moments"]:
    """Factors g_m; a delta function at x becomes nearly a Gaussian of standard deviation pi sqrt(1 - x^2) / count."""
    m, step = np.arange(count), np.pi / (count + 1)
    return ((count - m + 1) * np.cos(step * m) + np.sin(step * m) / np.tan(step)) / (count + 1)


class MomentSolver:
    """Moments at one k, see the head of this module."""

    def __init__(
        self, structure: Structure, groups: OrbitalGroups, width: float, vectors: int, threshold: float
    ) -> None:
        self.name, self.groups = structure.name, groups
        self.width, self.vectors, self.threshold = width, vectors, threshold
        self.hamiltonian = BlochMatrix(structure, "hamiltonian")
        self.overlap = BlochMatrix(structure, "overlap")

    def __call__(self, k: Float[np.ndarray, " 3"]) -> Moments:
        """The moments at k (units of the reciprocal lattice vectors).

        Raises:
            DataError: S(k) is not positive definite or has eigenvalues below the threshold.
        """
        where = f"{self.name}: k = {np.round(k, 6).tolist()}"
        hamiltonian, overlap = _real_if_possible(self.hamiltonian.at(k), self.overlap.at(k))
        factors = splu(
            csc_array(overlap),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        pivots = factors.U.diagonal().real
        if not (pivots > 0).all() or not np.array_equal(factors.perm_r, factors.perm_c):
            raise not_positive(where, float(pivots.min()))
        smallest = self._smallest(overlap, factors)
        if smallest < self.threshold:
            raise DataError(
                f"{where}: S has the eigenvalue {smallest:.1e}, below overlap_threshold={self.threshold:g}, and the "
                "polynomial method cannot project it out; set dos_method=diagonal, or a smaller overlap_threshold"
            )
        centre, half = self._interval(hamiltonian, overlap, factors, where)
        random = np.random.default_rng(np.abs(np.round(k * 1e6)).astype(np.int64))
        vectors = _correlated(factors, pivots, self.vectors, random)
        total, groups = self._moments(hamiltonian, factors, vectors, centre, half)
        return Moments(centre, half, total, groups, smallest)

    def _moments(
        self, hamiltonian: csr_array, factors: SuperLU, vectors: np.ndarray, centre: float, half: float
    ) -> tuple[np.ndarray, np.ndarray]:
        count = int(np.ceil(np.pi * half / self.width / 2)) * 2
        total = np.zeros((self.vectors, count))
        groups = np.zeros((len(self.groups.names), count))

        def keep(m: int, left: np.ndarray, right: np.ndarray) -> None:
            products = self.groups.sums((left.conj() * right).real)  # [groups, vectors]
            sums, means = products.sum(0), products.mean(1)
            first = m % 2
            total[:, m] = sums if m == first else 2 * sums - total[:, first]
            groups[:, m] = means if m == first else 2 * means - groups[:, first]

        def scaled(solved: np.ndarray, right: np.ndarray) -> np.ndarray:
            return (hamiltonian @ solved - centre * right) / half

        old, right = None, vectors
        solved = factors.solve(right)
        for m in range(0, count, 2):
            keep(m, solved, right)
            new = scaled(solved, right) if old is None else 2 * scaled(solved, right) - old
            old, solved = right, factors.solve(new)
            keep(m + 1, solved, right)
            right = new
        return total, groups

    def _smallest(self, overlap: csr_array, factors: SuperLU) -> float:
        if overlap.shape[0] <= _SMALL:
            return float(eigvalsh(overlap.toarray())[0])
        inverse = LinearOperator(overlap.shape, matvec=factors.solve, dtype=overlap.dtype)
        return float(eigsh(overlap, 1, sigma=0, OPinv=inverse, tol=1e-4, **_lanczos(overlap))[0])

    def _interval(
        self, hamiltonian: csr_array, overlap: csr_array, factors: SuperLU, where: str
    ) -> tuple[float, float]:
        """Middle and half of the interval (eV) that holds all energies."""
        if overlap.shape[0] <= _SMALL:
            low, high = eigvalsh(hamiltonian.toarray(), overlap.toarray())[[0, -1]]
            return (low + high) / 2, self._half(high - low)
        inverse = LinearOperator(overlap.shape, matvec=factors.solve, dtype=overlap.dtype)
        options = {"M": overlap, "Minv": inverse, "tol": _BOUND_TOLERANCE, **_lanczos(overlap)}
        try:
            low, high = (float(eigsh(hamiltonian, 1, which=which, **options)[0]) for which in ("SA", "LA"))
        except ArpackError as error:
            raise DataError(
                f"{where}: the ends of the spectrum were not found ({error}); set dos_method=diagonal"
            ) from error
        return (low + high) / 2, self._half(high - low)

    def _half(self, span: float) -> float:
        """Half of the interval for a spectrum: its ends are some widths away, where kernels are not cut off."""
        return span / 2 * (1 + 2 * _BOUND_TOLERANCE) + _MARGIN * self.width


def _lanczos(like: csr_array) -> dict[str, Any]:
    """Options of `eigsh`: eigenvalues alone, the same in each run, from a vector without symmetry of the crystal."""
    random = np.random.default_rng(0)
    start = random.normal(size=like.shape[0]).astype(like.dtype)
    return {"v0": start, "rng": random, "return_eigenvectors": False}


def _real_if_possible(*matrices: csr_array) -> tuple[csr_array, ...]:
    """The matrices, as real ones if all are real but for rounding."""
    if all(np.abs(matrix.data.imag).max() < _REAL for matrix in matrices):
        return tuple(matrix.real for matrix in matrices)
    return matrices


def _correlated(
    factors: SuperLU, pivots: Float[np.ndarray, " size"], count: int, random: np.random.Generator
) -> np.ndarray:
    """Random vectors z (columns) whose mean of z z^H is S = P^T L D L^H P; z = P^T L D^(1/2) w."""
    lower = factors.L
    shape = (lower.shape[0], count)
    if np.issubdtype(lower.dtype, np.complexfloating):
        phases: Any = np.exp(2j * np.pi * random.random(shape))
    else:
        phases = random.choice([-1.0, 1.0], size=shape)
    return (lower @ (pivots[:, None] ** 0.5 * phases))[factors.perm_c]


@dataclass(frozen=True, eq=False)
class PolynomialDensity:
    """The density of states of a mesh from moments.

    Args:
        mesh: the points.
        moments: at each point.
        groups: names of the groups.
        width: largest standard deviation of the broadening, eV.
        spins: states that a band stands for.
    """

    mesh: KMesh
    moments: tuple[Moments, ...]
    groups: tuple[str, ...]
    width: float
    spins: int

    @property
    def smallest_overlap(self) -> float:
        """Smallest eigenvalue of S(k) on the mesh."""
        return min(one.smallest_overlap for one in self.moments)

    def at(self, energies: Float[np.ndarray, " energies"]) -> DensityOfStates:
        """The density of states at energies (eV), with its standard error."""
        projected = np.zeros((len(self.groups), len(energies)))
        below, variance = np.zeros(len(energies)), np.zeros(len(energies))
        for weight, one in self._weighted():
            projected += weight * one.density(one.groups, energies)
            below += weight * one.below(one.groups, energies).sum(0)
            variance += weight**2 * _variance(one.density(one.total, energies))
        error = variance**0.5
        total = projected.sum(0)
        return DensityOfStates(
            energies, total, below, self.groups, projected, error, self.width, "polynomial"
        )

    def _weighted(self) -> zip:
        return zip(self.spins * self.mesh.weights, self.moments, strict=True)


def _variance(samples: Float[np.ndarray, "vectors energies"]) -> Float[np.ndarray, " energies"]:
    """Variance of the mean over the vectors."""
    return samples.var(0, ddof=1) / len(samples)


def polynomial_density(
    structure: Structure,
    mesh: KMesh,
    groups: OrbitalGroups,
    *,
    width: float,
    vectors: int = VECTORS,
    threshold: float = OVERLAP_THRESHOLD,
    processes: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PolynomialDensity:
    """Density of states of a structure by the polynomial method.

    Args:
        structure: with H and S.
        mesh: the points.
        groups: of orbitals.
        width: largest standard deviation of the broadening, eV; the number of moments follows from it.
        vectors: random vectors at each point, at least 2.
        threshold: smallest eigenvalue of S(k) that is allowed.
        processes, on_progress: see `tracegrad.physics.bands.bands.band_structure`.

    Raises:
        ConfigError: too few vectors.
        DataError: a matrix is missing or damaged, or S(k) has too small an eigenvalue.
        TraceGradError: a worker process died.
    """
    if vectors < 2:
        raise ConfigError(f"dos_vectors={vectors}: at least 2 are needed, to know the statistical error")
    check_structure(structure, structure.name)
    solver = MomentSolver(structure, groups, width, vectors, threshold)
    size = len(groups.of_orbital)
    found = at_points(structure.name, solver, mesh.points, size, processes, on_progress)
    spins = 3 - structure.basis.spins
    return PolynomialDensity(mesh, tuple(found), groups.names, width, spins)
