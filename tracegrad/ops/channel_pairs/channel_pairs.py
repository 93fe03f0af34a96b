"""The operators of all pairs of channels: x_ij = s <f_i, f_j> for i <= j, and the transpose of their Jacobian.

With a symmetric S, where S_ij = g_ij for i < j and S_ii = 2 g_ii, the pulled-back vector sum_p g_p dx_p/df is
v = s S f. The derivative of x is again such a v, and those of v are another v and the mixed products
s (<a_i, b_j> + <a_j, b_i>), so that the kernels are only two. Each is one pass over memory.

Features are lists of tensors f[m, item, channel], with any strides of m and item. The columns of x are the pairs of
all irreps, one irrep after another, each in the order of the upper triangle:

    (0, 0) (0, 1) .. (0, C-1)  (1, 1) .. (1, C-1)  ..  (C-1, C-1)
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.ops.channel_pairs import cpu, gpu
from tracegrad.ops.channel_pairs.layout import pair_counts, results_like
from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.operator import Operator

FeatureParts = list[Float[Tensor, "_m n _c"]]  # one tensor for each irrep


def channel_pairs(feature: FeatureParts, scales: Sequence[float]) -> Float[Tensor, "n pairs"]:
    """x_ij = s <f_i, f_j> for all irreps.

    Args:
        feature: one tensor for each irrep.
        scales: s of each irrep.
    """
    return CHANNEL_PAIRS(feature, scales)


def pulled_pairs(feature: FeatureParts, g: Float[Tensor, "n pairs"], scales: Sequence[float]) -> FeatureParts:
    """v = s S f of each irrep, with the strides of the feature where possible.

    Args:
        feature: f, one tensor for each irrep.
        g: what multiplies the derivatives of x.
        scales: s of each irrep.
    """
    return PULLED_PAIRS(feature, g, scales)


def _plain(feature: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    products = []
    for f, scale in zip(feature, scales, strict=True):
        gram = f.permute(1, 2, 0) @ f.transpose(0, 1)  # [n, i, j]
        rows, columns = torch.triu_indices(f.shape[2], f.shape[2], device=f.device)
        products.append(gram[:, rows, columns] * scale)
    return torch.cat(products, dim=1)


def _plain_pulled(feature: Sequence[Tensor], g: Tensor, scales: Sequence[float]) -> list[Tensor]:
    v = []
    parts = g.split(pair_counts(feature), dim=1)
    for f, part, scale in zip(feature, parts, scales, strict=True):
        mul = f.shape[2]
        rows, columns = torch.triu_indices(mul, mul, device=f.device)
        index = rows.new_empty(mul, mul)
        index[rows, columns] = index[columns, rows] = torch.arange(len(rows), device=f.device)
        matrix = (part * scale).index_select(1, index.flatten()).view(-1, mul, mul)
        matrix = matrix + torch.diag_embed(matrix.diagonal(dim1=1, dim2=2))  # d<f_i, f_i> = 2 <f_i, df_i>
        v.append((f.transpose(0, 1) @ matrix).transpose(0, 1))
    return v


def _check(feature: Sequence[Tensor], *others: Any) -> None:
    *g, scales = others
    tensors = [*feature, *g]
    rank = all(f.ndim == 3 for f in feature)
    items = feature[0].shape[1] if rank else 0
    if (
        not rank
        or any(f.shape[1] != items or not len(f) for f in feature)
        or any(x.shape != (items, sum(pair_counts(feature))) for x in g)
        or len(scales) != len(feature)
        or len({x.dtype for x in tensors}) > 1
    ):
        given = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in tensors)
        raise OperatorArgumentError(
            f"pairs of channels: tensors {given} and {len(scales)} factors; (m, n, c) for each factor and (n, pairs) "
            "with c (c + 1) / 2 pairs of each, of one dtype, are needed"
        )


def _outputs(feature: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    return feature[0].new_empty(feature[0].shape[1], sum(pair_counts(feature)))


def _pulled_outputs(feature: Sequence[Tensor], g: Tensor, scales: Sequence[float]) -> list[Tensor]:
    return results_like(feature)


CHANNEL_PAIRS = Operator("channel_pairs", "Tensor[] feature, float[] scales", _plain, _outputs, check=_check)
PULLED_PAIRS = Operator(
    "pulled_pairs",
    "Tensor[] feature, Tensor g, float[] scales",
    _plain_pulled,
    _pulled_outputs,
    check=_check,
    results=None,
)
CHANNEL_PAIRS.register("CPU", cpu.channel_pairs, cpu.channel_pairs_gradient)
PULLED_PAIRS.register("CPU", cpu.pulled_pairs, cpu.pulled_pairs_gradient)
CHANNEL_PAIRS.register("CUDA", gpu.channel_pairs, gpu.channel_pairs_gradient)
PULLED_PAIRS.register("CUDA", gpu.pulled_pairs, gpu.pulled_pairs_gradient)
