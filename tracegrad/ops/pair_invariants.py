"""The operator of the invariants of pairs of items of a component-first feature.

y[k] = [x_0 of dst(k), x_0 of other(k), <x_l of dst(k), x_l of src(k)> / (2l + 1) for l = 1 .. L], per channel
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracegrad.numerics.precision import full_precision
from tracegrad.ops import native
from tracegrad.ops.features import feature_shape, highest_degree, split_degrees
from tracegrad.ops.gpu import kernel, next_power_of_2, segments
from tracegrad.ops.operator import Operator
from tracegrad.ops.shapes import check_shapes, size

BLOCK, WARPS = 32, 2  # channels and warps of a Triton program
LANES = 16  # channels that threads share at once
FUNCTIONS = (native.Function("forward", "ppppp" + "i" * 6), native.Function("backward", "pppppp" + "i" * 6))


@full_precision
def pair_invariants(
    x: Float[Tensor, "m n c"],
    dst: Int[Tensor, " pairs"],
    src: Int[Tensor, " pairs"],
    other: Int[Tensor, " pairs"],
) -> Float[Tensor, "pairs invariants"]:
    """The invariants of all pairs; indices out of range raise an error on a CPU and give NaN on a GPU."""
    return PAIR_INVARIANTS(x, dst, src, other)


def _plain(x: Tensor, dst: Tensor, src: Tensor, other: Tensor) -> Tensor:
    products = x.index_select(1, dst) * x.index_select(1, src)
    inner = [part.sum(0) / len(part) for part in split_degrees(products, highest_degree(x))[1:]]
    return torch.cat([x[0].index_select(0, dst), x[0].index_select(0, other), *inner], dim=1)


def _outputs(x: Tensor, dst: Tensor, src: Tensor, other: Tensor) -> Tensor:
    return x.new_empty(dst.shape[0], (highest_degree(x) + 2) * x.shape[2])


def _check(x: Tensor, dst: Tensor, src: Tensor, other: Tensor) -> None:
    pairs = (size(dst, 0),)
    check_shapes(
        "invariants of pairs",
        x=(x, feature_shape(x)),
        dst_index=(dst, pairs),
        src_index=(src, pairs),
        other_index=(other, pairs),
    )


def _by_kernel(name: str, tensors: Sequence[Tensor], indices: Sequence[Tensor], shape: torch.Size) -> bool:
    m, n, c = shape
    library = native.file_library("pair_invariants.cpp", tensors[0].dtype, *FUNCTIONS)
    if library is None:
        return False
    checked = [native.index("item of a pair", index, n) for index in indices]
    addresses = [native.pointer(x) for x in (*tensors, *checked)]

    def share(first: int, last: int) -> None:
        sizes = (math.isqrt(m), n, len(checked[0]), c, first * LANES, min(last * LANES, c))
        getattr(library, name)(*addresses, *sizes)

    native.in_threads(share, -(-c // LANES), 2 * m * c * len(checked[0]))
    return True


def _on_cpu(x: Tensor, dst: Tensor, src: Tensor, other: Tensor) -> Tensor | None:
    y = _outputs(x, dst, src, other)
    return y if _by_kernel("forward", [x.contiguous(), y], [dst, src, other], x.shape) else None


def _gradient_on_cpu(
    gradients: Sequence[Tensor], x: Tensor, dst: Tensor, src: Tensor, other: Tensor, needed: Sequence[bool]
) -> list[Tensor] | None:
    of_x = x.new_zeros(x.shape)
    tensors = [gradients[0].contiguous(), x.contiguous(), of_x]
    return [of_x] if _by_kernel("backward", tensors, [dst, src, other], x.shape) else None


# A program computes one pair, or the gradient of one item from all pairs in which it stands, for some channels: a
# tile [components, channels]. A pair with an index out of range gives NaN.
SOURCE = """
@triton.jit
def _degree(ROWS: tl.constexpr, DEGREES: tl.constexpr):
    m = tl.arange(0, ROWS)
    degree = 0 * m
    for l in tl.static_range(1, DEGREES):
        degree += (m >= l * l).to(tl.int32)
    return degree


@triton.jit
def _feature(X, item, c, n_count, channels, ROWS: tl.constexpr, DEGREES: tl.constexpr):
    m = tl.arange(0, ROWS)[:, None]
    here = (c < channels) & (item >= 0) & (item < n_count)
    place = (m * n_count.to(tl.int64) + item[None, :]) * channels + c[None, :]
    x = tl.load(X + place, mask=(m < DEGREES * DEGREES) & here[None, :], other=0.0)
    return tl.where(here[None, :] | (c >= channels)[None, :], x, float("nan"))


