"""A network on invariants from the tensors of its stages: its value z, its gradient, and the derivatives of both.

A stage is a linear map, then optionally LayerNorm and SiLU. With the result h_i of each linear map and with the
Jacobian J_i of what follows it, the gradient of sum_c z_c is

    g_i = J_i^T g_i+1 W_i,  from the last stage, where g_i+1 is 1, to the first.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import silu

from tracegrad.ops.matrix_product import linear, product
from tracegrad.ops.normed_silu.normed_silu import NORMED_SILU, PULLED_SILU, normed_silu, pulled_silu


class StageTensors(NamedTuple):
    """Tensors of a stage: of the linear map and of the LayerNorm, where it has them.

    Without a LayerNorm ``activation`` says whether there is a SiLU; with one there always is.
    """

    weight: Float[Tensor, "c_out c_in"]
    bias: Float[Tensor, " c_out"] | None
    norm_weight: Float[Tensor, " c_out"] | None
    norm_bias: Float[Tensor, " c_out"] | None
    eps: float
    activation: bool = False


def value(x: Float[Tensor, "n c_in"], stages: Sequence[StageTensors]) -> Float[Tensor, "n c_out"]:
    """z."""
    return _values(x, stages)[0]


def value_and_gradient(
    x: Float[Tensor, "n c_in"], stages: Sequence[StageTensors]
) -> tuple[Float[Tensor, "n c_out"], Float[Tensor, "n c_in"]]:
    """z and d(sum_c z_c)/dx. Both can be differentiated again by autograd."""
    z, _, mapped = _values(x, stages)
    return z, _gradients(mapped, stages)[0]


def derivatives(
    x: Float[Tensor, "n c_in"],
    stages: Sequence[StageTensors],
    of_z: Float[Tensor, "n c_out"],
    of_gradient: Float[Tensor, "n c_in"],
    needed: Sequence[bool],
) -> tuple[Float[Tensor, "n c_in"], Float[Tensor, "n c_in"], list[Tensor | None]]:
    """The gradient of `value_and_gradient`, and what that takes from its own forward pass.

    Args:
        x, stages: its arguments; stages have a LayerNorm or no activation.
        of_z, of_gradient: gradients of its results.
        needed: for each of the first four tensors of each stage whether its gradient is needed.

    Returns:
        d(sum_c z_c)/dx, the gradient of x, and those of the tensors of all stages, None where it is not needed.
    """
    _, inputs, mapped = _values(x, stages)
    gradient, before, pulled = _gradients(mapped, stages)
    flags = [needed[4 * k : 4 * k + 4] for k in range(len(stages))]
    of_tensors: list[list[Tensor | None]] = []
    of_mapped: list[Tensor | None] = []
    g = of_gradient
    for stage, h, g_after, q, flag in zip(stages, mapped, before, pulled, flags, strict=True):
        of_weight = product(q.T, g) if flag[0] else None
        g = linear(g, stage.weight)
        if stage.norm_weight is None:
            of_mapped.append(None)
            of_tensors.append([of_weight, None, None, None])
            continue
        of_h, of_w, of_b, *of_g = PULLED_SILU.gradient(
            [g], h, stage.norm_weight, stage.norm_bias, g_after, stage.eps, [True] * 3 + [g_after is not None]
        )
        of_mapped.append(of_h)
        of_tensors.append([of_weight, None, of_w, of_b])
        g = of_g[0] if of_g else g
    g = of_z
    for k in reversed(range(len(stages))):
        stage, before_h, sums = stages[k], of_mapped[k], of_tensors[k]
        if stage.norm_weight is not None:
            g, *of_norm = NORMED_SILU.gradient(
                [g], mapped[k], stage.norm_weight, stage.norm_bias, stage.eps, [True] * 3
            )
            g, sums[2:] = g + before_h, [a + b for a, b in zip(sums[2:], of_norm, strict=True)]
        if flags[k][0]:
            also = product(g.T, inputs[k])
            sums[0] = also if sums[0] is None else sums[0] + also
        sums[1] = g.sum(0) if flags[k][1] else None
        g = product(g, stage.weight)
    flat = [x for parts in of_tensors for x in parts]
    return gradient, g, [x if flag else None for x, flag in zip(flat, needed, strict=True)]


def _values(x: Tensor, stages: Sequence[StageTensors]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """z, and the inputs and results of all linear maps."""
    inputs, mapped = [], []
    for stage in stages:
        inputs.append(x)
        x = linear(x, stage.weight, stage.bias)
        mapped.append(x)
        if stage.norm_weight is not None and stage.norm_bias is not None:
            x = normed_silu(x, stage.norm_weight, stage.norm_bias, stage.eps)
        elif stage.activation:
            x = silu(x)
    return x, inputs, mapped


def _gradients(
    mapped: Sequence[Tensor], stages: Sequence[StageTensors]
) -> tuple[Tensor, list[Tensor | None], list[Tensor]]:
    """d(sum_c z_c)/dx; for each stage g_i+1, None for the 1 of the last stage, and J_i^T g_i+1."""
    g: Tensor | None = None
    before: list[Tensor | None] = []
    pulled: list[Tensor] = []
    for stage, h in zip(reversed(stages), reversed(mapped), strict=True):
        before.append(g)
        if stage.norm_weight is not None and stage.norm_bias is not None:
            q = pulled_silu(h, stage.norm_weight, stage.norm_bias, g, stage.eps)
        elif stage.activation:
            sigmoid = torch.sigmoid(h)
            slope = sigmoid * (1 + h * (1 - sigmoid))
            q = slope if g is None else g * slope
        else:
            q = torch.ones_like(h) if g is None else g
        pulled.append(q)
        g = product(q, stage.weight)
    assert g is not None
    return g, before[::-1], pulled[::-1]
