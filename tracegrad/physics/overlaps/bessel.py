"""Spherical Bessel functions j_l, and the radial transform with them.

F(k) = sqrt(2 / pi) int_0^cutoff r^2 j_l(kr) R(r) dr,    int_0^inf k^2 F(k)^2 dk = int_0^inf r^2 R(r)^2 dr
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import spherical_jn

from tracegrad.physics.overlaps.radial_shells import RadialShell

_CHUNK = 1 << 18  # numbers kr at a time


def spherical_bessel(x: Float[np.ndarray, "*shape"], highest: int) -> Float[np.ndarray, "degrees *shape"]:
    """j_0 .. j_highest of numbers x >= 0."""
    return np.stack([spherical_jn(degree, x) for degree in range(highest + 1)])


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
