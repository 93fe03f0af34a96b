"""The operators y = silu(a) with a = w s + b, where s are the standardised rows of x, and J^T g with its Jacobian J.

These are the operations of a network on invariants between its matrix products: y in the forward direction, then
J^T g for the gradient of the network. With i the inverse deviation of a row, means over its channels, and silu' the
derivative of silu,

    J^T g = i (h - mean h - s mean(h s)),  h = w silu'(a) g.

J^T g is also the gradient of y. The gradient of <k, J^T g> = <g, J k> with respect to x has contributions through a
and s, and through i. Each of them is one pass over memory.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import layer_norm, silu

from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.normed_silu import cpu, gpu
from tracegrad.ops.operator import Operator


def normed_silu(
    x: Float[Tensor, "n c"], weight: Float[Tensor, " c"], bias: Float[Tensor, " c"], eps: float
) -> Float[Tensor, "n c"]:
    """y.

    Args:
        x: input; each row is standardised.
        weight, bias: w and b.
        eps: added to the variance of each row.
    """
    return NORMED_SILU(x, weight, bias, eps)


def pulled_silu(
    x: Float[Tensor, "n c"],
    weight: Float[Tensor, " c"],
    bias: Float[Tensor, " c"],
    g: Float[Tensor, "n c"] | None,
    eps: float,
) -> Float[Tensor, "n c"]:
    """J^T g at the input of `normed_silu`; without g all its numbers are 1."""
    return PULLED_SILU(x, weight, bias, g, eps)


def _plain(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return silu(layer_norm(x, weight.shape, weight, bias, eps))


def _plain_pulled(x: Tensor, weight: Tensor, bias: Tensor, g: Tensor | None, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    inverse = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    standard = centred * inverse
    a = standard * weight + bias
    sigmoid = torch.sigmoid(a)
    h = sigmoid * (1 + a * (1 - sigmoid)) * weight
    h = h if g is None else h * g
    return inverse * (h - h.mean(-1, keepdim=True) - standard * (h * standard).mean(-1, keepdim=True))


def _check(x: Tensor, weight: Tensor, bias: Tensor, *others: Any) -> None:
    g = others[0] if len(others) == 2 else None
    tensors = [x, weight, bias, *([g] if isinstance(g, Tensor) else [])]
    shapes = [x.shape, x.shape[-1:], x.shape[-1:], x.shape]
    if (
        x.ndim != 2
        or any(t.shape != shape for t, shape in zip(tensors, shapes, strict=False))
        or len({t.dtype for t in tensors}) > 1
    ):
        given = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in tensors)
        raise OperatorArgumentError(
            f"LayerNorm and SiLU: tensors {given}; (n, c), (c,), (c,) and, for g, (n, c) of one dtype are needed"
        )


def _outputs(x: Tensor, *others: Tensor | float | None) -> Tensor:
    return x.new_empty(x.shape)


NORMED_SILU = Operator(
    "normed_silu", "Tensor x, Tensor weight, Tensor bias, float eps", _plain, _outputs, check=_check
)
PULLED_SILU = Operator(
    "pulled_silu",
    "Tensor x, Tensor weight, Tensor bias, Tensor? g, float eps",
    _plain_pulled,
    _outputs,
    check=_check,
)
NORMED_SILU.register("CPU", cpu.normed_silu, cpu.normed_silu_gradient)
PULLED_SILU.register("CPU", cpu.pulled_silu, cpu.pulled_silu_gradient)
NORMED_SILU.register("CUDA", gpu.normed_silu, gpu.normed_silu_gradient)
PULLED_SILU.register("CUDA", gpu.pulled_silu, gpu.pulled_silu_gradient)
