"""Spherical Bessel functions j_l, and the radial transform with them.

F(k) = sqrt(2 / pi) int_0^cutoff r^2 j_l(kr) R(r) dr,    int_0^inf k^2 F(k)^2 dk = int_0^inf r^2 R(r)^2 dr
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from tracegrad.physics.overlaps.radial_shells import RadialShell

_CHUNK = 1 << 18  # numbers kr at a time


def spherical_bessel(x: Float[np.ndarray, "*shape"], highest: int) -> Float[np.ndarray, "degrees *shape"]:
    """j_0 .. j_highest of numbers x >= 0.

    The upward recurrence j_{l+1} = (2l + 1) j_l / x - j_{l-1} is stable for x > l; below, the power series

        j_l(x) = x^l / (2l + 1)!! sum_n (-x^2 / 2)^n / (n! (2l + 3) (2l + 5) ... (2l + 2n + 1))

    converges fast.
    """
    values = np.empty((highest + 1, *x.shape))
    large = np.where(x > 1.0, x, 1.0)
    values[0] = np.sin(large) / large
    if highest:
        values[1] = (values[0] - np.cos(large)) / large
    for degree in range(1, highest):
        values[degree + 1] = (2 * degree + 1) / large * values[degree] - values[degree - 1]
    for degree in range(highest + 1):
        small = x <= degree + 1.0
        values[degree][small] = _series(x[small], degree)
    return values


def _series(x: Float[np.ndarray, " n"], degree: int) -> Float[np.ndarray, " n"]:
    term = x**degree / math.prod(range(1, 2 * degree + 2, 2))
    total = term.copy()
    for n in range(1, 15 + 2 * degree):
        term = -term * x**2 / (2 * n * (2 * degree + 2 * n + 1))
        total += term
    return total


def radial_transforms(
    shells: Sequence[RadialShell], momenta: Float[np.ndarray, " k"]
) -> Float[np.ndarray, "shells k"]:
    """F of each shell at these momenta (1/bohr), in bohr^(3/2)."""
    meshes: dict[tuple[float, bytes], list[int]] = {}
    for position, shell in enumerate(shells):
        meshes.setdefault((shell.cutoff, shell.mesh.tobytes()), []).append(position)
    transforms = np.empty((len(shells), len(momenta)))
    for members in meshes.values():  # of one mesh, which share the values of j_l
        r, weights = shells[members[0]].quadrature()
        highest = max(shells[n].degree for n in members)
        weighted = {n: math.sqrt(2 / math.pi) * weights * r**2 * shells[n](r) for n in members}
        step = max(1, _CHUNK // len(r))
        for first in range(0, len(momenta), step):
            chunk = slice(first, first + step)
            bessel = spherical_bessel(np.outer(momenta[chunk], r), highest)
            for n in members:
                transforms[n, chunk] = bessel[shells[n].degree] @ weighted[n]
    return transforms
