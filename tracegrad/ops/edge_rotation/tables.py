"""Tables of the rotation matrices of edge frames: waves of the polar angle, and generators of rotations."""

from functools import lru_cache

import torch

from tracegrad.numerics.constants import Constant
from tracegrad.ops.spherical_harmonics import spherical_harmonics


def is_natural(degree: int, parity: int) -> bool:
    """Whether the parity is (-1)^l, as that of the spherical harmonics."""
    return parity == (-1) ** degree


@lru_cache(maxsize=32)
def generators(degree: int) -> Constant:
    """[3, 2l + 1, 2l + 1], dD/da at a = 0 of rotations by the angle a about x, y and z."""
    with torch.inference_mode(False):
        exchange = _axis_exchange(degree)(torch.empty(0, dtype=torch.float64))
        m = torch.arange(-degree, degree + 1, dtype=torch.float64)
        about_z = -torch.diag(m).flip(1)
        about_y = exchange @ about_z @ exchange.T
        about_x = exchange @ about_y @ exchange.T
        return Constant(torch.stack([about_x, about_y, about_z]))


@lru_cache(maxsize=32)
def polar_waves(degree: int, parity: int) -> Constant:
    """Rotations about y as coefficients [2l + 1, m', m] of cos(q polar), q = 0 .. l, and of sin(q polar), q = 1 .. l.

    They are J Z(polar) J^T, see `_axis_exchange`, with the local components of irreps of unnatural parity exchanged.
    """
    with torch.inference_mode(False):
        exchange = _axis_exchange(degree)(torch.empty(0, dtype=torch.float64))
        parts = exchange.new_zeros(2 * degree + 1, 2 * degree + 1, 2 * degree + 1)
        parts[0, degree, degree] = 1
        for q in range(1, degree + 1):
            for sign in (-1, 1):
                parts[q, degree + sign * q, degree + sign * q] = 1
                parts[degree + q, degree + sign * q, degree - sign * q] = -sign
        table = exchange @ parts @ exchange.T
        if is_natural(degree, parity):
            return Constant(table)
        exchanged = table.flip(2)
        exchanged[..., :degree] *= -1
        return Constant(exchanged)


@lru_cache(maxsize=32)
def _axis_exchange(degree: int) -> Constant:
    """J, the Wigner matrix of the rotation R: z -> y -> x -> z; J Z(a) J^T is a rotation about y by the angle a.

    It is the solution of Y(R r) = J Y(r) for the spherical harmonics Y of some points r.
    """
    with torch.inference_mode(False):
        points = torch.randn(
            4 * degree + 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        before, after = (
            spherical_harmonics(p, degree)[degree**2 :].T for p in (points, points[:, [1, 2, 0]])
        )
        return Constant(torch.linalg.lstsq(before, after).solution.T)
