"""DeepH-E3's LayerNorm: statistics over all items of a graph."""

import torch
from e3nn.o3 import Irreps
from jaxtyping import Float, Int
from torch import Tensor, nn

from tracegrad.nn.edge_frame import EdgeFrame
from tracegrad.nn.irreps_linear import SCALAR
from tracegrad.nn.precision import full_precision

EPS = 1e-5


class GraphNorm(nn.Module):
    """Subtract the mean over items and channels of a graph, divide scalars by their deviation, scale channels.

    The mean is taken for each irrep and component, of all degrees; only degree 0 is divided, by rms + 1e-5. A bias
    is added to 0e. The mean of l > 0 is a vector of the global frame; features that are given in the frames of their
    edges are therefore turned for the mean, and the mean is turned back.

    Args:
        irreps: each irrep once.
    """

    def __init__(self, irreps: Irreps):
        super().__init__()
        self.irreps = irreps
        self.weights = nn.ParameterList([torch.ones(mul) for mul, _ in irreps])
        self.bias = nn.Parameter(torch.zeros(sum(mul for mul, ir in irreps if ir == SCALAR)))

    @full_precision
    def forward(
        self,
        x: list[Float[Tensor, "n _m _c"]],
        batch: Int[Tensor, " n"],
        counts: Float[Tensor, " graphs"],
        frame: EdgeFrame | None = None,
    ) -> list[Float[Tensor, "n _m _c"]]:
        """Normalised features.

        Args:
            x: one tensor for each irrep.
            batch: graph of each item.
            counts: items of each graph.
            frame: frames of the items, where the features are given in them.
        """
        out = []
        for part, weight, (_, ir) in zip(x, self.weights, self.irreps, strict=True):
            mean = part.mean(2, keepdim=True)  # [n, m, 1]
            if frame is not None:
                mean = frame.to_global(mean, ir)
            mean = self._over_graph(mean, batch, counts)
            if frame is not None:
                mean = frame.to_local(mean, ir)
            y = part - mean
            if ir.l == 0:
                variance = self._over_graph(y.square().mean(2, keepdim=True), batch, counts)
                # Where all entries are equal the deviation and its gradient are zero.
                positive = variance > 0
                deviation = torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), 0.0)
                y = y / (deviation + EPS)
            y = y * weight
            out.append(y + self.bias if ir == SCALAR else y)
        return out

    @staticmethod
    def _over_graph(
        values: Float[Tensor, "n m 1"], batch: Int[Tensor, " n"], counts: Float[Tensor, " graphs"]
    ) -> Float[Tensor, "n m 1"]:
        """Mean over the items of each graph, given back to the items."""
        if len(counts) == 1:
            return values.mean(0, keepdim=True).expand_as(values)
        sums = values.new_zeros(len(counts), *values.shape[1:]).index_add(0, batch, values)
        return (sums / counts[:, None, None]).index_select(0, batch)
