"""Linear maps in the frame of an edge that keep only rotations about the edge (SO(2)), after eSCN and EquiformerV2.

In that frame (`edge_frame`) a rotation about the edge mixes the components m and -m of every degree in the same way,
so that the components of one |m| of all degrees and channels may be mixed freely:

    y_0 = W_0 x_0 + b        y_m = Wr x_m - Wi x_-m        y_-m = Wr x_-m + Wi x_m        m = 1 .. M

A tensor product with the harmonics of the edge is the special case whose weights are Clebsch-Gordan coefficients
(`edge_product`). Wi mixes natural with unnatural parity: rotations are kept, reflections are not.

Features have one irrep for each degree, and stand in rows by |m| (`tracegrad.ops.edge_rows`), which have the
components -m and m in this order.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tracegrad.nn.item_first.edge_product import row_slots
from tracegrad.numerics.precision import full_precision
from tracegrad.ops.edge_rows.layout import RowSlot


def so2_slots(
    channels: Sequence[int], mmax: int
) -> tuple[list[tuple[RowSlot | None, ...]], list[tuple[int, int]]]:
    """Slots of each degree in the rows, and the shapes (1 or 2, columns) of the rows m = 0 .. ``mmax``.

    The degrees of a row stand side by side in ascending order.
    """
    degrees = range(len(channels))
    return row_slots([(m, tuple(degrees[m:])) for m in range(mmax + 1)], degrees, channels)


class SO2Linear(nn.Module):
    """The linear map of all degrees (stated for EquiformerV2).

    All weights start uniform in +-1/sqrt(inputs), those of m > 0 smaller by sqrt 2; the bias starts at zero.

    Args:
        inputs, outputs: channels of each degree 0 .. L.
        mmax: M, highest |m| that is mapped, at most L.
        scalars: additional outputs of m = 0.
    """

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int], mmax: int, scalars: int = 0):
        super().__init__()
        sources, targets = ([sum(side[m:]) for m in range(mmax + 1)] for side in (inputs, outputs))
        self.middle = nn.Linear(sources[0], targets[0] + scalars)
        nn.init.zeros_(self.middle.bias)
        # For each m > 0 [Wr | Wi], each with a row for each input and a column for each output.
        self.pairs = nn.ParameterList(
            [torch.empty(u, 2 * w) for u, w in zip(sources[1:], targets[1:], strict=True)]
        )
        for pair in self.pairs:
            bound = math.sqrt(1 / (2 * len(pair)))
            nn.init.uniform_(pair, -bound, bound)
        self.split = [targets[0], scalars]

    @full_precision
    def forward(
        self, rows: list[Float[Tensor, "edges _p _u"]]
    ) -> tuple[list[Float[Tensor, "edges _p _w"]], Float[Tensor, "edges scalars"]]:
        """The rows of the outputs, and the additional outputs of m = 0.

        Args:
            rows: one tensor for each |m| = 0 .. M: [edges, 1, u] for m = 0, otherwise [edges, 2, u] for -m and m.
        """
        middle, scalars = self.middle(rows[0]).split(self.split, dim=2)
        mapped = [middle]
        for x, pair in zip(rows[1:], self.pairs, strict=True):
            real, imaginary = (x @ pair).chunk(2, dim=2)
            minus, plus = imaginary.unbind(1)
            mapped.append(real + torch.stack([plus, -minus], dim=1))
        return mapped, scalars[:, 0]
