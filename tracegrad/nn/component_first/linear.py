"""Linear maps between the channels of component-first features."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tracegrad.nn.component_first.features import split_degrees
from tracegrad.numerics.precision import full_precision
from tracegrad.ops import native
from tracegrad.ops.plain_gradients import plain_gradients


class EquivariantLinear(nn.Module):
    """One matrix per degree, x_l W_l / sqrt(C_in), and a bias on degree 0 only.

    Weights start standard normal, biases at zero (as in e3nn).
    """

    def __init__(self, lmax: int, c_in: int, c_out: int, *, bias: bool = True):
        super().__init__()
        self.lmax = lmax
        self.scale = 1 / math.sqrt(c_in)
        self.weight = nn.Parameter(torch.randn(lmax + 1, c_in, c_out))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None

    @full_precision
    def forward(self, x: Float[Tensor, "m n c_in"]) -> Float[Tensor, "m n c_out"]:
        return (_Linear.apply if native.enabled() else _plain)(x, self.weight * self.scale, self.bias)


def _plain(
    x: Float[Tensor, "m n c_in"],
    weight: Float[Tensor, "degrees c_in c_out"],
    bias: Float[Tensor, " c_out"] | None,
) -> Float[Tensor, "m n c_out"]:
    parts = [part @ w for part, w in zip(split_degrees(x, len(weight) - 1), weight, strict=True)]
    if bias is not None:
        parts[0] = parts[0] + bias
    return torch.cat(parts)


class _Linear(torch.autograd.Function):
    """`_plain` without its copies: the products of all degrees are written into one tensor, forward and backward."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        out = _products(x, weight)
        if bias is not None:
            out[0] += bias
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, _ = ctx.saved_tensors
        if torch.is_grad_enabled() or not native.enabled(gradient):
            return plain_gradients(_plain, ctx.saved_tensors, [gradient], ctx.needs_input_grad)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = _products(gradient, weight.mT)
        if ctx.needs_input_grad[1]:
            of_weight = torch.empty_like(weight)
            for a, b, out in zip(
                *(split_degrees(t, len(weight) - 1) for t in (x, gradient)), of_weight, strict=True
            ):
                torch.mm(a.reshape(-1, a.shape[2]).T, b.reshape(-1, b.shape[2]), out=out)
        if ctx.needs_input_grad[2]:
            of_bias = gradient[0].sum(0)
        return of_x, of_weight, of_bias


def _products(x: Float[Tensor, "m n a"], weight: Float[Tensor, "degrees a b"]) -> Float[Tensor, "m n b"]:
    lmax = len(weight) - 1
    out = x.new_empty(*x.shape[:2], weight.shape[2])
    for part, w, target in zip(split_degrees(x, lmax), weight, split_degrees(out, lmax), strict=True):
        torch.mm(part.reshape(-1, part.shape[2]), w, out=target.view(-1, target.shape[2]))
    return out
