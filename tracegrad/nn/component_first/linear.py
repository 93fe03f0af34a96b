"""Linear maps between the channels of component-first features."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tracegrad.ops.degree_linear import degree_linear


class EquivariantLinear(nn.Module):
    """One matrix per degree, x_l W_l / sqrt(C_in), and a bias on degree 0 only.

    Weights start standard normal, biases at zero (as in e3nn).
    """

    def __init__(self, lmax: int, c_in: int, c_out: int, *, bias: bool = True):
        super().__init__()
        self.scale = 1 / math.sqrt(c_in)
        self.weight = nn.Parameter(torch.randn(lmax + 1, c_in, c_out))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None

    def forward(self, x: Float[Tensor, "m n c_in"]) -> Float[Tensor, "m n c_out"]:
        return degree_linear(x, self.weight, self.bias, self.scale)
