"""Radial functions of interatomic distances."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tracegrad.numerics.constants import Constant
from tracegrad.ops.exponential_bernstein import exponential_bernstein

LEAST_EXPONENT = -80.0  # exp is 2e-35 there; below, denormal results would make it ten times slower


class ExponentialBernstein(nn.Module):
    """Exponential Bernstein polynomials with a smooth cutoff, as in PhiSNet and QHNet.

    The formula stands in `tracegrad.ops.exponential_bernstein`; its decay a > 0 is trainable, initially 0.5 per
    angstrom.

    Args:
        count: number K of functions.
        cutoff: c in angstrom.
    """

    def __init__(self, count: int, cutoff: float):
        super().__init__()
        self.count, self.cutoff = count, cutoff
        self.alpha = nn.Parameter(torch.tensor(math.log(math.expm1(0.5))))

    def forward(self, r: Float[Tensor, " n"]) -> Float[Tensor, "n count"]:
        return exponential_bernstein(r, self.alpha, self.cutoff, self.count)


class GaussianBasis(nn.Module):
    """exp(-(r - mu)^2 / (2 w^2)) with centres mu from 0 to ``end`` at equal spacing.

    Args:
        count: number of functions, at least 2.
        end: last centre, angstrom.
        width: w, angstrom; None: the spacing (DeepH-E3).
    """

    def __init__(self, count: int, end: float, width: float | None = None):
        super().__init__()
        self.width = end / (count - 1) if width is None else width
        self.centres = Constant(torch.linspace(0, end, count, dtype=torch.float64))

    def forward(self, r: Float[Tensor, " n"]) -> Float[Tensor, "n count"]:
        exponent = -0.5 * ((r[:, None] - self.centres(r)) / self.width).square()
        return torch.exp(exponent.clamp(min=LEAST_EXPONENT))