def forward(
    X, Y, DST, SRC, OTHER, n_count, channels, DEGREES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    pair = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    pairs = pair + 0 * c  # a block, because masks of blocks and scalars fail in the interpreter
    degree = _degree(ROWS, DEGREES)[:, None]
    a = _feature(X, tl.load(DST + pairs).to(tl.int64), c, n_count, channels, ROWS, DEGREES)
    b = _feature(X, tl.load(SRC + pairs).to(tl.int64), c, n_count, channels, ROWS, DEGREES)
    o = _feature(X, tl.load(OTHER + pairs).to(tl.int64), c, n_count, channels, 1, DEGREES)
    to = Y + pairs * (DEGREES + 1) * channels + c
    tl.store(to, tl.sum(tl.where(degree == 0, a, 0.0), 0), mask=c < channels)
    tl.store(to + channels, tl.sum(o, 0), mask=c < channels)
    for l in tl.static_range(1, DEGREES):
        inner = tl.sum(tl.where(degree == l, a * b, 0.0), 0) / (2 * l + 1)
        tl.store(to + (l + 1) * channels, inner, mask=c < channels)


@triton.jit
def _pulled(
    G, X, k, partner, column, c, n_count, channels, DEGREES: tl.constexpr, ROWS: tl.constexpr
):
    degree = _degree(ROWS, DEGREES)[:, None]
    x = _feature(X, partner, c, n_count, channels, ROWS, DEGREES)
    place = (k[None, :] * (DEGREES + 1) + tl.where(degree == 0, column, degree + 1)) * channels + c[None, :]
    here = (c < channels)[None, :] & ((degree > 0) | (column == 0))
    g = tl.load(G + place, mask=here, other=0.0)
    return g * tl.where(degree > 0, x / (2 * degree + 1), 1.0)


def backward(
    G, X, OF_X, DST, SRC, DST_ORDER, DST_STARTS, SRC_ORDER, SRC_STARTS, OTHER_ORDER, OTHER_STARTS,
    n_count, channels, DEGREES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):
    item = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m = tl.arange(0, ROWS)[:, None]
    total = tl.zeros((ROWS, BLOCK), X.dtype.element_ty)
    for at in range(tl.load(DST_STARTS + item), tl.load(DST_STARTS + item + 1)):
        k = tl.load(DST_ORDER + at + 0 * c)
        partner = tl.load(SRC + k).to(tl.int64)
        total += _pulled(G, X, k, partner, 0, c, n_count, channels, DEGREES, ROWS)
    for at in range(tl.load(SRC_STARTS + item), tl.load(SRC_STARTS + item + 1)):
        k = tl.load(SRC_ORDER + at + 0 * c)
        partner = tl.load(DST + k).to(tl.int64)
        total += _pulled(G, X, k, partner, 1, c, n_count, channels, DEGREES, ROWS)
    for at in range(tl.load(OTHER_STARTS + item), tl.load(OTHER_STARTS + item + 1)):
        k = tl.load(OTHER_ORDER + at + 0 * c)
        g = tl.load(G + (k * (DEGREES + 1) + 1) * channels + c, mask=c < channels, other=0.0)
        total += tl.where(m == 0, g[None, :], 0.0)
    place = (m * n_count.to(tl.int64) + item) * channels + c[None, :]
    tl.store(OF_X + place, total, mask=(m < DEGREES * DEGREES) & (c < channels)[None, :])
"""


def _by_triton(name: str, count: int, shape: torch.Size, *tensors: Tensor) -> None:
    m, n, c = shape
    if count and c:
        block = min(BLOCK, next_power_of_2(c))
        kernel(SOURCE, name)[count, -(-c // block)](
            *(x.contiguous() for x in tensors),
            *(n, c),
            DEGREES=math.isqrt(m),
            ROWS=next_power_of_2(m),
            BLOCK=block,
            num_warps=WARPS,
        )


def _on_gpu(x: Tensor, dst: Tensor, src: Tensor, other: Tensor) -> Tensor:
    y = _outputs(x, dst, src, other)
    _by_triton("forward", len(dst), x.shape, x, y, dst, src, other)
    return y


def _gradient_on_gpu(
    gradients: Sequence[Tensor], x: Tensor, dst: Tensor, src: Tensor, other: Tensor, needed: Sequence[bool]
) -> list[Tensor]:
    of_x, n = x.new_empty(x.shape), x.shape[1]
    lists = [part for index in (dst, src, other) for part in segments(index, n)]
    _by_triton("backward", n, x.shape, gradients[0], x, of_x, dst, src, *lists)
    return [of_x]


PAIR_INVARIANTS = Operator(
    "pair_invariants", "Tensor x, Tensor dst, Tensor src, Tensor other", _plain, _outputs, check=_check
)
PAIR_INVARIANTS.register("CPU", _on_cpu, _gradient_on_cpu)
PAIR_INVARIANTS.register("CUDA", _on_gpu, _gradient_on_gpu)
