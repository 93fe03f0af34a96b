"""The operator of one matrix per degree: linear maps between the channels of component-first features.

    y_l[m, i, :] = scale * x_l[m, i, :] W_l        (+ bias for l = 0)

All products are written into one tensor: on a CPU one product for each degree, on a GPU one batched product for all
components.
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


def _on_cpu(x: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    out = _products(x, weight, scale)
    if bias is not None:
        out[0] += bias
    return out


def _gradient_on_cpu(
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
        made.append(torch.empty_like(weight, memory_format=torch.contiguous_format))
        for a, g, out in zip(_degrees(x, weight), _degrees(gradient, weight), made[-1], strict=True):
            _product(a.reshape(-1, a.shape[2]).T, g.reshape(-1, g.shape[2]), scale, out)
    if needed[2]:
        made.append(gradient[0].sum(0))
    return made


def _products(x: Tensor, weight: Tensor, scale: float) -> Tensor:
    out = x.new_empty(*x.shape[:2], weight.shape[2])
    for part, w, target in zip(_degrees(x, weight), weight, _degrees(out, weight), strict=True):
        _product(part.reshape(-1, part.shape[2]), w, scale, target.view(-1, target.shape[2]))
    return out


def _product(a: Tensor, b: Tensor, scale: float, out: Tensor) -> None:
    torch.addmm(out, a, b, beta=0, alpha=scale, out=out)


def _on_gpu(x: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    out = _batched_product(x, weight.index_select(0, _degree_of_component(len(weight), weight.device)), scale)
    if bias is not None:
        out[0] += bias
    return out


def _gradient_on_gpu(
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
        of_component = weight.index_select(0, _degree_of_component(len(weight), weight.device))
        made.append(_batched_product(gradient, of_component.mT, scale))
    if needed[1]:
        of_component = _batched_product(x.mT, gradient, scale)
        made.append((_sums(len(weight))(weight) @ of_component.flatten(1)).view(weight.shape))
    if needed[2]:
        made.append(gradient[0].sum(0))
    return made


def _batched_product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=scale)


@lru_cache(maxsize=64)
def _degree_of_component(count: int, device: torch.device) -> Tensor:
    """The degree of each component."""
    degrees = torch.arange(count)
    return degrees.repeat_interleave(2 * degrees + 1).to(device)


@lru_cache(maxsize=64)
def _sums(count: int) -> Constant:
    """The matrix [degrees, components] that adds the components of each degree, in a fixed order."""
    return Constant(torch.nn.functional.one_hot(_degree_of_component(count, torch.device("cpu"))).T.double())


DEGREE_LINEAR = Operator(
    "degree_linear", "Tensor x, Tensor weight, Tensor? bias, float scale", _plain, _outputs, check=_check
)
DEGREE_LINEAR.register("CPU", _on_cpu, _gradient_on_cpu)
DEGREE_LINEAR.register("CUDA", _on_gpu, _gradient_on_gpu)
