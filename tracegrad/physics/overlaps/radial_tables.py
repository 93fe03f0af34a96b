"""Tables on the distance of the two-centre integrals of all pairs of shells of two elements.

With the transforms F of the radial functions, the overlap of R_a Y_{la,m} at 0 and R_b Y_{lb,m} at the distance d
along the polar axis is, for m = 0 .. min(la, lb) (and the same for -m; different m do not overlap),

    S_m(d) = sum_L (-1)^((la - lb - L) / 2) sqrt(4 pi (2L + 1)) G(la m, lb m, L 0) I_L(d)
    I_L(d) = int_0^K k^2 F_a(k) F_b(k) j_L(kd) dk,      L = |la - lb|, |la - lb| + 2, ..., la + lb

with the integral G of three real spherical harmonics. The integrand is band-limited, so that the Gauss-Legendre rule
in k with a few hundred points is exact for any K. All integrals, on-site ones included, use the same K: S is then the
Gram matrix of functions, and positive.

A table has S_m, its first and its second derivative at equidistant distances; between them it is the polynomial of
degree 5 that agrees with all of them, with two continuous derivatives. Beyond the sum of both cutoffs S_m is 0.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.numerics.constants import Constant
from tracegrad.ops.spherical_harmonics import spherical_harmonics
from tracegrad.physics.overlaps.bessel import radial_transforms, spherical_bessel
from tracegrad.physics.overlaps.radial_shells import RadialShells
from tracegrad.units import ANGSTROM_PER_BOHR

SPACING = 0.05  # bohr, of the distances of a table


@lru_cache(maxsize=8)
def gauss_legendre(
    largest: float, bandwidth: float
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Momenta and weights for int_0^largest f(k) dk, with the Fourier components of f below the bandwidth (bohr)."""
    # n points are exact to degree 2n - 1, and exp(i w x) on [-1, 1] is a polynomial of little more than degree w.
    points = math.ceil(bandwidth * largest / 4) + 30
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return largest / 2 * (1 + nodes), largest / 2 * weights


class Transforms:
    """Radial transforms of the shells of all elements of a basis on one grid of momenta.

    Args:
        shells: by atomic number.
        largest: K, 1/bohr.
    """

    def __init__(self, shells: dict[int, RadialShells], largest: float) -> None:
        self.shells, self.largest = shells, largest
        bandwidth = 4 * max(one.cutoff for one in shells.values())
        self.momenta, self.weights = gauss_legendre(largest, bandwidth)
        self._of: dict[int, Float[np.ndarray, "shells k"]] = {}

    def __getitem__(self, number: int) -> Float[np.ndarray, "shells k"]:
        """Transforms of the shells of an element; computed when they are first needed."""
        if number not in self._of:
            self._of[number] = radial_transforms(self.shells[number].shells, self.momenta)
        return self._of[number]


@dataclass(frozen=True)
class ShellPair:
    """Two shells of a pair of elements.

    Args:
        first, second: positions of the shells among those of their elements.
        degrees: la, lb.
    """

    first: int
    second: int
    degrees: tuple[int, int]

    @property
    def components(self) -> int:
        """Number of m = 0 .. min(la, lb)."""
        return min(self.degrees) + 1


