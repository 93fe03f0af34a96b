"""The operator of matrix products by the faster of the two libraries that torch has for them on CPUs.

torch computes products in float32 with MKL. oneDNN is 5 to 25 % faster for most large products, but torch has no
public operator for it, only a private one, ``mkldnn::_linear_pointwise``, which torch.compile writes into its code.
It is used where it exists and saves time; everywhere else `torch.nn.functional.linear` is used. GPUs have no form of
their own: torch's product is their library's.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.operator import Operator

SMALLEST = 1e8  # operations from which oneDNN saves more than its 0.3 ms of preparation for a new shape
FEWEST_FOR_COPY = 1024  # columns of a product from which a contiguous copy of the left factor saves time


def linear(
    x: Float[Tensor, "n c_in"],
    weight: Float[Tensor, "c_out c_in"],
    bias: Float[Tensor, " c_out"] | None = None,
) -> Float[Tensor, "n c_out"]:
    """x @ weight.T + bias, differentiable to any order."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled(
        x.device.type
    ):  # they choose for themselves
        return functional.linear(x, weight, bias)
    return LINEAR(x, weight, bias)


def product(a: Float[Tensor, "n k"], b: Float[Tensor, "k c"]) -> Float[Tensor, "n c"]:
    """a @ b, differentiable to any order."""
    return linear(a, b.T)


def _by_faster(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The form for CPUs."""
    if _by_onednn(x, weight, bias):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return functional.linear(x, weight, bias)


def _gradient(
    gradients: Sequence[Tensor], x: Tensor, weight: Tensor, bias: Tensor | None, needed: Sequence[bool]
) -> list[Tensor]:
    """The gradient for CPUs."""
    (gradient,) = gradients
    of_x, of_weight, of_bias = needed
    made = [
        _by_faster(gradient, weight.T) if of_x else None,
        _outer(gradient, x) if of_weight else None,
        gradient.sum(0) if of_bias else None,
    ]
    return [part for part in made if part is not None]


def _outer(a: Float[Tensor, "n c_out"], b: Float[Tensor, "n c_in"]) -> Float[Tensor, "c_out c_in"]:
    """a.T @ b. oneDNN needs a contiguous left factor: a.T or b.T is copied, whichever is smaller."""
    if b.shape[1] < a.shape[1] and _by_onednn(b.T, a.T):
        return _by_faster(b.T, a.T).T
    return _by_faster(a.T, b.T)


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether oneDNN takes these layouts and saves time."""
    return bool(
        _is_large(x, weight)
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and (x.stride(1) == 1 or len(weight) >= FEWEST_FOR_COPY)
        and (weight.is_contiguous() or weight.T.is_contiguous())
        and (bias is None or bias.is_contiguous())
    )


def _is_large(x: Tensor, weight: Tensor) -> bool:
    return 2 * x.shape[0] * x.shape[1] * weight.shape[0] >= SMALLEST


def _covers(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and _is_large(x, weight)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if (
        x.ndim != 2
        or weight.ndim != 2
        or x.shape[1] != weight.shape[1]
        or (bias is not None and (bias.shape != weight.shape[:1] or bias.dtype != x.dtype))
        or weight.dtype != x.dtype
    ):
        shapes = ", ".join(
            f"{tuple(part.shape)} {part.dtype}" for part in (x, weight, bias) if part is not None
        )
        raise OperatorArgumentError(f"linear: {shapes}; (n, c_in), (c_out, c_in) and (c_out,) are needed")


def _outputs(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


LINEAR = Operator(
    "linear",
    "Tensor x, Tensor weight, Tensor? bias",
    functional.linear,
    _outputs,
    check=_check,
    covers=_covers,
)
LINEAR.register("CPU", _by_faster, _gradient)
