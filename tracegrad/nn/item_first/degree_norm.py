"""The norm of EquiformerV2: each item by itself, the degree 0 apart from all others together."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tracegrad.numerics.precision import full_precision

EPS = 1e-5


class DegreeNorm(nn.Module):
    """LayerNorm of the scalars; all degrees l > 0 are divided by one number and scaled (stated for EquiformerV2).

    The number is sqrt(eps + s) with s the mean over l > 0 of the mean over channels of |x_lc|^2 / (2l + 1).

    Args:
        channels: of each degree 0 .. L.
    """

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        self.scalars = nn.LayerNorm(channels[0], EPS)
        self.weights = nn.ParameterList([torch.ones(count) for count in channels[1:]])

    @full_precision
    def forward(self, x: list[Float[Tensor, "n _m _c"]]) -> list[Float[Tensor, "n _m _c"]]:
        scalars = self.scalars(x[0])
        if len(x) == 1:
            return [scalars]
        squares = torch.stack([part.square().mean((1, 2)) for part in x[1:]])
        factor = torch.rsqrt(EPS + squares.mean(0))[:, None, None]
        return [scalars, *(part * factor * w for part, w in zip(x[1:], self.weights, strict=True))]
