"""Triton form of the linear maps: the matrix products of all irreps and kinds in one kernel.

The products are small and of many shapes, so that the library of the GPU would need one launch for each. Rows of a
product are the components of the items, sorted by kind; a program computes a tile of rows and columns of one irrep.
Numbers are multiplied as they are, never rounded to TF32. Items of a kind that does not exist stand in two groups
behind the others; their results are NaN.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from tracegrad.ops.gpu import kernel, multiplies, segments
from tracegrad.ops.optional_tensors import OptionalTensor

ROWS, TILE = 64, 32  # of a tile: rows, and columns or terms of a sum
PARTS = 32  # into which the sums over items for the gradients of weights are divided
WARPS = 4
Layout = tuple[tuple[int, int, int], ...]  # components, channels of x and of the result, for each irrep


def irreps_linear(
    x: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[OptionalTensor],
    plus: Sequence[OptionalTensor],
    kind: OptionalTensor,
    scale: float,
) -> list[Tensor] | None:
    """The form of the operator `irreps_linear` for GPUs."""
    if not multiplies(x[0].dtype):
        return None
    call = _Maps(x, weights, kind, scale)
    return call.multiply(x, weights, biases, plus)


def irreps_linear_gradient(
    gradients: Sequence[Tensor],
    x: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[OptionalTensor],
    plus: Sequence[OptionalTensor],
    kind: OptionalTensor,
    scale: float,
    needed: Sequence[bool],
) -> list[Tensor] | None:
    """The gradient of the operator `irreps_linear` for GPUs."""
    if not multiplies(x[0].dtype):
        return None
    call, count = _Maps(x, weights, kind, scale), len(x)
    none = [None] * count
    of_x: Sequence[OptionalTensor] = none
    of_weights: Sequence[OptionalTensor] = [None] * len(weights)
    if any(needed[:count]):
        of_x = call.multiply(gradients, weights, none, none, transposed=True)
    if any(needed[count : count + len(weights)]):
        of_weights = call.outer(x, gradients, weights)
    flags = needed[count + len(weights) :]
    of_biases = [
        g.sum((0, 1)) if bias is not None and flag else None
        for g, bias, flag in zip(gradients, biases, flags, strict=False)
    ]
    made = (*of_x, *of_weights, *of_biases)
    return [y for y, flag in zip(made, needed, strict=False) if flag and y is not None]


class _Maps:
    """Shapes of the maps of all irreps, and the items sorted by kind."""

    def __init__(self, x: Sequence[Tensor], weights: Sequence[Tensor], kind: OptionalTensor, scale: float):
        self.items, self.kinds, self.scale = len(x[0]), len(weights) // len(x), scale
        self.layout = tuple((*part.shape[1:], w.shape[1]) for part, w in zip(x, weights, strict=False))
        self.sorted = (None, None) if kind is None else segments(kind, self.kinds)

    def multiply(
        self,
        x: Sequence[Tensor],
        weights: Sequence[Tensor],
        biases: Sequence[OptionalTensor],
        plus: Sequence[OptionalTensor],
        *,
        transposed: bool = False,
    ) -> list[Tensor]:
        """The maps, or the transposed maps."""
        made = [
            part.new_empty(self.items, m, c_in if transposed else c_out)
            for part, (m, c_in, c_out) in zip(x, self.layout, strict=True)
        ]
        if not self.items:
            return made
        rows = self.items * max(m for m, *_ in self.layout)
        tiles = -(-rows // ROWS) + (0 if self.sorted[0] is None else self.kinds + 2)
        columns = max(c_in if transposed else c_out for _, c_in, c_out in self.layout)
        run = kernel(multiply_source(self.layout, self.scale, transposed=transposed), "multiply")
        run[tiles, len(self.layout), -(-columns // TILE)](
            *(None if y is None else y.contiguous() for y in (*x, *made, *biases, *plus)),
            *(_flat(weights), *self.sorted, self.items, self.kinds),
            ROWS=ROWS,
            TILE=TILE,
            num_warps=WARPS,
        )
        return made

    def outer(
        self, x: Sequence[Tensor], gradients: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> list[Tensor]:
        """The gradients of the weights."""
        parts = max(PARTS // self.kinds, 1)
        flat = x[0].new_empty(parts, sum(w.numel() for w in weights))
        run = kernel(outer_source(self.layout, self.scale), "outer")
        first, second = (-(-max(shape[k] for shape in self.layout) // TILE) for k in (1, 2))
        run[len(self.layout) * first * second, self.kinds, parts](
            *(y.contiguous() for y in (*x, *gradients)),
            *(flat, *self.sorted, self.items, self.kinds),
            FIRST=first,
            SECOND=second,
            PARTS=parts,
            ROWS=ROWS,
            TILE=TILE,
            num_warps=WARPS,
        )
        split = torch.ops.aten.split_with_sizes_copy.default(flat.sum(0), [w.numel() for w in weights])
        return [made.view(w.shape) for made, w in zip(split, weights, strict=True)]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([x.reshape(-1) for x in tensors])


@lru_cache(maxsize=256)
def multiply_source(layout: Layout, scale: float, *, transposed: bool) -> str:
    """Source of the kernel of the maps, or of the transposed maps."""
    tensors = [f"{letter}{k}" for letter in ("X", "Y", "B", "P") for k in range(len(layout))]
    lines = [
        "def multiply(",
        f"    {', '.join(tensors)},",
        "    WEIGHTS, ORDER, STARTS, item_count, kind_count, ROWS: tl.constexpr, TILE: tl.constexpr,",
        "):",
        "    number = X0.dtype.element_ty",
        "    tile = tl.program_id(0).to(tl.int64)",
        "    part = tl.program_id(1)",
        "    o = tl.program_id(2) * TILE + tl.arange(0, TILE)[None, :]",
    ]
    size, offset = sum(c_in * c_out for _, c_in, c_out in layout), 0
    for k, (m, c_in, c_out) in enumerate(layout):
        inner, outer = (c_out, c_in) if transposed else (c_in, c_out)
        steps = (1, c_out) if transposed else (c_out, 1)
        lines += [
            f"    if (part == {k}) & (tl.program_id(2) * TILE < {outer}):",
            *(f"        {line}" for line in _rows_of_tile(m)),
            "        if first < last:",
            "            r = first + tl.arange(0, ROWS)",
            "            inside = (r < last)[:, None]",
            f"            item = r // {m}",
            "            if ORDER is not None:",
            "                item = tl.load(ORDER + item, mask=r < last, other=0)",
            f"            row = (item * {m} + r % {m})[:, None]",
            "            y = tl.zeros((ROWS, TILE), number)",
            f"            for depth in range(0, {inner}, TILE):",
            "                i = depth + tl.arange(0, TILE)",
            f"                at = inside & (i[None, :] < {inner})",
            f"                x = tl.load(X{k} + row * {inner} + i[None, :], mask=at, other=0.0)",
            f"                at = (i[:, None] < {inner}) & (o < {outer}) & (kind + 0 * o < kind_count)",
            f"                place = kind * {size} + {offset} + i[:, None] * {steps[0]} + o * {steps[1]}",
            "                w = tl.load(WEIGHTS + place, mask=at, other=0.0)",
            '                y += tl.dot(x, w, input_precision="ieee", out_dtype=number)',
            f"            y = y * {scale / math.sqrt(c_in)!r}",
            "            y = tl.where(kind + 0 * o < kind_count, y, float('nan'))",
            f"            if B{k} is not None:",
            f"                y += tl.load(B{k} + o, mask=o < {outer}, other=0.0)",
            f"            at = inside & (o < {outer})",
            f"            if P{k} is not None:",
            f"                y += tl.load(P{k} + row * {outer} + o, mask=at, other=0.0)",
            f"            tl.store(Y{k} + row * {outer} + o, y, mask=at)",
        ]
        offset += c_in * c_out
    return "\n".join(lines) + "\n"


def _rows_of_tile(m: int) -> Iterator[str]:
    """The kind of a tile of rows, and its first row and the last one of its kind."""
    yield "first = tile * ROWS"
    yield f"last = item_count.to(tl.int64) * {m}"
    yield "kind = tile * 0"
    yield "if ORDER is not None:"
    yield "    first = tile * 0"
    yield "    last = tile * 0"
    yield "    done = tile * 0"
    yield "    for k in range(0, kind_count + 2):"
    yield "        begin = tl.load(STARTS + tl.minimum(k, kind_count))"
    yield "        end = tl.load(STARTS + tl.minimum(k + 1, kind_count))"
    yield "        if k == kind_count:"
    yield "            end = begin * 0 + tl.load(STARTS)"
    yield "            begin = begin * 0"
    yield "        if k > kind_count:"
    yield "            end = begin * 0 + item_count"
    yield f"        count = ((end - begin) * {m} + ROWS - 1) // ROWS"
    yield "        here = (tile >= done) & (tile < done + count)"
    yield f"        first = tl.where(here, begin * {m} + (tile - done) * ROWS, first)"
    yield f"        last = tl.where(here, end * {m}, last)"
    yield "        kind = tl.where(here, k, kind)"
    yield "        done += count"


@lru_cache(maxsize=256)
def outer_source(layout: Layout, scale: float) -> str:
    """Source of the kernel of the gradients of weights, before the sum over `PARTS`."""
    tensors = [f"{letter}{k}" for letter in ("X", "G") for k in range(len(layout))]
    lines = [
        "def outer(",
        f"    {', '.join(tensors)},",
        "    RESULT, ORDER, STARTS, item_count, kind_count,",
        "    FIRST: tl.constexpr, SECOND: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,",
        "):",
        "    number = X0.dtype.element_ty",
        "    part = tl.program_id(0) // (FIRST * SECOND)",
        "    i = tl.program_id(0) // SECOND % FIRST * TILE + tl.arange(0, TILE)[:, None]",
        "    o = tl.program_id(0) % SECOND * TILE + tl.arange(0, TILE)[None, :]",
        "    kind = tl.program_id(1).to(tl.int64)",
        "    begin = kind * 0",
        "    end = begin + item_count",
        "    if ORDER is not None:",
        "        begin = begin + tl.load(STARTS + kind)",
        "        end = begin * 0 + tl.load(STARTS + kind + 1)",
        "    each = (end - begin + PARTS - 1) // PARTS",
        "    begin = begin + tl.program_id(2) * each",
        "    end = tl.minimum(begin + each, end)",
    ]
    size, offset = sum(c_in * c_out for _, c_in, c_out in layout), 0
    for k, (m, c_in, c_out) in enumerate(layout):
        lines += [
            f"    if part == {k}:",
            "        y = tl.zeros((TILE, TILE), number)",
            f"        for at in range(begin * {m}, end * {m}, ROWS):",
            "            r = at + tl.arange(0, ROWS)",
            f"            inside = r < end * {m}",
            f"            item = r // {m}",
            "            if ORDER is not None:",
            "                item = tl.load(ORDER + item, mask=inside, other=0)",
            f"            row = item * {m} + r % {m}",
            f"            fits = inside[None, :] & (i < {c_in})",
            f"            x = tl.load(X{k} + row[None, :] * {c_in} + i, mask=fits, other=0.0)",
            f"            fits = inside[:, None] & (o < {c_out})",
            f"            g = tl.load(G{k} + row[:, None] * {c_out} + o, mask=fits, other=0.0)",
            '            y += tl.dot(x, g, input_precision="ieee", out_dtype=number)',
            "        group = tl.program_id(2) * kind_count.to(tl.int64) + kind",
            f"        place = group * {size} + {offset} + i * {c_out} + o",
            f"        fits = (i < {c_in}) & (o < {c_out})",
            f"        tl.store(RESULT + place, y * {scale / math.sqrt(c_in)!r}, mask=fits)",
        ]
        offset += c_in * c_out
    return "\n".join(lines) + "\n"
