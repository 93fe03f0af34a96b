"""Triton form of the expansion into blocks: kernels mix channels by kind, and one matrix product does the rest.

The sums over the items of a kind, in the gradients of weights and bias, have a fixed order and need no atomic
operations. A kind out of range gives NaN.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from tracegrad.ops.expansion.shells import ExpansionShells
from tracegrad.ops.gpu import kernel, next_power_of_2, segments

ITEMS, WARPS = 32, 4  # items of one step of a sum over items, and warps of a program


def expand(x: Tensor, weights: Tensor, bias: Tensor, kind: Tensor, key: str) -> Tensor:
    """The form of the operator `expand_blocks` for GPUs."""
    shells, n = ExpansionShells.named(key), x.shape[1]
    mixed = x.new_empty(n, shells.components)
    _run("mix", shells, (n, shells.lmax + 1), x, weights, bias, mixed, kind)
    return (mixed @ shells.table(x)).view(n, shells.dim, shells.dim)


def expand_gradient(
    gradients: Sequence[Tensor],
    x: Tensor,
    weights: Tensor,
    bias: Tensor,
    kind: Tensor,
    key: str,
    needed: Sequence[bool],
) -> list[Tensor]:
    """The gradient of the operator `expand_blocks` for GPUs."""
    shells, n = ExpansionShells.named(key), x.shape[1]
    of_mixed = gradients[0].flatten(1) @ shells.table(x).T
    of_x, of_weights, of_bias = (t.new_empty(t.shape) for t in (x, weights, bias))
    if needed[0]:
        _run("of_features", shells, (n, shells.lmax + 1), of_x, weights, of_mixed, kind)
    if needed[1] or needed[2]:
        order, starts = segments(kind, len(weights))
        grid = (len(weights), shells.mixtures)
        _run("of_weights", shells, grid, x, of_weights, of_bias, of_mixed, order, starts)
    return [t for t, flag in zip((of_x, of_weights, of_bias), needed, strict=False) if flag]


@lru_cache(maxsize=64)
def _tables(shells: ExpansionShells, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each degree its first mixture, the number of its mixtures and its first component of the mixed channels;
    for each mixture its degree, its first component, its first weight and the step to the next channel's weight."""
    counts = shells.multiplicities
    degrees = torch.arange(len(counts))
    sizes = 2 * degrees + 1
    of_degree = torch.tensor(
        [
            [0, *accumulate(counts[:-1])],
            counts,
            [0, *accumulate(int(size) * count for size, count in zip(sizes, counts, strict=True))][:-1],
        ]
    )
    degree = degrees.repeat_interleave(torch.tensor(counts))
    components = sizes[degree].cumsum(0) - sizes[degree]
    weights = shells.order.view(-1, shells.channels)
    steps = weights[:, -1] - weights[:, 0]
    of_mixture = torch.stack([degree, components, weights[:, 0], steps // max(shells.channels - 1, 1)])
    return of_degree.to(device), of_mixture.to(device)


def _run(name: str, shells: ExpansionShells, grid: tuple[int, int], *tensors: Tensor) -> None:
    x, weights = (tensors[0], tensors[1])
    if not all(grid):
        return
    kernel(SOURCE, name)[grid](
        *(t.contiguous() for t in tensors),
        *_tables(shells, x.device),
        x.shape[1],
        len(weights),
        DEGREES=shells.lmax + 1,
        CHANNELS=shells.channels,
        MIXTURES=shells.mixtures,
        COMPONENTS=shells.components,
        BIASES=shells.multiplicities[0],
        C_BLOCK=next_power_of_2(shells.channels),
        U_BLOCK=next_power_of_2(max(shells.multiplicities)),
        I_BLOCK=ITEMS,
        num_warps=WARPS,
    )


# Programs of the first two kernels take the mixtures of one degree of one item, those of the last one mixture of one
# kind. C, U and I are blocks of channels, mixtures and items.
CONSTANTS = ", ".join(
    f"{name}: tl.constexpr"
    for name in ["DEGREES", "CHANNELS", "MIXTURES", "COMPONENTS", "BIASES", "C_BLOCK", "U_BLOCK", "I_BLOCK"]
)
SOURCE = f"""
@triton.jit
def _weights(W, OF_MIXTURE, kind, u, here, c, CHANNELS: tl.constexpr, MIXTURES: tl.constexpr):
    start = tl.load(OF_MIXTURE + 2 * MIXTURES + u, mask=u < MIXTURES, other=0)
    step = tl.load(OF_MIXTURE + 3 * MIXTURES + u, mask=u < MIXTURES, other=0)
    place = kind * (MIXTURES * CHANNELS) + start[:, None] + step[:, None] * c[None, :]
    return tl.load(W + place, mask=here[:, None] & (c < CHANNELS)[None, :], other=0.0)


def mix(X, W, B, MIXED, KIND, OF_DEGREE, OF_MIXTURE, n_count, kinds_count, {CONSTANTS}):
    item, l = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c, j = tl.arange(0, C_BLOCK), tl.arange(0, U_BLOCK)
    kind = tl.load(KIND + item).to(tl.int64)
    count = tl.load(OF_DEGREE + DEGREES + l)
    u = tl.load(OF_DEGREE + l) + j
    to = MIXED + item * COMPONENTS + tl.load(OF_DEGREE + 2 * DEGREES + l) + j * (2 * l + 1)
    here = (j < count) & (kind + 0 * j >= 0) & (kind + 0 * j < kinds_count)
    weights = _weights(W, OF_MIXTURE, kind, u, here, c, CHANNELS, MIXTURES)
    bias = tl.load(B + kind * BIASES + u, mask=here & (l + 0 * j == 0), other=0.0)
    for m in range(2 * l + 1):
        x = tl.load(X + ((l * l + m) * n_count.to(tl.int64) + item) * CHANNELS + c, mask=c < CHANNELS, other=0.0)
        mixed = bias + tl.sum(weights * x[None, :], 1)
        tl.store(to + m, tl.where(here, mixed, float("nan")), mask=j < count)


def of_features(OF_X, W, OF_MIXED, KIND, OF_DEGREE, OF_MIXTURE, n_count, kinds_count, {CONSTANTS}):
    item, l = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c, j = tl.arange(0, C_BLOCK), tl.arange(0, U_BLOCK)
    kind = tl.load(KIND + item).to(tl.int64)
    count = tl.load(OF_DEGREE + DEGREES + l)
    u = tl.load(OF_DEGREE + l) + j
    of_mixed = OF_MIXED + item * COMPONENTS + tl.load(OF_DEGREE + 2 * DEGREES + l) + j * (2 * l + 1)
    known = (kind + 0 * c >= 0) & (kind + 0 * c < kinds_count)
    here = (j < count) & (kind + 0 * j >= 0) & (kind + 0 * j < kinds_count)
    weights = _weights(W, OF_MIXTURE, kind, u, here, c, CHANNELS, MIXTURES)
    for m in range(2 * l + 1):
        g = tl.load(of_mixed + m, mask=j < count, other=0.0)
        total = tl.where(known, tl.sum(weights * g[:, None], 0), float("nan"))
        place = ((l * l + m) * n_count.to(tl.int64) + item) * CHANNELS + c
        tl.store(OF_X + place, total, mask=c < CHANNELS)


def of_weights(
    X, OF_W, OF_B, OF_MIXED, ORDER, STARTS, OF_DEGREE, OF_MIXTURE, n_count, kinds_count, {CONSTANTS}
):
    kind, u = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c, i = tl.arange(0, C_BLOCK), tl.arange(0, I_BLOCK)
    l = tl.load(OF_MIXTURE + u)
    of_mixed = OF_MIXED + tl.load(OF_MIXTURE + MIXTURES + u)
    begin, end = tl.load(STARTS + kind), tl.load(STARTS + kind + 1)
    total = tl.zeros((C_BLOCK,), X.dtype.element_ty)
    of_bias = tl.sum(tl.zeros((I_BLOCK,), X.dtype.element_ty), 0)
    for first in range(begin, end, I_BLOCK):
        here = first + i < end
        item = tl.load(ORDER + first + i, mask=here, other=0)
        for m in range(2 * l + 1):
            g = tl.load(of_mixed + item * COMPONENTS + m, mask=here, other=0.0)
            place = ((l * l + m) * n_count + item)[:, None] * CHANNELS + c[None, :]
            x = tl.load(X + place, mask=here[:, None] & (c < CHANNELS)[None, :], other=0.0)
            total += tl.sum(g[:, None] * x, 0)
            of_bias += tl.sum(g, 0)
    start = kind * (MIXTURES * CHANNELS) + tl.load(OF_MIXTURE + 2 * MIXTURES + u)
    step = tl.load(OF_MIXTURE + 3 * MIXTURES + u)
    tl.store(OF_W + start + step * c, total, mask=c < CHANNELS)
    if l == 0:
        tl.store(OF_B + kind * BIASES + u, of_bias)
"""
