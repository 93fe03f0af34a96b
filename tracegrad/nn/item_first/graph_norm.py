"""The layer norm of DeepH-E3, with statistics over all items of a graph.

Features are item-first, ``x[irrep][item, m, channel]``.
"""

from collections.abc import Sequence

import torch
from e3nn.o3 import Irreps
from jaxtyping import Float, Int
from torch import Tensor, nn

from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.nn.item_first.irreps_linear import SCALAR
from tracegrad.numerics.precision import full_precision
from tracegrad.ops.graph_norm.graph_norm import graph_norm


class GraphNorm(nn.Module):
    """Subtract the mean over items and channels of a graph, divide scalars by their deviation, scale channels.

    Each component of each irrep has its mean; only irreps of degree 0 are divided, by rms + 1e-5. A bias is added to
    0e. The mean of l > 0 is a vector in the global frame: features in the frames of their edges are rotated into it
    for the mean, and the mean is rotated back.

    Args:
        irreps: each irrep once.
    """

    def __init__(self, irreps: Irreps):
        super().__init__()
        self.irreps = irreps
        # torch.compile does not look through irreps, so that forward uses their degrees and parities.
        self.kinds = [(ir.l, ir.p) for _, ir in irreps]
        self.weights = nn.ParameterList([torch.ones(mul) for mul, _ in irreps])
        self.bias = nn.Parameter(torch.zeros(sum(mul for mul, ir in irreps if ir == SCALAR)))

    @full_precision
    def forward(
        self,
        x: list[Float[Tensor, "n _m _c"]],
        batch: Int[Tensor, " n"],
        counts: Float[Tensor, " graphs"],
        frame: EdgeFrame | None = None,
        plus: Sequence[Float[Tensor, "n _m _c"] | None] | None = None,
    ) -> list[Float[Tensor, "n _m _c"]]:
        """Normalised features.

        Args:
            x: one tensor for each irrep.
            batch: graph of each item.
            counts: items of each graph.
            frame: frames of the items if the features are in these frames, None if in the global frame.
            plus: for each irrep a feature that is added to the result, or None.
        """
        added = [None] * len(x) if plus is None else list(plus)
        biases = [self.bias if kind == (0, 1) else None for kind in self.kinds]
        rotations = [None if frame is None or kind[0] == 0 else frame.rotation(*kind) for kind in self.kinds]
        return graph_norm(x, list(self.weights), biases, added, rotations, batch, counts)
