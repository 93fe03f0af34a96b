"""Triton form of pairs of channels.

One program computes some pairs, or some channels of v, of one item and one irrep. The source has a section for each
irrep, so that one launch serves all of them.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from tracegrad.ops.channel_pairs.layout import pair_counts, results_like, with_adjacent_channels
from tracegrad.ops.gpu import kernel

PAIRS, CHANNELS = 256, 64  # of a program


def channel_pairs(feature: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """The form of the operator `channel_pairs` for GPUs."""
    return _mixed(feature, feature, [s / 2 for s in scales])


def channel_pairs_gradient(
    gradients: Sequence[Tensor], feature: Sequence[Tensor], scales: Sequence[float], needed: Sequence[bool]
) -> list[Tensor]:
    """The gradient of the operator `channel_pairs` for GPUs."""
    made = _pull(feature, gradients[0], scales, [f.new_empty(f.shape) for f in feature])
    return [x for x, flag in zip(made, needed, strict=True) if flag]


def pulled_pairs(feature: Sequence[Tensor], g: Tensor, scales: Sequence[float]) -> list[Tensor]:
    """The form of the operator `pulled_pairs` for GPUs."""
    return _pull(feature, g, scales, results_like(feature))


def pulled_pairs_gradient(
    gradients: Sequence[Tensor],
    feature: Sequence[Tensor],
    g: Tensor,
    scales: Sequence[float],
    needed: Sequence[bool],
) -> list[Tensor]:
    """The gradient of the operator `pulled_pairs` for GPUs."""
    made: list[Tensor] = []
    if any(needed[:-1]):
        made = _pull(gradients, g, scales, [f.new_empty(f.shape) for f in feature])
    of_feature = [x for x, flag in zip(made, needed, strict=False) if flag]
    return [*of_feature, _mixed(gradients, feature, scales)] if needed[-1] else of_feature


def _mixed(a: Sequence[Tensor], b: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """Mixed products s (<a_i, b_j> + <a_j, b_i>) of all irreps."""
    out = a[0].new_empty(a[0].shape[1], sum(pair_counts(a)))
    _run("mixed", out, with_adjacent_channels(a), with_adjacent_channels(b), scales)
    return out


def _pull(
    feature: Sequence[Tensor], g: Tensor, scales: Sequence[float], results: list[Tensor]
) -> list[Tensor]:
    """v = s S f, written to the results."""
    _run("pull", g.contiguous(), with_adjacent_channels(feature), results, scales)
    return results


def _run(name: str, table: Tensor, x: Sequence[Tensor], y: Sequence[Tensor], scales: Sequence[float]) -> None:
    if not table.numel():
        return
    shapes = tuple((len(f), f.shape[2]) for f in x)
    run: Any = kernel(source(name, shapes, tuple(scales)), name)
    steps = (step for a, b in zip(x, y, strict=True) for step in (*a.stride()[:2], *b.stride()[:2]))
    grid = (len(table), sum(_blocks(name, c) for _, c in shapes))
    run[grid](table, *x, *y, *steps, num_warps=4)


def _blocks(name: str, channels: int) -> int:
    """Number of programs for one item and one irrep."""
    return -(-channels // CHANNELS) if name == "pull" else -(-channels * (channels + 1) // 2 // PAIRS)


@lru_cache(maxsize=64)
def source(name: str, shapes: tuple[tuple[int, int], ...], scales: tuple[float, ...]) -> str:
    """Source of a kernel.

    Args:
        name: "mixed" or "pull".
        shapes: components and channels of each irrep.
        scales: factor of each irrep.
    """
    numbers = range(len(shapes))
    tensors = ", ".join(f"{x}{k}" for x in "XY" for k in numbers)
    steps = ", ".join(f"{x}_{step}{k}_count" for k in numbers for x in "xy" for step in "mn")
    width = sum(c * (c + 1) // 2 for _, c in shapes)
    lines = [
        f"def {name}(TABLE, {tensors}, {steps}):",
        "    item = tl.program_id(0).to(tl.int64)",
        "    block = tl.program_id(1)",
        f"    row = TABLE + item * {width}",
    ]
    block = start = 0
    for k, ((m, c), scale) in enumerate(zip(shapes, scales, strict=True)):
        after = block + _blocks(name, c)
        section = _SECTIONS[name].format(
            k=k,
            m=m,
            c=c,
            scale=repr(scale),
            block=block,
            start=start,
            pairs=PAIRS,
            part=min(CHANNELS, 1 << (c - 1).bit_length()),
            sums="\n".join(f"sum{i} = tl.zeros((part,), TABLE.dtype.element_ty)" for i in range(m)),
            adds="\n    ".join(
                f"sum{i} += tl.sum(s * tl.load(x + {i} * x_m{k}_count + j, mask=j < {c}, other=0.0), 1)"
                for i in range(m)
            ),
            stores="\n".join(
                f"tl.store(y + {i} * y_m{k}_count, sum{i} * {scale!r}, mask=column < {c})" for i in range(m)
            ),
        )
        lines.append(f"    if (block >= {block}) & (block < {after}):")
        lines += [f"        {line}" for line in section.splitlines()]
        block, start = after, start + c * (c + 1) // 2
    return "\n".join(lines) + "\n"


# i and j of a pair p: row i of the upper triangle starts at i (2 c + 1 - i) / 2.
_MIXED = """\
p = (block - {block}) * {pairs} + tl.arange(0, {pairs})
pair = tl.minimum(p, {c} * ({c} + 1) // 2 - 1)
root = tl.sqrt(((2 * {c} + 1) * (2 * {c} + 1) - 8 * pair).to(tl.float32))
i = ((2 * {c} + 1 - root) / 2).to(tl.int32)
i = tl.where(i * (2 * {c} + 1 - i) // 2 > pair, i - 1, i)
i = tl.where((i + 1) * (2 * {c} - i) // 2 <= pair, i + 1, i)
j = pair - i * (2 * {c} + 1 - i) // 2 + i
x = X{k} + item * x_n{k}_count
y = Y{k} + item * y_n{k}_count
sum = tl.zeros(({pairs},), TABLE.dtype.element_ty)
for component in range({m}):
    sum += tl.load(x + i) * tl.load(y + j) + tl.load(x + j) * tl.load(y + i)
    x += x_m{k}_count
    y += y_m{k}_count
tl.store(row + {start} + p, sum * {scale}, mask=p < {c} * ({c} + 1) // 2)
"""
_PULL = """\
part: tl.constexpr = {part}
column = (block - {block}) * part + tl.arange(0, part)
i = column[:, None]
x = X{k} + item * x_n{k}_count
y = Y{k} + item * y_n{k}_count + column
{sums}
for first in range(0, {c}, part):
    j = (first + tl.arange(0, part))[None, :]
    low = tl.minimum(i, j)
    pair = low * (2 * {c} + 1 - low) // 2 + tl.maximum(i, j) - low
    s = tl.load(row + {start} + pair, mask=(i < {c}) & (j < {c}), other=0.0)
    s = tl.where(i == j, 2 * s, s)
    {adds}
{stores}
"""
_SECTIONS = {"mixed": _MIXED, "pull": _PULL}
