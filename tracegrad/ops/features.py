"""The layout of component-first features, for operators on them."""

import math

from jaxtyping import Float
from torch import Tensor

from tracegrad.ops.shapes import size


def split_degrees(x: Float[Tensor, "m n c"], lmax: int) -> list[Float[Tensor, "_ n c"]]:
    """For each degree the view [2l + 1, items, channels] of its components."""
    return list(x.split([2 * degree + 1 for degree in range(lmax + 1)], dim=0))


def highest_degree(x: Tensor) -> int:
    """L of a feature with (L + 1)^2 components."""
    return math.isqrt(x.shape[0]) - 1


def feature_shape(x: Tensor) -> tuple[int, int, int]:
    """The shape that a component-first feature [(L + 1)^2, items, channels] of about this size must have."""
    return max(math.isqrt(size(x, 0)), 1) ** 2, size(x, 1), size(x, 2)
