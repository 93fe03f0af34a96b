"""The shift that makes absolute deviations smallest."""

import torch
from jaxtyping import Float
from torch import Tensor

BINS = 4096
FEW = 64  # are sorted at once
_TINY = 1e-300  # keeps the width of a bin above 0


def least_absolute_shift(
    difference: Float[Tensor, "batch items"], direction: Float[Tensor, "batch items"]
) -> Float[Tensor, " batch"]:
    """A mu of each row that minimises sum_i |difference_i + mu direction_i|, exactly; finite, float64.

    The sum is convex and linear between the zeros t_i of its terms, so that the weighted median of the t_i with the
    weights |direction_i| is a minimum. The weights of many bins around the shift of least squares tell the one with
    the median, and its few t_i are sorted.
    """
    weights = direction.abs()
    half = weights.sum(1) / 2
    zeros = (difference / direction).neg_()
    if zeros.shape[1] <= FEW:
        return _median(zeros, weights, half, torch.zeros_like(half))
    square = torch.linalg.vecdot(direction, direction)
    centre = torch.where(square > 0, -torch.linalg.vecdot(difference, direction) / square, 0.0)
    deviation = torch.addcmul(difference, direction, centre[:, None]).abs_().sum(1)
    # |mu - centre| sum |s| - deviation <= sum |d + mu s| <= deviation
    radius = torch.where(half > 0, deviation / half, 0.0).clamp(min=_TINY)
    # The bin never falls where t rises, so that rounding of the edges changes nothing.
    scaled = (zeros - (centre - radius)[:, None]).mul_((BINS - 2) / (2 * radius)[:, None]).add_(1)
    bins = scaled.nan_to_num_(0.0).clamp_(0, BINS - 1).long()  # NaN: 0 / 0 without weight
    sums = torch.zeros(len(zeros), BINS, dtype=zeros.dtype, device=zeros.device)
    reached = sums.scatter_add_(1, bins, weights).cumsum(1)
    chosen = (reached < half[:, None]).sum(1, keepdim=True).clamp_(max=BINS - 1)
    before = torch.where(chosen > 0, reached.gather(1, (chosen - 1).clamp_(min=0)), 0.0).squeeze(1)

    inside = bins == chosen
    if len(zeros) == 1:
        return _median(zeros[inside][None], weights[inside][None], half, before)
    counts = inside.sum(1)
    item = inside.byte().topk(int(counts.max()), dim=1).indices
    return _median(zeros.gather(1, item), weights.gather(1, item) * inside.gather(1, item), half, before)


def _median(
    zeros: Float[Tensor, "batch items"],
    weights: Float[Tensor, "batch items"],
    half: Float[Tensor, " batch"],
    before: Float[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """The lowest of the zeros up to which half of all weights lie, of which ``before`` lie below them all."""
    zeros, order = torch.where(weights > 0, zeros, torch.inf).sort(dim=1)
    below = before[:, None] + weights.gather(1, order).cumsum(1) < half[:, None]
    # Rounding may leave the last sum below the half.
    last = (zeros.isfinite().sum(1, keepdim=True) - 1).clamp_(min=0)
    median = zeros.gather(1, torch.minimum(below.sum(1, keepdim=True), last)).squeeze(1)
    return torch.where(median.isfinite(), median, 0.0)
