"""Linear maps between the channels of features whose irreps have different numbers of channels.

Features are item-first: for each irrep, each once, one tensor x[i, l + m, c] of shape [items, 2l + 1, channels].
Weights start standard normal and are divided by the square root of the number of inputs; biases start at zero (as in
e3nn).
"""

import math
from collections.abc import Iterator, Sequence

import torch
from e3nn.o3 import Irrep, Irreps
from jaxtyping import Float, Int
from torch import Tensor, nn

from tracegrad.numerics.precision import full_precision
from tracegrad.ops.irreps_linear.irreps_linear import irreps_linear

SCALAR = Irrep(0, 1)


class IrrepsLinear(nn.Module):
    """One matrix for each irrep that input and output share, and a bias on 0e; other irreps of the output are zero.

    Args:
        irreps_in, irreps_out: each irrep once.
        bias: on the 0e of the output, if it has one.
    """

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, *, bias: bool):
        super().__init__()
        self.irreps_out = irreps_out
        positions = {ir: i for i, (_, ir) in enumerate(irreps_in)}
        self.sources = [positions.get(ir) for _, ir in irreps_out]
        self.weights = nn.ParameterList(
            [
                torch.randn(irreps_in[source].mul, mul)
                for source, (mul, _) in zip(self.sources, irreps_out, strict=True)
                if source is not None
            ]
        )
        # Components and channels, and whether there is a bias: torch.compile does not look through irreps.
        self.shapes = [(ir.dim, mul) for mul, ir in irreps_out]
        self.has_bias = [bias and ir == SCALAR for _, ir in irreps_out]
        scalars = [mul for mul, ir in irreps_out if ir == SCALAR]
        self.bias = nn.Parameter(torch.zeros(scalars[0])) if bias and scalars else None

    @full_precision
    def forward(
        self,
        x: list[Float[Tensor, "n _m _c"]],
        plus: Sequence[Float[Tensor, "n _m _w"] | None] | None = None,
    ) -> list[Float[Tensor, "n _m _w"]]:
        """The linear map of x, and ``plus`` for each irrep of the output where it is not None."""
        added: list[Tensor | None] = [None] * len(self.shapes) if plus is None else list(plus)
        return mapped(self, [self], x, added)


class KindLinear(nn.Module):
    """A separate linear map for each kind of item: the tensor product with the one-hot vector of the kind.

    Args:
        irreps_in, irreps_out: each irrep once.
        kinds: number of kinds.
    """

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, kinds: int):
        super().__init__()
        self.linears = nn.ModuleList([IrrepsLinear(irreps_in, irreps_out, bias=False) for _ in range(kinds)])
        self.scale = 1 / math.sqrt(kinds)

    @full_precision
    def forward(
        self, x: list[Float[Tensor, "n _m _c"]], kind: Int[Tensor, " n"]
    ) -> list[Float[Tensor, "n _m _w"]]:
        """The linear map of each item by the kind of the item."""
        linears = [linear for linear in self.linears if isinstance(linear, IrrepsLinear)]
        added: list[Tensor | None] = [None] * len(linears[0].shapes)
        return mapped(linears[0], linears, x, added, kind if len(linears) > 1 else None, self.scale)


def mapped(
    layout: IrrepsLinear,
    linears: Sequence[IrrepsLinear],
    x: list[Float[Tensor, "n _m _c"]],
    plus: list[Float[Tensor, "n _m _w"] | None],
    kind: Int[Tensor, " n"] | None = None,
    scale: float = 1.0,
) -> list[Float[Tensor, "n _m _w"]]:
    """The maps of one kind of items after another, which all have the irreps of ``layout``."""
    sources = [source for source in layout.sources if source is not None]
    mapped_to = [k for k, source in enumerate(layout.sources) if source is not None]
    made: Iterator[Tensor] = iter(())
    if sources:
        made = iter(
            irreps_linear(
                [x[source] for source in sources],
                [weight for linear in linears for weight in linear.weights],
                [layout.bias if layout.has_bias[k] else None for k in mapped_to],
                [plus[k] for k in mapped_to],
                kind,
                scale,
            )
        )
    out: list[Tensor] = []
    for source, shape, other in zip(layout.sources, layout.shapes, plus, strict=True):
        if source is not None:
            out.append(next(made))
        else:
            out.append(x[0].new_zeros(len(x[0]), *shape) if other is None else other)
    return out
