"""The two operators of gates of component-first features, before and after the network of the gates.

`channel_norms`:  y[i] = [x_0, |x_1|, ..., |x_L|] per channel; the gradient of a norm at zero is taken as zero
`gated`:          y_0 = g_0, y_l[m] = g_l x_l[m], channel by channel
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.numerics.precision import full_precision
from tracegrad.ops import native
from tracegrad.ops.features import feature_shape, highest_degree, split_degrees
from tracegrad.ops.gpu import kernel
from tracegrad.ops.operator import Operator
from tracegrad.ops.shapes import check_shapes

BLOCK, WARPS = 256, 4  # numbers and warps of a Triton program
FUNCTIONS = (
    native.Function("norms", "ppiiiii"),
    native.Function("norms_gradient", "pppiiiii"),
    native.Function("gated", "pppiiiii"),
    native.Function("gated_gradient", "pppppiiiii"),
)


@full_precision
def channel_norms(x: Float[Tensor, "m n c"]) -> Float[Tensor, "n invariants"]:
    """[x_0, |x_1|, ..., |x_L|] of each item."""
    return CHANNEL_NORMS(x)


@full_precision
def gated(x: Float[Tensor, "m n c"], gates: Float[Tensor, "n invariants"]) -> Float[Tensor, "m n c"]:
    """The feature with its scalars replaced by gates and its other degrees multiplied by them."""
    return GATED(x, gates)


def _norms_plain(x: Tensor) -> Tensor:
    scalar, *rest = split_degrees(x, highest_degree(x))
    squares = [part.square().sum(0) for part in rest]
    positive = [square > 0 for square in squares]
    norms = [
        torch.where(at, torch.where(at, square, 1.0).sqrt(), 0.0)
        for at, square in zip(positive, squares, strict=True)
    ]
    return torch.cat([scalar[0], *norms], dim=-1)


def _gated_plain(x: Tensor, gates: Tensor) -> Tensor:
    factors = gates.unflatten(1, (highest_degree(x) + 1, x.shape[2])).unbind(1)
    parts = split_degrees(x, highest_degree(x))[1:]
    scaled = [part * factor for part, factor in zip(parts, factors[1:], strict=True)]
    return torch.cat([factors[0][None], *scaled])


def _check_norms(x: Tensor) -> None:
    check_shapes("channel norms", x=(x, feature_shape(x)))


def _check_gated(x: Tensor, gates: Tensor) -> None:
    m, n, c = feature_shape(x)
    check_shapes("gated", x=(x, (m, n, c)), gates=(gates, (n, math.isqrt(m) * c)))


def _by_kernel(name: str, inputs: Sequence[Tensor], results: Sequence[Tensor]) -> bool:
    """Call a C++ function; the first input has the shape of a feature or the first result has it."""
    m, n, c = next(x.shape for x in (*inputs, *results) if x.ndim == 3)
    library = native.file_library("norm_gate.cpp", inputs[0].dtype, *FUNCTIONS)
    if library is None:
        return False
    tensors = [x.contiguous() for x in inputs] + list(results)

    def share(first: int, last: int) -> None:
        getattr(library, name)(*map(native.pointer, tensors), math.isqrt(m), n, c, first, last)

    native.in_threads(share, n, 2 * m * n * c)
    return True


def _norms_on_cpu(x: Tensor) -> Tensor | None:
    y = x.new_empty(x.shape[1], (highest_degree(x) + 1) * x.shape[2])
    return y if _by_kernel("norms", [x], [y]) else None


def _norms_gradient_on_cpu(
    gradients: Sequence[Tensor], x: Tensor, needed: Sequence[bool]
) -> list[Tensor] | None:
    of_x = x.new_empty(x.shape)
    return [of_x] if _by_kernel("norms_gradient", [x, *gradients], [of_x]) else None


def _gated_on_cpu(x: Tensor, gates: Tensor) -> Tensor | None:
    y = x.new_empty(x.shape)
    return y if _by_kernel("gated", [x, gates], [y]) else None


def _gated_gradient_on_cpu(
    gradients: Sequence[Tensor], x: Tensor, gates: Tensor, needed: Sequence[bool]
) -> list[Tensor] | None:
    made = [x.new_empty(x.shape), gates.new_empty(gates.shape)]
    if not _by_kernel("gated_gradient", [*gradients, x, gates], made):
        return None
    return [y for y, flag in zip(made, needed, strict=True) if flag]


# One program takes some of the items * channels numbers of a component. Tensors that are None are not there.
SOURCE = """
def norms(X, G, Y, OF_X, size_count, channels, DEGREES: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < size_count
    of_item = at // channels * (channels * DEGREES) + at % channels
    for l in tl.static_range(DEGREES):
        if l == 0:
            if Y is not None:
                tl.store(Y + of_item, tl.load(X + at, mask=here), mask=here)
            else:
                tl.store(OF_X + at, tl.load(G + of_item, mask=here), mask=here)
        else:
            square = tl.zeros((BLOCK,), X.dtype.element_ty)
            for m in tl.static_range(2 * l + 1):
                x = tl.load(X + (l * l + m) * size_count.to(tl.int64) + at, mask=here, other=0.0)
                square += x * x
            if Y is not None:
                tl.store(Y + of_item + l * channels, tl.sqrt(square), mask=here)
            else:
                g = tl.load(G + of_item + l * channels, mask=here, other=0.0)
                factor = tl.where(square > 0, g / tl.sqrt(tl.where(square > 0, square, 1.0)), 0.0)
                for m in tl.static_range(2 * l + 1):
                    place = (l * l + m) * size_count.to(tl.int64) + at
                    tl.store(OF_X + place, factor * tl.load(X + place, mask=here, other=0.0), mask=here)


def gated(X, G, Y, OF_Y, OF_X, OF_G, size_count, channels, DEGREES: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < size_count
    of_item = at // channels * (channels * DEGREES) + at % channels
    for l in tl.static_range(DEGREES):
        if l == 0:
            if Y is not None:
                tl.store(Y + at, tl.load(G + of_item, mask=here), mask=here)
            if OF_X is not None:
                tl.store(OF_X + at, tl.zeros((BLOCK,), X.dtype.element_ty), mask=here)
            if OF_G is not None:
                tl.store(OF_G + of_item, tl.load(OF_Y + at, mask=here), mask=here)
        else:
            g = tl.load(G + of_item + l * channels, mask=here, other=0.0)
            total = tl.zeros((BLOCK,), X.dtype.element_ty)
            for m in tl.static_range(2 * l + 1):
                place = (l * l + m) * size_count.to(tl.int64) + at
                if Y is not None:
                    tl.store(Y + place, g * tl.load(X + place, mask=here, other=0.0), mask=here)
                else:
                    of_y = tl.load(OF_Y + place, mask=here, other=0.0)
                    if OF_X is not None:
                        tl.store(OF_X + place, g * of_y, mask=here)
                    if OF_G is not None:
                        total += of_y * tl.load(X + place, mask=here, other=0.0)
            if OF_G is not None:
                tl.store(OF_G + of_item + l * channels, total, mask=here)
"""


def _by_triton(name: str, shape: torch.Size, *tensors: Tensor | None) -> None:
    m, n, c = shape
    if n * c:
        arguments = [x if x is None else x.contiguous() for x in tensors]
        run = kernel(SOURCE, name)[(-(-n * c // BLOCK),)]
        run(*arguments, n * c, c, DEGREES=math.isqrt(m), BLOCK=BLOCK, num_warps=WARPS)


def _norms_on_gpu(x: Tensor) -> Tensor:
    y = x.new_empty(x.shape[1], (highest_degree(x) + 1) * x.shape[2])
    _by_triton("norms", x.shape, x, None, y, None)
    return y


def _norms_gradient_on_gpu(gradients: Sequence[Tensor], x: Tensor, needed: Sequence[bool]) -> list[Tensor]:
    of_x = x.new_empty(x.shape)
    _by_triton("norms", x.shape, x, gradients[0], None, of_x)
    return [of_x]


def _gated_on_gpu(x: Tensor, gates: Tensor) -> Tensor:
    y = x.new_empty(x.shape)
    _by_triton("gated", x.shape, x, gates, y, None, None, None)
    return y


def _gated_gradient_on_gpu(
    gradients: Sequence[Tensor], x: Tensor, gates: Tensor, needed: Sequence[bool]
) -> list[Tensor]:
    made = [t.new_empty(t.shape) if flag else None for t, flag in zip((x, gates), needed, strict=True)]
    _by_triton("gated", x.shape, x, gates, None, gradients[0], *made)
    return [t for t in made if t is not None]


CHANNEL_NORMS = Operator(
    "channel_norms",
    "Tensor x",
    _norms_plain,
    lambda x: x.new_empty(x.shape[1], (highest_degree(x) + 1) * x.shape[2]),
    check=_check_norms,
)
CHANNEL_NORMS.register("CPU", _norms_on_cpu, _norms_gradient_on_cpu)
CHANNEL_NORMS.register("CUDA", _norms_on_gpu, _norms_gradient_on_gpu)
GATED = Operator(
    "gated", "Tensor x, Tensor gates", _gated_plain, lambda x, gates: torch.empty_like(x), check=_check_gated
)
GATED.register("CPU", _gated_on_cpu, _gated_gradient_on_cpu)
GATED.register("CUDA", _gated_on_gpu, _gated_gradient_on_gpu)
