"""The layer norm of DeepH-E3, with statistics over all items of a graph.

Features are item-first, ``x[irrep][item, m, channel]``.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from e3nn.o3 import Irrep, Irreps
from jaxtyping import Float, Int
from torch import Tensor, nn

from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.nn.item_first.graph_norm_kernel import centred
from tracegrad.nn.item_first.irreps_linear import SCALAR
from tracegrad.numerics.precision import full_precision

EPS = 1e-5  # added to the deviation
# From the mean over the channels of each item to the mean over the items of its graph.
Average = Callable[[Float[Tensor, "n m 1"]], Float[Tensor, "n m 1"]]


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
        out = []
        added = [None] * len(x) if plus is None else plus
        for part, weight, (_, ir), other in zip(x, self.weights, self.irreps, added, strict=True):
            average = partial(self._average, ir, batch, counts, frame)
            if ir.l == 0:
                y = self._scalars(part, average) * weight
                y = y + self.bias if ir == SCALAR else y
                out.append(y if other is None else y + other)
                continue
            rotation = None if frame is None else frame.rotation(ir)
            plain = partial(_centred, average)
            out.append(centred(part, weight, other, rotation, batch, counts, plain))
        return out

    @staticmethod
    def _scalars(x: Float[Tensor, "n 1 c"], average: Average) -> Float[Tensor, "n 1 c"]:
        """Scalars minus their mean, divided by their deviation."""
        y = x - average(x.mean(2, keepdim=True))
        variance = average(y.square().mean(2, keepdim=True))
        # Where all numbers are equal, the deviation is zero; so is then its gradient, not 0/0.
        positive = variance > 0
        deviation = torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), 0.0)
        return y / (deviation + EPS)

    @classmethod
    def _average(
        cls,
        ir: Irrep,
        batch: Int[Tensor, " n"],
        counts: Float[Tensor, " graphs"],
        frame: EdgeFrame | None,
        means: Float[Tensor, "n m 1"],
    ) -> Float[Tensor, "n m 1"]:
        """For each item the mean over the items of its graph, in the frame of the item."""
        if frame is None:
            return cls._over_graph(means, batch, counts)
        return frame.to_local(cls._over_graph(frame.to_global(means, ir), batch, counts), ir)

    @staticmethod
    def _over_graph(
        values: Float[Tensor, "n m 1"], batch: Int[Tensor, " n"], counts: Float[Tensor, " graphs"]
    ) -> Float[Tensor, "n m 1"]:
        """For each item the mean over the items of its graph."""
        if len(counts) == 1:
            return values.mean(0, keepdim=True).expand_as(values)
        sums = values.new_zeros(len(counts), *values.shape[1:]).index_add(0, batch, values)
        return (sums / counts[:, None, None]).index_select(0, batch)


def _centred(
    average: Average,
    x: Float[Tensor, "n m c"],
    weight: Float[Tensor, " c"],
    plus: Float[Tensor, "n m c"] | None,
) -> Float[Tensor, "n m c"]:
    """`centred` in plain torch."""
    y = (x - average(x.mean(2, keepdim=True))) * weight
    return y if plus is None else y + plus
