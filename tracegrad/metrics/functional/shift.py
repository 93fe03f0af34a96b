"""The shift that minimises absolute deviations."""

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.ops.assembly.assembly import unpack_triangles


def least_absolute_shift(
    difference: Float[Tensor, "batch items"], direction: Float[Tensor, "batch items"]
) -> Float[Tensor, " batch"]:
    """For each row the mu that minimises sum_i |difference_i + mu direction_i|; exact, always finite, float64.

    The sum is convex and piecewise linear with kinks at t_i = -difference_i / direction_i. Its minimum is the median
    of the t_i with the weights |direction_i|.
    """
    weights = direction.abs()
    zeros, order = torch.where(weights > 0, -difference / direction, torch.inf).sort(dim=1)
    below = weights.gather(1, order).cumsum(1) < weights.sum(1, keepdim=True) / 2
    # Because of rounding, even the last cumulative sum may lie below one half.
    last = (zeros.isfinite().sum(1, keepdim=True) - 1).clamp_(min=0)
    median = zeros.gather(1, torch.minimum(below.sum(1, keepdim=True), last)).squeeze(1)
    return torch.where(median.isfinite(), median, 0.0)


def shifted_mae(
    difference: Float[Tensor, "batch n n"], overlap: Float[Tensor, "batch packed"]
) -> Float[Tensor, " batch"]:
    """min over mu of the mean of abs(difference + mu S) over all matrix elements.

    Args:
        difference: difference of two Hamiltonians, finite, float64.
        overlap: lower triangle of S with element (i, j <= i) at i (i + 1) / 2 + j, float64.
    """
    n = difference.shape[1]
    both = difference.flatten(1), unpack_triangles(overlap, n).flatten(1)
    return torch.addcmul(both[0], least_absolute_shift(*both)[:, None], both[1]).abs_().sum(1) / n**2
