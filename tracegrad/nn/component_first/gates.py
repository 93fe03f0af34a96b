"""Gated activation of equivariant features by their invariants."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tracegrad.nn.component_first.features import channel_norms, degree_sizes


class NormGate(nn.Module):
    """[g_0, g_1 x_1, ..., g_L x_L] with g = MLP([x_0, |x_1|, ..., |x_L|]).

    Scalars are replaced by the output of the MLP; the other degrees are multiplied by it, channel by channel.
    """

    def __init__(self, lmax: int, channels: int):
        super().__init__()
        self.lmax = lmax
        self.channels = channels
        width = (lmax + 1) * channels
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        degrees = torch.repeat_interleave(torch.arange(lmax), torch.tensor(degree_sizes(lmax)[1:]))
        self.register_buffer("gate_of_component", degrees, persistent=False)

    def forward(self, x: Float[Tensor, "m n c"]) -> Float[Tensor, "m n c"]:
        gates = self.mlp(channel_norms(x, self.lmax)).to(x.dtype)
        gates = gates.view(x.shape[1], self.lmax + 1, self.channels).transpose(0, 1)
        scaled = x[1:] * gates[1:].index_select(0, self.gate_of_component)
        return torch.cat([gates[:1], scaled])
