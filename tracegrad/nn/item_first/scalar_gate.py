"""The gate of scalars: a non-linearity of features that keeps all rotations exactly."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from tracegrad.numerics.precision import full_precision


class ScalarGate(nn.Module):
    """silu(x) for l = 0; each channel of l > 0 times the sigmoid of a scalar of its own (stated for EquiformerV2).

    Args:
        channels: of each degree 0 .. L.

    Attributes:
        scalars: number of additional scalars, the gates.
    """

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        self.channels = list(channels[1:])
        self.scalars = sum(self.channels)

    @full_precision
    def forward(
        self, x: list[Float[Tensor, "n _m _c"]], scalars: Float[Tensor, "n scalars"]
    ) -> list[Float[Tensor, "n _m _c"]]:
        gates = torch.sigmoid(scalars)[:, None].split(self.channels, dim=2)
        return [silu(x[0]), *(part * gate for part, gate in zip(x[1:], gates, strict=True))]
