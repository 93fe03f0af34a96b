"""Small networks whose weights are divided by the square roots of their widths."""

import math
from functools import lru_cache

import torch
from e3nn.math import normalize2mom
from jaxtyping import Float
from torch import Tensor, nn

from tracegrad.ops.shifted_softplus import shifted_softplus


class ScaledMLP(nn.Module):
    """y = a phi(x W_0 / sqrt(width_in)) W_1 / sqrt(hidden) with the shifted softplus phi.

    The constant a makes the second moment of a phi(z) one for normal z. The parameters are those of the network of
    the same widths that e3nn calls FullyConnectedNet.
    """

    def __init__(self, width_in: int, hidden: int, width_out: int):
        super().__init__()
        self.layer0, self.layer1 = (
            nn.ParameterDict({"weight": nn.Parameter(torch.randn(a, b))})
            for a, b in ((width_in, hidden), (hidden, width_out))
        )
        self.factors = 1 / math.sqrt(width_in), _normalisation() / math.sqrt(hidden)

    def forward(self, x: Float[Tensor, "n width_in"]) -> Float[Tensor, "n width_out"]:
        return shifted_softplus(x @ self.layer0["weight"], *self.factors) @ self.layer1["weight"]


@lru_cache(maxsize=1)
def _normalisation() -> float:
    return float(normalize2mom(shifted_softplus).cst)
