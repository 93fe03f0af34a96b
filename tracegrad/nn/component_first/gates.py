"""Gated activation of equivariant features by their invariants."""

from jaxtyping import Float
from torch import Tensor, nn

from tracegrad.ops.norm_gate import channel_norms, gated


class NormGate(nn.Module):
    """[g_0, g_1 x_1, ..., g_L x_L] with g = MLP([x_0, |x_1|, ..., |x_L|]).

    Scalars are replaced by the output of the MLP; the other degrees are multiplied by it, channel by channel.
    """

    def __init__(self, lmax: int, channels: int):
        super().__init__()
        width = (lmax + 1) * channels
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Float[Tensor, "m n c"]) -> Float[Tensor, "m n c"]:
        return gated(x, self.mlp(channel_norms(x)))