class PairTable:
    """S_m(d) of all pairs of shells of two elements.

    Args:
        transforms: of the basis.
        first, second: atomic numbers.

    Attributes:
        pairs: the pairs of shells, sorted by degrees; their m = 0 .. min(la, lb) follow each other in the columns.
        reach: sum of both cutoffs, angstrom.
    """

    def __init__(self, transforms: Transforms, first: int, second: int) -> None:
        self._transforms, self._first, self._second = transforms, first, second
        a, b = transforms.shells[first], transforms.shells[second]
        self.pairs = sorted(
            (ShellPair(i, j, (la, lb)) for i, la in enumerate(a.degrees) for j, lb in enumerate(b.degrees)),
            key=lambda pair: pair.degrees,
        )
        self.reach = (a.cutoff + b.cutoff) * ANGSTROM_PER_BOHR

    def __call__(self, distances: Float[Tensor, " edges"]) -> Float[Tensor, "edges columns"]:
        """S_m at these distances (angstrom), with derivatives."""
        steps = distances / (SPACING * ANGSTROM_PER_BOHR)
        coefficients, reaches = self._coefficients(distances), self._reaches(distances)
        interval = steps.detach().floor().long().clamp(0, len(coefficients) - 1)
        x = (steps - interval)[:, None]
        polynomial = coefficients[interval]  # [edges, power, columns]
        value = polynomial[:, -1]
        for power in range(polynomial.shape[1] - 2, -1, -1):
            value = value * x + polynomial[:, power]
        return torch.where(distances[:, None] < reaches, value, 0.0)

    @cached_property
    def _reaches(self) -> Constant:
        a, b = (self._transforms.shells[number].shells for number in (self._first, self._second))
        reaches = [a[p.first].cutoff + b[p.second].cutoff for p in self.pairs for _ in range(p.components)]
        return Constant(torch.tensor(reaches, dtype=torch.float64) * ANGSTROM_PER_BOHR)

    @cached_property
    def _coefficients(self) -> Constant:
        """[intervals, power, columns]: coefficients of the polynomials of degree 5 of (d - d_i) / spacing."""
        distances = SPACING * np.arange(math.ceil(self.reach / ANGSTROM_PER_BOHR / SPACING) + 1)
        v, s, c = (SPACING**n * values for n, values in enumerate(self._values(distances)))
        v0, v1, s0, s1, c0, c1 = v[:-1], v[1:], s[:-1], s[1:], c[:-1], c[1:]
        rise, slope, curvature = v1 - v0 - s0 - c0 / 2, s1 - s0 - c0, c1 - c0
        table = [
            v0,
            s0,
            c0 / 2,
            10 * rise - 4 * slope + curvature / 2,
            -15 * rise + 7 * slope - curvature,
            6 * rise - 3 * slope + curvature / 2,
        ]
        return Constant(torch.from_numpy(np.stack(table, axis=1)))

    def _values(self, distances: Float[np.ndarray, " d"]) -> Float[np.ndarray, "3 d columns"]:
        """S_m and its first two derivatives at these distances (bohr)."""
        momenta, weights = self._transforms.momenta, self._transforms.weights
        a, b = self._transforms[self._first], self._transforms[self._second]
        highest = max(sum(pair.degrees) for pair in self.pairs)
        bessel = _bessel_derivatives(np.outer(distances, momenta), highest)
        columns = []
        for pair in self.pairs:
            la, lb = pair.degrees
            density = weights * momenta**2 * a[pair.first] * b[pair.second]
            for m in range(pair.components):
                column = np.zeros((3, len(distances)))
                for total in range(abs(la - lb), la + lb + 1, 2):
                    sign = (-1) ** ((la - lb - total) // 2)
                    factor = sign * math.sqrt(4 * math.pi * (2 * total + 1)) * gaunt(la, lb, total, m)
                    for n in range(3):
                        column[n] += factor * (bessel[n, total] @ (density * momenta**n))
                columns.append(column)
        return np.stack(columns, axis=-1)


@lru_cache(maxsize=512)
def gaunt(first: int, second: int, third: int, m: int) -> float:
    """int Y_{first,m} Y_{second,m} Y_{third,0} over the sphere, real harmonics with unit norm, m >= 0."""
    cosines, weights = np.polynomial.legendre.leggauss((first + second + third) // 2 + 1)
    sines = np.sqrt(1 - cosines**2)
    points = torch.from_numpy(np.stack([sines, 0 * sines, cosines], axis=1))
    highest = max(first, second, third)
    harmonics = spherical_harmonics(points, highest).numpy() / math.sqrt(4 * math.pi)
    a, b, c = (harmonics[degree**2 + degree + n] for degree, n in ((first, m), (second, m), (third, 0)))
    # The integral of 1 or cos(m phi)^2 over phi.
    return float(np.sum(weights * a * b * c)) * (math.pi if m else 2 * math.pi)


def _bessel_derivatives(x: Float[np.ndarray, "d k"], highest: int) -> Float[np.ndarray, "3 degrees d k"]:
    """j_l, j_l' and j_l'' for l = 0 .. highest: (2l + 1) j_l' = l j_{l-1} - (l + 1) j_{l+1}, applied twice."""
    values = spherical_bessel(x, highest + 2)
    result = np.empty((3, highest + 1, *x.shape))
    result[0] = values[: highest + 1]
    for n in (1, 2):
        derivatives = np.empty_like(values[:-1])
        for degree in range(len(derivatives)):
            lower = degree * values[degree - 1] if degree else 0.0
            derivatives[degree] = (lower - (degree + 1) * values[degree + 1]) / (2 * degree + 1)
        values = derivatives
        result[n] = values[: highest + 1]
    return result
