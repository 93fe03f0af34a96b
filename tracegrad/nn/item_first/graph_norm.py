"""DeepH-E3's LayerNorm: statistics over all items of a graph."""

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

EPS = 1e-5
Average = Callable[[Float[Tensor, "n m 1"]], Float[Tensor, "n m 1"]]


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
        plus: Sequence[Float[Tensor, "n _m _c"] | None] | None = None,
    ) -> list[Float[Tensor, "n _m _c"]]:
        """Normalised features.

        Args:
            x: one tensor for each irrep.
            batch: graph of each item.
            counts: items of each graph.
            frame: frames of the items, where the features are given in them.
            plus: added to the result, None where nothing is.
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
        """About their mean, in units of their deviation."""
        y = x - average(x.mean(2, keepdim=True))
        variance = average(y.square().mean(2, keepdim=True))
        # Where all entries are equal the deviation and its gradient are zero.
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
        """The mean over the items of each graph in the frame of each of them."""
        if frame is None:
            return cls._over_graph(means, batch, counts)
        return frame.to_local(cls._over_graph(frame.to_global(means, ir), batch, counts), ir)

    @staticmethod
    def _over_graph(
        values: Float[Tensor, "n m 1"], batch: Int[Tensor, " n"], counts: Float[Tensor, " graphs"]
    ) -> Float[Tensor, "n m 1"]:
        """Mean over the items of each graph, given back to the items."""
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
    """The plain form of `centred`."""
    y = (x - average(x.mean(2, keepdim=True))) * weight
    return y if plus is None else y + plus
