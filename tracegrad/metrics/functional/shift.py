"""The shift that makes absolute deviations smallest."""

import torch
from jaxtyping import Float
from torch import Tensor

FEW = 64
# Halvings of the bracket, after which the numbers of float64 in it are exhausted.
HALVINGS = 64


def least_absolute_shift(
    difference: Float[Tensor, "batch items"], direction: Float[Tensor, "batch items"]
) -> Float[Tensor, " batch"]:
    """A mu of each row that minimises sum_i |difference_i + mu direction_i|, exactly; float64.

    The sum is convex and linear between the zeros t_i of its terms, so that the weighted median of the t_i with the
    weights |direction_i| is a minimum. A bracket around the shift of least squares is widened until it holds the
    median, and halved until few t_i are left, which are then sorted.
    """
    weights = direction.abs()
    zeros = torch.where(weights > 0, -difference / direction, torch.inf)
    half = weights.sum(1) / 2

    def below(mu: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        return torch.where(zeros <= mu[:, None], weights, 0.0).sum(1)

    square = direction.square().sum(1)
    centre = torch.where(square > 0, -(difference * direction).sum(1) / square, 0.0)
    deviation = (difference + centre[:, None] * direction).abs().sum(1)
    # |mu - centre| sum |s| - deviation <= sum |d + mu s| <= deviation, so four widenings reach farther than needed.
    radius = torch.where(half > 0, deviation / half, 0.0) / 64
    for _ in range(4):
        low, high = centre - radius, centre + radius
        outside = (below(low) >= half) | (below(high) < half)
        if not outside.any():
            break
        radius = torch.where(outside, 4 * radius, radius)
    for _ in range(HALVINGS):
        inside = (zeros > low[:, None]) & (zeros <= high[:, None])
        if inside.sum(1).max() <= FEW:
            break
        middle = (low + high) / 2
        right = below(middle) >= half
        low, high = torch.where(right, low, middle), torch.where(right, middle, high)
    few = min(FEW, zeros.shape[1])
    candidates, items = torch.where(inside, zeros, torch.inf).topk(few, dim=1, largest=False, sorted=True)
    reached = below(low)[:, None] + weights.gather(1, items).cumsum(1) >= half[:, None]
    median = candidates.gather(1, reached.long().argmax(1, keepdim=True)).squeeze(1)
    # Rounding, or more equal zeros than candidates: any number of the bracket is the minimum to the last digits.
    return torch.where(median.isfinite() & reached.any(1), median, (low + high) / 2)
