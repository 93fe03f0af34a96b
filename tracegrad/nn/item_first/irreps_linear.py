"""Linear maps between the channels of features whose irreps have different numbers of channels.

Features are item-first: for each irrep, each once, one tensor x[i, l + m, c] of shape [items, 2l + 1, channels].
Weights start standard normal and are divided by the square root of the number of inputs; biases start at zero (as in
e3nn).
"""

import math

import torch
from e3nn.o3 import Irrep, Irreps
from jaxtyping import Float, Int
from torch import Tensor, nn

from tracegrad.numerics.precision import full_precision

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
        scalars = [mul for mul, ir in irreps_out if ir == SCALAR]
        self.bias = nn.Parameter(torch.zeros(scalars[0])) if bias and scalars else None

    @full_precision
    def forward(
        self, x: list[Float[Tensor, "n _m _c"]], scale: float = 1.0
    ) -> list[Float[Tensor, "n _m _w"]]:
        """The linear map; ``scale`` multiplies its weights, not its bias."""
        weights = iter(self.weights)
        out = []
        for source, (mul, ir) in zip(self.sources, self.irreps_out, strict=True):
            if source is None:
                out.append(x[0].new_zeros(len(x[0]), ir.dim, mul))
                continue
            weight = next(weights)
            y = x[source] @ (weight * (scale / math.sqrt(len(weight))))
            out.append(y + self.bias if ir == SCALAR and self.bias is not None else y)
        return out


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
        self, x: list[Float[Tensor, "n _m _c"]], kinds: "ItemKinds"
    ) -> list[Float[Tensor, "n _m _w"]]:
        if kinds.order is None:
            return self.linears[0](x, self.scale)
        sorted_x = [part.index_select(0, kinds.order).split(kinds.counts) for part in x]
        results = [
            linear([part[k] for part in sorted_x], self.scale) for k, linear in enumerate(self.linears)
        ]
        return [torch.cat(parts).index_select(0, kinds.back) for parts in zip(*results, strict=True)]


class ItemKinds:
    """Items grouped by their kind, computed once for all layers.

    Args:
        kind: kind of each item, within 0 .. count - 1.
        count: number of kinds.

    Attributes:
        order: the items sorted by kind; None if there is one kind only.
        back: the inverse permutation of ``order``.
        counts: number of items of each kind.
    """

    def __init__(self, kind: Int[Tensor, " n"], count: int):
        self.order: Tensor | None = None
        if count > 1:
            self.order = torch.argsort(kind, stable=True)
            self.back = torch.argsort(self.order)
            self.counts = torch.bincount(kind, minlength=count).tolist()
