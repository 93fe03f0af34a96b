"""Radial functions of interatomic distances."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from tracegrad.numerics.constants import Constant

LEAST_EXPONENT = -80.0  # exp is 2e-35 there; below, denormal results would make it ten times slower


class ExponentialBernstein(nn.Module):
    """Exponential Bernstein polynomials with a smooth cutoff, as in PhiSNet and QHNet.

    b_v(r) = f_cut(r) binom(K-1, v) exp(-a r)^(K-1-v) (1 - exp(-a r))^v for v = 0 .. K - 1, with a trainable decay
    a > 0 (initially 0.5 per angstrom) and f_cut(r) = exp(-r^2 / ((c - r)(c + r))) inside the cutoff c, 0 outside.

    Args:
        count: number K of functions.
        cutoff: c in angstrom.
    """

    def __init__(self, count: int, cutoff: float):
        super().__init__()
        self.cutoff = cutoff
        self.v = Constant(torch.arange(count))
        binomials = [math.log(math.comb(count - 1, k)) for k in range(count)]
        self.log_binomial = Constant(torch.tensor(binomials, dtype=torch.float64))
        self.alpha = nn.Parameter(torch.tensor(math.log(math.expm1(0.5))))

    def forward(self, r: Float[Tensor, " n"]) -> Float[Tensor, "n count"]:
        decay = (softplus(self.alpha) * r)[:, None]
        v = self.v(r)
        log_b = self.log_binomial(r) - (len(v) - 1 - v) * decay + v * torch.log(-torch.expm1(-decay))
        inside = r < self.cutoff
        safe = torch.where(inside, r, 0.0)
        f_cut = torch.exp(-safe.square() / ((self.cutoff - safe) * (self.cutoff + safe)))
        return torch.where(inside, f_cut, 0.0)[:, None] * log_b.exp()


class GaussianBasis(nn.Module):
    """exp(-(r - mu)^2 / (2 w^2)) with centres mu from 0 to ``end`` at equal spacing w (DeepH-E3).

    Args:
        count: number of functions, at least 2.
        end: last centre, angstrom.
    """

    def __init__(self, count: int, end: float):
        super().__init__()
        self.width = end / (count - 1)
        self.centres = Constant(torch.linspace(0, end, count, dtype=torch.float64))

    def forward(self, r: Float[Tensor, " n"]) -> Float[Tensor, "n count"]:
        exponent = -0.5 * ((r[:, None] - self.centres(r)) / self.width).square()
        return torch.exp(exponent.clamp(min=LEAST_EXPONENT))
