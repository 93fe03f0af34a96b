"""Radial functions of the shells of an element, as basis files tabulate them. Lengths are bohr, as in the files.

An orbital is R(r) Y_lm, with R(r) = r^power p(r). Between two points of its mesh p is the cubic polynomial that has
the tabulated values and slopes at both; below the first point it is constant, and at the cutoff R ends.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicHermiteSpline

from tracegrad.elements import SYMBOLS
from tracegrad.errors import BasisError
from tracegrad.hamiltonian.basis import shells_name
from tracegrad.units import ANGSTROM_PER_BOHR

NORMS = (0.8, 1.25)  # of int r^2 R^2 dr; those of OpenMX lie between 0.98 and 1.02, those of other codes at 1
_PANELS = 200  # of the quadrature between nucleus and cutoff, at most
_GAUSS_POINTS = 8  # in each panel


@dataclass(frozen=True, eq=False)
class RadialShell:
    """The radial function of one shell.

    Args:
        degree: l.
        mesh: ascending, bohr.
        values: of p at the points of the mesh; R is in bohr^(-3/2).
        slopes: dp/dr.
        cutoff: bohr; R is 0 beyond it. Not beyond the last point of the mesh.
        power: R(r) = r^power p(r).
    """

    degree: int
    mesh: Float[np.ndarray, " points"]
    values: Float[np.ndarray, " points"]
    slopes: Float[np.ndarray, " points"]
    cutoff: float
    power: int = 0

    def __call__(self, r: Float[np.ndarray, " radii"]) -> Float[np.ndarray, " radii"]:
        """R at these radii (bohr)."""
        inside = np.clip(r, self.mesh[0], self.mesh[-1])
        polynomial = CubicHermiteSpline(self.mesh, self.values, self.slopes)(inside)
        return np.where(r <= self.cutoff, r**self.power * polynomial, 0.0)

    def quadrature(self) -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
        """Radii and weights of a rule for int_0^cutoff f(r) dr, composite Gauss-Legendre."""
        # Intervals that are shorter than a panel are joined; logarithmic meshes have hundreds near the nucleus.
        panel = np.floor(self.mesh / self.cutoff * _PANELS)
        first = np.flatnonzero(np.diff(panel, prepend=0.0) > 0)
        inside = self.mesh[first]
        ends = np.concatenate([[0.0], inside[inside < self.cutoff], [self.cutoff]])
        nodes, weights = np.polynomial.legendre.leggauss(_GAUSS_POINTS)
        halves = np.diff(ends)[:, None] / 2
        return (ends[:-1, None] + halves * (1 + nodes)).ravel(), (halves * weights).ravel()

    @property
    def norm(self) -> float:
        """int r^2 R(r)^2 dr, which is near 1."""
        r, weights = self.quadrature()
        return float(np.sum(weights * (r * self(r)) ** 2))


@dataclass(frozen=True, eq=False)
class RadialShells:
    """The shells of an element from a basis file.

    Args:
        source: the file, for messages.
        number: atomic number.
        shells: in the order of the file; of one degree, the n-th shell is the n-th zeta.
        more: the file has more shells than a calculation takes; it takes the first ones of each degree (OpenMX).
        valence: number of valence electrons of the atom, if the file has it.

    Raises:
        BasisError: no shells, or the norm of one is far from 1.
    """

    source: str
    number: int
    shells: tuple[RadialShell, ...]
    more: bool = False
    valence: float | None = None

    def __post_init__(self) -> None:
        if not self.shells:
            raise BasisError(f"{self.source}: has no shells; take the basis file of the calculation")
        for degree in sorted(set(self.degrees)):
            for zeta, shell in enumerate((s for s in self.shells if s.degree == degree), 1):
                if not NORMS[0] < shell.norm < NORMS[1]:
                    raise BasisError(
                        f"{self.source}: shell {zeta} with l = {degree} has the norm {shell.norm:.4g}, and orbitals "
                        "have 1; the file is damaged, or its radial functions are in another unit"
                    )

    @property
    def degrees(self) -> tuple[int, ...]:
        """l of each shell."""
        return tuple(shell.degree for shell in self.shells)

    @property
    def cutoff(self) -> float:
        """Largest cutoff of the shells, bohr."""
        return max(shell.cutoff for shell in self.shells)

    @property
    def radius(self) -> float:
        """The same in angstrom."""
        return self.cutoff * ANGSTROM_PER_BOHR

    def select(self, degrees: Sequence[int]) -> "RadialShells":
        """The shells that a calculation with shells of these degrees has, in this order.

        Raises:
            BasisError: the file has not these shells.
        """
        wanted, present = Counter(degrees), Counter(self.degrees)
        if not (wanted <= present if self.more else tuple(degrees) == self.degrees):
            raise BasisError(
                f"{self.source}: has the shells {shells_name(self.degrees)} of {SYMBOLS[self.number]}, but "
                f"{shells_name(degrees)} are needed; take the basis file of the calculations that the network learned"
            )
        left = {degree: [s for s in self.shells if s.degree == degree] for degree in wanted}
        chosen = tuple(left[degree].pop(0) for degree in degrees)
        return replace(self, shells=chosen)
