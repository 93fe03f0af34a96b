"""Component-first features and the tables that their layers share.

A feature of degrees 0 .. L with C channels each is one tensor [(L + 1)^2, items, C]:

    x[l^2 + l + m, i, c]        degree l, component m = -l .. l, item i, channel c

Linear maps are matrix products without copies, and products of components run over long contiguous rows.
"""

import math

from e3nn import o3
from jaxtyping import Float
from torch import Tensor

from tracegrad.numerics.precision import full_precision


def degree_sizes(lmax: int) -> list[int]:
    """Components of each degree: [1, 3, 5, ...]."""
    return [2 * degree + 1 for degree in range(lmax + 1)]


def split_degrees(x: Float[Tensor, "m n c"], lmax: int) -> list[Float[Tensor, "_ n c"]]:
    """For each degree the view [2l + 1, items, channels] of its components."""
    return list(x.split(degree_sizes(lmax), dim=0))


@full_precision
def spherical_harmonics(vectors: Float[Tensor, "n 3"], lmax: int) -> Float[Tensor, "m n"]:
    """Real spherical harmonics of the directions of ``vectors`` (x, y, z), with sum over m of Y_lm^2 = 2l + 1.

    The zero vector gives 1 for degree 0 and 0 above.
    """
    standard_order = vectors[:, [1, 2, 0]]  # e3nn's polar axis is y; this gives the usual order of m
    values = o3.spherical_harmonics(
        list(range(lmax + 1)), standard_order, normalize=True, normalization="component"
    )
    return values.T


def paths(lmax_in: int, lmax_filter: int, lmax_out: int, *, parity: bool) -> list[tuple[int, int, int]]:
    """Triples (l1, l2, l3) that couple, in ascending order; with ``parity`` only those with even l1 + l2 + l3."""
    return [
        (l1, l2, l3)
        for l1 in range(lmax_in + 1)
        for l2 in range(lmax_filter + 1)
        for l3 in range(abs(l1 - l2), min(l1 + l2, lmax_out) + 1)
        if not parity or (l1 + l2 + l3) % 2 == 0
    ]


def path_coefficients(triples: list[tuple[int, int, int]]) -> list[float]:
    """Normalisation of each path as the released QHNet applies it.

    The released code gives each path the weight a = sqrt(dim_out / N) with N the number of all paths; e3nn then
    normalises it to sqrt(dim_out * a / n) with n the number of paths into the same degree.
    """
    into = [l3 for *_, l3 in triples]
    return [
        math.sqrt((2 * l3 + 1) * math.sqrt((2 * l3 + 1) / len(triples)) / into.count(l3))
        for *_, l3 in triples
    ]
