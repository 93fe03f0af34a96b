"""The operator of one matrix per degree: linear maps between the channels of component-first features.

    y_l[m, i, :] = scale * x_l[m, i, :] W_l        (+ bias for l = 0)

A GPU computes one batched product for all components; a CPU does so for small matrices, and otherwise one product
for each degree, all into one tensor.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.numerics.constants import Constant
from tracegrad.numerics.precision import full_precision
from tracegrad.ops.features import split_degrees
from tracegrad.ops.operator import Operator
from tracegrad.ops.shapes import check_shapes, size

SMALL = 1024  # numbers of a matrix up to which calls take longer than products on a CPU


@full_precision
def degree_linear(
    x: Float[Tensor, "m n c_in"],
    weight: Float[Tensor, "degrees c_in c_out"],
    bias: Float[Tensor, " c_out"] | None,
    scale: float,
) -> Float[Tensor, "m n c_out"]:
    """The maps of all degrees; the number of degrees is that of the matrices."""
    return DEGREE_LINEAR(x, weight, bias, scale)


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    scaled = weight * scale
    parts = [part @ w for part, w in zip(_degrees(x, weight), scaled.unbind(), strict=True)]
    if bias is not None:
        parts[0] = parts[0] + bias
    return torch.cat(parts)


def _degrees(x: Tensor, weight: Tensor) -> list[Tensor]:
    return split_degrees(x, len(weight) - 1)


def _outputs(x: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    return x.new_empty(*x.shape[:2], weight.shape[2])


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> None:
    channels = size(x, 2), size(weight, 2)
    check_shapes(
        "linear map of all degrees",
        x=(x, (size(weight, 0) ** 2, size(x, 1), channels[0])),
        weight=(weight, (size(weight, 0), *channels)),
        bias=(bias, channels[1:]),
    )


def _form(x: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    out = _products(x, weight, scale)
    if bias is not None:
        out[0] += bias
    return out


def _gradient(
    gradients: Sequence[Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: float,
    needed: Sequence[bool],
) -> list[Tensor]:
    (gradient,) = gradients
    made = []
    if needed[0]:
        made.append(_products(gradient, weight.mT, scale))
    if needed[1]:
        made.append(_of_weight(x, gradient, weight, scale))
    if needed[2]:
        made.append(gradient[0].sum(0))
    return made


def _products(x: Tensor, weight: Tensor, scale: float) -> Tensor:
    if _batched(x, weight):
        of_component = weight.index_select(0, _degree_of_component(len(weight), weight.device))
        return torch.baddbmm(x.new_empty(1, 1, 1), x, of_component, beta=0, alpha=scale)
    out = x.new_empty(*x.shape[:2], weight.shape[2])
    for a, w, to in zip(_degrees(x, weight), weight, _degrees(out, weight), strict=True):
        _product(a.flatten(0, 1), w, scale, to.flatten(0, 1))
    return out


def _of_weight(x: Tensor, gradient: Tensor, weight: Tensor, scale: float) -> Tensor:
    if _batched(x, weight):
        of_components = torch.baddbmm(x.new_empty(1, 1, 1), x.mT, gradient, beta=0, alpha=scale)
        return (_sums(len(weight))(weight) @ of_components.flatten(1)).view(weight.shape)
    out = weight.new_empty(weight.shape)
    for a, g, to in zip(_degrees(x, weight), _degrees(gradient, weight), out, strict=True):
        _product(a.flatten(0, 1).T, g.flatten(0, 1), scale, to)
    return out


def _batched(x: Tensor, weight: Tensor) -> bool:
    return x.is_cuda or weight[0].numel() <= SMALL


def _product(a: Tensor, b: Tensor, scale: float, out: Tensor) -> None:
    torch.addmm(out, a, b, beta=0, alpha=scale, out=out)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _degree_of_component(count: int, device: torch.device) -> Tensor:
    """The degree of each component."""
    degrees = torch.arange(count)
    return degrees.repeat_interleave(2 * degrees + 1).to(device)


@lru_cache(maxsize=64)
def _sums(count: int) -> Constant:
    """The matrix [degrees, components] that adds the components of each degree, in a fixed order."""
    return Constant(torch.nn.functional.one_hot(_degree_of_component(count, torch.device("cpu"))).T.double())


DEGREE_LINEAR = Operator(
    "degree_linear",
    "Tensor x, Tensor weight, Tensor? bias, float scale",
    _plain,
    _outputs,
    check=_check,
)
for device in ("CPU", "CUDA"):
    DEGREE_LINEAR.register(device, _form, _gradient)
