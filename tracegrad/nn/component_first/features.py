"""Component-first features and the tables that their layers share.

A feature of degrees 0 .. L with C channels each is one tensor [(L + 1)^2, items, C]:

    x[l^2 + l + m, i, c]        degree l, component m = -l .. l, item i, channel c

Linear maps are matrix products without copies, and products of components run over long contiguous rows.
"""

import math

# Both are part of the interface for backbones, which find them here.
from tracegrad.ops.features import split_degrees as split_degrees
from tracegrad.ops.spherical_harmonics import spherical_harmonics as spherical_harmonics


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
