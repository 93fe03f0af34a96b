"""Matrix products by the faster of the two libraries that torch has for them on CPUs.

torch computes products in float32 with MKL. oneDNN is 5 to 25 % faster for most large products, but torch has no
public operator for it, only one that torch.compile writes into its code. That operator is used where it exists and
saves time; everywhere else `torch.nn.functional.linear` is used.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from tracegrad.ops import native

SMALLEST = 1e8  # operations from which oneDNN saves more than its 0.3 ms of preparation for a new shape
FEWEST_FOR_COPY = 1024  # columns of a product from which a contiguous copy of the left factor saves time


def linear(
    x: Float[Tensor, "n c_in"],
    weight: Float[Tensor, "c_out c_in"],
    bias: Float[Tensor, " c_out"] | None = None,
) -> Float[Tensor, "n c_out"]:
    """x @ weight.T + bias, differentiable to any order."""
    if native.enabled(x, weight) and not torch.is_autocast_enabled(x.device.type):
        return _Linear.apply(x, weight, bias)
    return functional.linear(x, weight, bias)


def product(a: Float[Tensor, "n k"], b: Float[Tensor, "k c"]) -> Float[Tensor, "n c"]:
    """a @ b, differentiable to any order."""
    return linear(a, b.T)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        operands = (x, weight) if bias is None else (x, weight, bias)
        if _by_onednn(*operands):
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            product(gradient, weight) if of_x else None,
            _outer(gradient, x) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )


def _outer(a: Float[Tensor, "n c_out"], b: Float[Tensor, "n c_in"]) -> Float[Tensor, "c_out c_in"]:
    """a.T @ b. oneDNN needs a contiguous left factor: a.T or b.T is copied, whichever is smaller."""
    if b.shape[1] < a.shape[1] and _by_onednn(b.T, a.T):
        return linear(b.T, a.T).T
    return linear(a.T, b.T)


def _by_onednn(x: Tensor, weight: Tensor, *bias: Tensor) -> bool:
    """Whether oneDNN can compute x @ weight.T + bias and saves time."""
    rows, inner = x.shape
    columns = len(weight)
    return bool(
        2 * rows * inner * columns >= SMALLEST
        and x.dtype == torch.float32
        and native.usable(x, weight, *bias)
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and (x.stride(1) == 1 or columns >= FEWEST_FOR_COPY)
        and (weight.is_contiguous() or weight.T.is_contiguous())
        and all(b.shape == (columns,) and b.is_contiguous() for b in bias)
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
