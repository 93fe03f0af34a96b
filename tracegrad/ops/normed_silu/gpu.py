"""Triton form of SiLU after a LayerNorm.

One program takes one row after another. It sums what its rows add to the gradients of w and b; a second sum over the
programs has a fixed order as well.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tracegrad.ops.gpu import kernel

PROGRAMS = 512  # for sums over rows
CHANNELS_OF_A_WARP = 128


def normed_silu(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The form of the operator `normed_silu` for GPUs."""
    (y,), _ = _run("normed_silu", eps, x, (weight, bias), 1)
    return y


def normed_silu_gradient(
    gradients: Sequence[Tensor], x: Tensor, weight: Tensor, bias: Tensor, eps: float, needed: Sequence[bool]
) -> list[Tensor]:
    """The gradient of the operator `normed_silu` for GPUs."""
    (of_x,), sums = _run("pulled_silu", eps, x, (weight, bias, gradients[0]), 1, sums=any(needed[1:]))
    return [y for y, flag in zip((of_x, *sums), needed, strict=False) if flag]


def pulled_silu(x: Tensor, weight: Tensor, bias: Tensor, g: Tensor | None, eps: float) -> Tensor:
    """The form of the operator `pulled_silu` for GPUs."""
    (y,), _ = _run("pulled_silu", eps, x, (weight, bias, g), 1)
    return y


def pulled_silu_gradient(
    gradients: Sequence[Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    g: Tensor | None,
    eps: float,
    needed: Sequence[bool],
) -> list[Tensor]:
    """The gradient of the operator `pulled_silu` for GPUs."""
    others = (weight, bias, g, gradients[0])
    (of_x, of_g), sums = _run("pulled_silu_gradient", eps, x, others, 2, sums=any(needed[1:3]))
    made = (of_x, *(sums or (None, None)), of_g)
    return [y for y, flag in zip(made, needed, strict=True) if flag and y is not None]


def _run(
    name: str, eps: float, x: Tensor, others: Sequence[Tensor | None], count: int, *, sums: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """``count`` tensors like x, and with ``sums`` the gradients of w and b."""
    rows, channels = x.shape
    results = [x.new_empty(x.shape) for _ in range(count)]
    programs = min(rows, PROGRAMS) if sums else rows
    partial = x.new_empty(programs, 2, channels) if sums else None
    if programs and channels:
        block = 1 << (channels - 1).bit_length()
        run: Any = kernel(SOURCE, name)
        run[(programs,)](
            *(None if t is None else t.contiguous() for t in (x, *others)),
            *results,
            *([] if name == "normed_silu" else [partial]),
            rows,
            channels,
            EPS=eps,
            BLOCK=block,
            num_warps=max(1, min(8, block // CHANNELS_OF_A_WARP)),
        )
    return results, [] if partial is None else [partial[:, k].sum(0) for k in range(2)]


SOURCE = """
@triton.jit
def standardised(X, row, c, channels, EPS: tl.constexpr):
    x = tl.load(X + row * channels + c, mask=c < channels, other=0.0)
    centred = tl.where(c < channels, x - tl.sum(x, 0) / channels, 0.0)
    inverse = 1 / tl.sqrt(tl.sum(centred * centred, 0) / channels + EPS)
    return centred * inverse, inverse


def normed_silu(X, W, B, Y, n_count, channels, EPS: tl.constexpr, BLOCK: tl.constexpr):
    c = tl.arange(0, BLOCK)
    w = tl.load(W + c, mask=c < channels, other=0.0)
    b = tl.load(B + c, mask=c < channels, other=0.0)
    first = tl.program_id(0).to(tl.int64)
    for k in range(first, n_count, tl.num_programs(0)):
        row = first + (k - first)
        s, _ = standardised(X, row, c, channels, EPS)
        a = w * s + b
        tl.store(Y + row * channels + c, a / (1 + tl.exp(-a)), mask=c < channels)


def pulled_silu(X, W, B, G, OUT, SUMS, n_count, channels, EPS: tl.constexpr, BLOCK: tl.constexpr):
    c = tl.arange(0, BLOCK)
    w = tl.load(W + c, mask=c < channels, other=0.0)
    b = tl.load(B + c, mask=c < channels, other=0.0)
    of_w = tl.zeros((BLOCK,), OUT.dtype.element_ty)
    of_b = tl.zeros((BLOCK,), OUT.dtype.element_ty)
    first = tl.program_id(0).to(tl.int64)
    for k in range(first, n_count, tl.num_programs(0)):
        row = first + (k - first)
        s, inverse = standardised(X, row, c, channels, EPS)
        a = w * s + b
        sigma = 1 / (1 + tl.exp(-a))
        q = sigma * (1 + a * (1 - sigma))
        if G is not None:
            q *= tl.load(G + row * channels + c, mask=c < channels, other=0.0)
        h = q * w
        out = inverse * (h - tl.sum(h, 0) / channels - s * (tl.sum(h * s, 0) / channels))
        tl.store(OUT + row * channels + c, out, mask=c < channels)
        of_w += q * s
        of_b += q
    if SUMS is not None:
        sums = SUMS + tl.program_id(0) * 2 * channels + c
        tl.store(sums, of_w, mask=c < channels)
        tl.store(sums + channels, of_b, mask=c < channels)


# t is the part of the derivative of <k, J^T g> by s that passes through a; v is J k before w and silu' are applied.
def pulled_silu_gradient(
    X, W, B, G, K, OF_X, OF_G, SUMS, n_count, channels, EPS: tl.constexpr, BLOCK: tl.constexpr
):
    c = tl.arange(0, BLOCK)
    w = tl.load(W + c, mask=c < channels, other=0.0)
    b = tl.load(B + c, mask=c < channels, other=0.0)
    of_w = tl.zeros((BLOCK,), OF_X.dtype.element_ty)
    of_b = tl.zeros((BLOCK,), OF_X.dtype.element_ty)
    first = tl.program_id(0).to(tl.int64)
    for place in range(first, n_count, tl.num_programs(0)):
        row = first + (place - first)
        s, inverse = standardised(X, row, c, channels, EPS)
        k = tl.load(K + row * channels + c, mask=c < channels, other=0.0)
        mean_k = tl.sum(k, 0) / channels
        mean_ks = tl.sum(k * s, 0) / channels
        a = w * s + b
        sigma = 1 / (1 + tl.exp(-a))
        slope = sigma * (1 - sigma)
        once = sigma + a * slope
        twice = slope * (2 + a * (1 - 2 * sigma))
        v = inverse * (k - mean_k - s * mean_ks)
        tl.store(OF_G + row * channels + c, once * w * v, mask=c < channels)
        if G is not None:
            g = tl.load(G + row * channels + c, mask=c < channels, other=0.0)
            once *= g
            twice *= g
        h = once * w
        of_a = twice * w * v
        of_w += once * v + of_a * s
        of_b += of_a
        mean_h = tl.sum(h, 0) / channels
        mean_hs = tl.sum(h * s, 0) / channels
        of_inverse = inverse * inverse * (tl.sum(h * k, 0) / channels - mean_h * mean_k - mean_hs * mean_ks)
        t = of_a * w - inverse * (h * mean_ks + k * mean_hs)
        of_x = inverse * (t - tl.sum(t, 0) / channels - s * (tl.sum(t * s, 0) / channels)) - s * of_inverse
        tl.store(OF_X + row * channels + c, of_x, mask=c < channels)
    if SUMS is not None:
        sums = SUMS + tl.program_id(0) * 2 * channels + c
        tl.store(sums, of_w, mask=c < channels)
        tl.store(sums + channels, of_b, mask=c < channels)
"""
