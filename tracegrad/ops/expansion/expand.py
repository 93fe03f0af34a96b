"""The operator of the expansion of QHNet: from component-first features to blocks over a union of shells.

For each path (l, l1, l2):

    block[(u, i), (v, j)] += sum_k C^{l1 l2 l}_{ijk} (sum_w W_{wuv} x_{lk,w} + b_{uv}) / channels

where u, v number the shells of degrees l1, l2, and i, j, k are components. The bias exists for l = 0 only. W and b
are rows of tables: items of the same kind share them. The kernels read them there; the plain form gathers them for
each item.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracegrad.numerics.precision import full_precision
from tracegrad.ops.expansion import cpu, gpu
from tracegrad.ops.expansion.shells import ExpansionShells
from tracegrad.ops.features import split_degrees
from tracegrad.ops.operator import Operator
from tracegrad.ops.shapes import check_shapes, size


@full_precision
def expand_blocks(
    x: Float[Tensor, "m n c"],
    weights: Float[Tensor, "kinds weights"],
    bias: Float[Tensor, "kinds bias"],
    kind: Int[Tensor, " n"],
    key: str,
) -> Float[Tensor, "n dim dim"]:
    """The blocks of all items; degrees that no pair of shells couples to are ignored.

    Args:
        x: features.
        weights, bias: of each kind, flat, one path after another.
        kind: of each item; on a CPU kinds out of range raise an error, on a GPU they give NaN.
        key: of the `ExpansionShells`.
    """
    return EXPAND_BLOCKS(x, weights, bias, kind, key)


def _plain(x: Tensor, weights: Tensor, bias: Tensor, kind: Tensor, key: str) -> Tensor:
    shells = ExpansionShells.named(key)
    items, channels = x.shape[1:]
    ordered = weights.index_select(1, shells.order.to(weights.device)).index_select(0, kind)
    matrices = ordered.view(items, shells.mixtures, channels).split(shells.multiplicities, dim=1)
    mixed = [
        matrix @ part.permute(1, 2, 0)  # [items, mixtures, components]
        for matrix, part in zip(matrices, split_degrees(x, shells.lmax), strict=True)
    ]
    mixed[0] = mixed[0] + bias.index_select(0, kind)[..., None]
    blocks = torch.cat([part.flatten(1) for part in mixed], dim=1) @ shells.table(x)
    return blocks.view(items, shells.dim, shells.dim)


def _outputs(x: Tensor, weights: Tensor, bias: Tensor, kind: Tensor, key: str) -> Tensor:
    dim = ExpansionShells.named(key).dim
    return x.new_empty(x.shape[1], dim, dim)


def _check(x: Tensor, weights: Tensor, bias: Tensor, kind: Tensor, key: str) -> None:
    shells = ExpansionShells.named(key)
    kinds, items = size(weights, 0), size(x, 1)
    check_shapes(
        "expansion into blocks",
        x=(x, ((shells.lmax + 1) ** 2, items, shells.channels)),
        weights=(weights, (kinds, shells.channels * shells.mixtures)),
        bias=(bias, (kinds, shells.multiplicities[0])),
        kind_index=(kind, (items,)),
    )


EXPAND_BLOCKS = Operator(
    "expand_blocks",
    "Tensor x, Tensor weights, Tensor bias, Tensor kind, str key",
    _plain,
    _outputs,
    check=_check,
)
EXPAND_BLOCKS.register("CPU", cpu.expand, cpu.expand_gradient)
EXPAND_BLOCKS.register("CUDA", gpu.expand, gpu.expand_gradient)
