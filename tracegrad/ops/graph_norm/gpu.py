"""Triton form of the graph norm: one kernel for statistics, one for the result, and one for the gradients.

A program takes some items of one graph, in the order of `segments`, and one feature. The kernel of statistics stores
the sums of each share of a graph; those of the other kernels add up the shares of their graph first. Sums of squares
are taken about the mean of a share and moved to the mean of the graph, which loses no digits. Items of graphs that do
not exist make up two more groups behind the last graph; their results are NaN.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from tracegrad.ops.gpu import kernel, next_power_of_2, segments
from tracegrad.ops.graph_norm.eps import EPS
from tracegrad.ops.optional_tensors import OptionalTensor, contiguous

SHARES = 32  # of a graph
ITEMS = 16  # that a program takes at once
WARPS = 4
Layout = tuple[
    tuple[int, int, bool], ...
]  # components and channels of each feature, and whether it has a rotation


def graph_norm(
    x: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[OptionalTensor],
    plus: Sequence[OptionalTensor],
    rotations: Sequence[OptionalTensor],
    batch: Tensor,
    counts: Tensor,
) -> list[Tensor]:
    """The form of the operator `graph_norm` for GPUs."""
    call = _GraphNorm(x, weights, rotations, batch, len(counts))
    out = [part.new_empty(part.shape) for part in x]
    if len(batch):
        statistics = call.statistics([None] * len(x))
        call.run("normalise", 2, (biases, plus, out), statistics)
    return out


def graph_norm_gradient(
    gradients: Sequence[Tensor],
    x: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[OptionalTensor],
    plus: Sequence[OptionalTensor],
    rotations: Sequence[OptionalTensor],
    batch: Tensor,
    counts: Tensor,
    needed: Sequence[bool],
) -> list[Tensor] | None:
    """The gradient of the operator `graph_norm` for GPUs."""
    call = _GraphNorm(x, weights, rotations, batch, len(counts))
    of_x = [part.new_empty(part.shape) for part in x]
    sizes = [len(w) for w in weights]
    sums = counts.new_zeros(2 * sum(sizes))
    if len(batch):
        of_out = [g.contiguous() for g in gradients]
        statistics = call.statistics(of_out)
        partial = counts.new_empty((len(counts) + 2) * SHARES, 2 * sum(sizes))
        none = [None] * len(x)
        call.run("gradients", 2, (of_out, none, of_x), statistics, partial)
        sums = partial.sum(0)
    of_weights = torch.ops.aten.split_with_sizes_copy.default(sums, sizes * 2)
    flags = list(zip(needed, (*x, *weights, *biases), (*of_x, *of_weights), strict=False))
    return [made for flag, given, made in flags if flag and given is not None]


class _GraphNorm:
    """The arguments that all kernels have."""

    def __init__(
        self,
        x: Sequence[Tensor],
        weights: Sequence[Tensor],
        rotations: Sequence[OptionalTensor],
        batch: Tensor,
        graphs: int,
    ):
        self.batch, self.graphs, self.like = batch, graphs, x[0]
        self.layout = tuple(
            (*part.shape[1:], rotation is not None) for part, rotation in zip(x, rotations, strict=True)
        )
        self._given = contiguous(x), contiguous(weights), contiguous(rotations)

    def statistics(self, gradients: Sequence[OptionalTensor]) -> Tensor:
        """Sums [4, graph, share, row]: of x, squares of x, and the same with the gradients in place of one x."""
        rows = sum(m for m, *_ in self.layout)
        statistics = self.like.new_empty(4, self.graphs, SHARES, rows)
        none = [None] * len(gradients)
        self.run("statistics", 0, (gradients, none, none), statistics)
        return statistics

    def run(
        self,
        name: str,
        more: int,
        others: Sequence[Sequence[OptionalTensor]],
        statistics: Tensor,
        *partial: Tensor,
    ) -> None:
        """Launch a kernel for all graphs and ``more`` shares of items without a graph."""
        tensors = [x for parts in (*self._given, *map(contiguous, others)) for x in parts]
        order, starts = segments(self.batch, self.graphs)
        with_gradients = others[0][0] is not None and name != "normalise"
        run = kernel(source(self.layout, name, gradients=with_gradients), f"graph_norm_{name}")
        if not self.graphs + more:
            return
        run[self.graphs + more, SHARES, len(self.layout)](
            *tensors,
            *(order, starts, statistics, *(partial or [None])),
            *(len(self.batch), self.graphs),
            SHARES=SHARES,
            ITEMS=ITEMS,
            num_warps=WARPS,
        )


@lru_cache(maxsize=256)
def source(layout: Layout, name: str, *, gradients: bool) -> str:
    """Source of one of the kernels statistics, normalise and gradients.

    Args:
        layout: of the features.
        name: of the kernel.
        gradients: whether there are gradients; they are in place of the biases then.
    """
    tensors = [f"{letter}{k}" for letter in ("X", "W", "R", "B", "P", "OUT") for k in range(len(layout))]
    lines = [
        f"def graph_norm_{name}(",
        f"    {', '.join(tensors)},",
        "    ORDER, STARTS, STATISTICS, PARTIAL, item_count, graph_count,",
        "    SHARES: tl.constexpr, ITEMS: tl.constexpr,",
        "):",
        "    graph = tl.program_id(0).to(tl.int64)",
        "    share = tl.program_id(1)",
        "    part = tl.program_id(2)",
        "    graph_count = graph_count.to(tl.int64)",
        "    item_count = item_count.to(tl.int64)",
        "    begin = tl.load(STARTS + tl.minimum(graph, graph_count))",
        "    end = tl.load(STARTS + tl.minimum(graph + 1, graph_count))",
        "    if graph == graph_count:",
        "        begin = begin * 0",
        "        end = tl.load(STARTS)",
        "    if graph > graph_count:",
        "        end = item_count",
        "    each = (end - begin + SHARES - 1) // SHARES",
        "    first = begin + share * each",
        "    last = tl.minimum(first + each, end)",
        "    number = X0.dtype.element_ty",
    ]
    rows, width = sum(m for m, *_ in layout), sum(c for _, c, _ in layout)
    row = column = 0
    for k, (m, c, rotated) in enumerate(layout):
        part = _Part(k, m, c, rotated, row, rows, column, width, gradients)
        lines.append(f"    if part == {k}:")
        body = {"statistics": part.statistics, "normalise": part.normalise, "gradients": part.gradients_of}
        lines += [f"        {line}" for line in body[name]()]
        row, column = row + m, column + c
    return "\n".join(lines) + "\n"


class _Part:
    """Lines of the kernels for one feature."""

    def __init__(
        self,
        k: int,
        m: int,
        c: int,
        rotated: bool,
        row: int,
        rows: int,
        column: int,
        width: int,
        gradients: bool,
    ):
        self.k, self.m, self.c, self.rotated, self.row, self.rows = k, m, c, rotated, row, rows
        self.column, self.width, self.gradients = column, width, gradients

    def statistics(self) -> Iterator[str]:
        """Sums over the items of a share."""
        kinds = ("x", "h") if self.gradients else ("x",)
        yield from self._channels()
        for kind in kinds:
            for m in range(self.m):
                yield f"sum_{kind}{m} = tl.zeros((ITEMS,), number)"
        yield from self._loop()
        for kind in kinds:
            for m in range(self.m):
                yield f"    found{m} = tl.sum({self._load(kind, m)}, 1)"
            for i in range(self.m):
                turned = (f"{self._rotation(i, m)} * found{m}" for m in range(self.m))
                yield f"    sum_{kind}{i} += {' + '.join(turned) if self.rotated else f'found{i}'}"
        for position, kind in enumerate(kinds):
            for m in range(self.m):
                yield f"total_{kind}{m} = tl.sum(sum_{kind}{m}, 0)"
                yield f"tl.store({self._place(2 * position, m)}, total_{kind}{m})"
        if self.m > 1:
            return
        for kind in kinds:
            yield f"mean_{kind} = total_{kind}0 / (tl.maximum(last - first, 1) * {self.c}).to(number)"
            yield f"square_{kind} = tl.zeros((ITEMS,), number)"
        yield from self._loop()
        for kind in kinds:
            yield f"    d_{kind} = tl.where(fits, {self._load(kind, 0)} - mean_{kind}, 0.0)"
        for kind in kinds:
            yield f"    square_{kind} += tl.sum(d_x * d_{kind}, 1)"
        for position, kind in enumerate(kinds):
            yield f"tl.store({self._place(2 * position + 1, 0)}, tl.sum(square_{kind}, 0))"

    def normalise(self) -> Iterator[str]:
        """The result for the items of a share."""
        yield from self._channels()
        yield from self._averages(("x",))
        yield from self._loop()
        for m in range(self.m):
            yield f"    y = ({self._load('x', m)} - {self._turned_back('x', m)}) * (scale * w) + poison"
            yield f"    if B{self.k} is not None:"
            yield f"        y += tl.load(B{self.k} + c, mask=c < {self.c}, other=0.0)"
            yield f"    if P{self.k} is not None:"
            yield f"        y += tl.load(P{self.k} + {self._at(m)}, mask=fits, other=0.0)"
            yield f"    tl.store(OUT{self.k} + {self._at(m)}, y, mask=fits)"

    def gradients_of(self) -> Iterator[str]:
        """The gradients of x, and the sums over a share that make up those of weights and biases."""
        yield from self._channels()
        yield from self._averages(("x", "h"))
        yield f"of_weight = tl.zeros((1, {self._block}), number)"
        yield f"of_bias = tl.zeros((1, {self._block}), number)"
        yield from self._loop()
        for m in range(self.m):
            yield f"    g = tl.load(B{self.k} + {self._at(m)}, mask=fits, other=0.0)"
            yield f"    d = tl.where(fits, {self._load('x', m)} - {self._turned_back('x', m)}, 0.0)"
            yield f"    y = (g * w - {self._turned_back('h', m)}) * scale - d * slope + poison"
            yield f"    tl.store(OUT{self.k} + {self._at(m)}, y, mask=fits)"
            yield "    of_weight += tl.sum(g * d * scale + tl.where(fits, poison, 0.0), 0)[None, :]"
            yield "    of_bias += tl.sum(g, 0)[None, :]"
        place = f"PARTIAL + (graph * SHARES + share) * {2 * self.width} + {self.column} + c"
        yield f"tl.store({place}, of_weight, mask=c < {self.c})"
        yield f"tl.store({place} + {self.width}, of_bias, mask=c < {self.c})"

    @property
    def _block(self) -> int:
        return next_power_of_2(self.c)

    def _channels(self) -> Iterator[str]:
        yield f"c = tl.arange(0, {self._block})[None, :]"
        yield f"w = tl.load(W{self.k} + c, mask=c < {self.c}, other=0.0)"

    def _loop(self) -> Iterator[str]:
        yield "for at in range(first, last, ITEMS):"
        yield "    p = at + tl.arange(0, ITEMS)"
        yield "    inside = p < last"
        yield "    item = tl.load(ORDER + p, mask=inside, other=0)"
        yield f"    fits = inside[:, None] & (c < {self.c})"

    def _at(self, m: int) -> str:
        return f"(item[:, None] * {self.m} + {m}) * {self.c} + c"

    def _load(self, kind: str, m: int) -> str:
        """x, or the gradient times the weight (h)."""
        letter, factor = ("X", "") if kind == "x" else ("B", " * w")
        return f"tl.load({letter}{self.k} + {self._at(m)}, mask=fits, other=0.0){factor}"

    def _rotation(self, i: int, m: int) -> str:
        place = f"R{self.k} + (item * {self.m} + {i}) * {self.m} + {m}"
        return f"tl.load({place}, mask=inside, other=0.0)"

    def _turned_back(self, kind: str, m: int) -> str:
        if not self.rotated:
            return f"mean_{kind}{m}"
        return f"({' + '.join(f'{self._rotation(i, m)} * mean_{kind}{i}' for i in range(self.m))})[:, None]"

    def _place(self, statistic: int, m: int, share: str = "share", graph: str = "graph") -> str:
        place = f"(({statistic} * graph_count + {graph}) * SHARES + {share}) * {self.rows} + {self.row + m}"
        return f"STATISTICS + {place}"

    def _averages(self, kinds: tuple[str, ...]) -> Iterator[str]:
        """Averages over a graph from the sums over its shares."""
        yield "j = tl.arange(0, SHARES)"
        yield "exists = (graph + 0 * j) < graph_count"
        yield f"terms = (tl.maximum(end - begin, 1) * {self.c}).to(number)"
        for position, kind in enumerate(kinds):
            for m in range(self.m):
                yield f"part_{kind} = tl.load({self._place(2 * position, m, 'j')}, mask=exists, other=0.0)"
                yield f"mean_{kind}{m} = tl.sum(part_{kind}, 0) / terms"
        # With zeros of type number: a constant would be float32.
        yield "zero = mean_x0 * 0"
        yield "poison = tl.where(graph < graph_count, zero, zero + float('nan'))"
        yield "scale = zero + 1"
        yield "slope = zero"
        if self.m > 1:
            return
        yield f"sizes = (tl.maximum(tl.minimum(begin + (j + 1) * each, end) - begin - j * each, 0) * {self.c})"
        yield "sizes = sizes.to(number)"
        for kind in kinds:
            yield f"apart_{kind} = part_{kind} / tl.maximum(sizes, 1.0) - mean_{kind}0"
        for position, kind in enumerate(kinds):
            yield f"part = tl.load({self._place(2 * position + 1, 0, 'j')}, mask=exists, other=0.0)"
            yield f"square_{kind} = tl.sum(part + sizes * apart_x * apart_{kind}, 0) / terms"
        yield "deviation = tl.sqrt(square_x)"
        yield f"scale = 1 / (deviation + {EPS})"
        if "h" in kinds:
            # Where all numbers are equal, the deviation is zero; so is then its gradient, not 0/0.
            yield "safe = tl.where(deviation > 0, deviation, zero + 1)"
            yield "slope = tl.where(deviation > 0, scale * scale / safe * square_h, zero)"
