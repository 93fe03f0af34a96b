"""Linear maps between the channels of equivariant features."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tracegrad.nn.features import split_degrees
from tracegrad.nn.precision import full_precision


class EquivariantLinear(nn.Module):
    """One matrix per degree, x_l W_l / sqrt(C_in), and a bias on degree 0 only.

    Weights start standard normal, biases at zero (as in e3nn).
    """

    def __init__(self, lmax: int, c_in: int, c_out: int, *, bias: bool = True):
        super().__init__()
        self.lmax = lmax
        self.scale = 1 / math.sqrt(c_in)
        self.weight = nn.Parameter(torch.randn(lmax + 1, c_in, c_out))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None

    @full_precision
    def forward(self, x: Float[Tensor, "m n c_in"]) -> Float[Tensor, "m n c_out"]:
        weight = self.weight * self.scale
        parts = [part @ w for part, w in zip(split_degrees(x, self.lmax), weight, strict=True)]
        if self.bias is not None:
            parts[0] = parts[0] + self.bias
        return torch.cat(parts)
