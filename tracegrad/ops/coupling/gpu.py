"""Triton form of Clebsch-Gordan products.

One program computes some components of one item of a result for some channels: an item of the output, or of the
gradient of a, of b or of a factor of the weights. It goes through the products that belong to its item, one after
another, so that sums have a fixed order and need no atomic operations. As in the C++ form the source is written out
coefficient by coefficient; it is divided into slices of components, so that the sums of a program fit into registers.

An entry of an index that is out of range makes the results that need it NaN, because a GPU cannot raise an error
without the host waiting for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor

from tracegrad.numerics.wigner_3j import wigner_3j
from tracegrad.ops.coupling.paths import CouplingPaths
from tracegrad.ops.gpu import kernel, next_power_of_2, segments
from tracegrad.ops.optional_tensors import contiguous

ZERO = 1e-12  # smaller coefficients are rounding errors
BLOCK = 64  # channels of a program
WARPS = 2
RESULTS = ("out", "a", "b", "w1", "w2")
TERMS = 300  # coefficients of a slice, unless one degree has more; more of them do not fit into registers


@dataclass(frozen=True)
class ResultSlice:
    """Components of a result that one program computes, and the numbers of the paths that contribute to them."""

    components: tuple[int, ...]
    paths: tuple[int, ...]


def couple(a: Tensor, b: Tensor, w1: Tensor, w2: Tensor | None, *others: Any) -> Tensor:
    """The form of the operator `couple` for GPUs."""
    *indices, items, key = others
    paths = CouplingPaths.named(key)
    return _result("out", paths, (a, b, w1, w2, None), indices, items)


def couple_gradient(
    gradients: Sequence[Tensor],
    a: Tensor,
    b: Tensor,
    w1: Tensor,
    w2: Tensor | None,
    *others: Any,
) -> list[Tensor]:
    """The gradient of the operator `couple` for GPUs."""
    *indices, items, key, needed = others
    paths = CouplingPaths.named(key)
    tensors = (a, b, w1, w2, gradients[0])
    return [
        _result(name, paths, tensors, indices, items)
        for name, flag in zip(RESULTS[1:], needed, strict=False)
        if flag
    ]


def _result(
    name: str,
    paths: CouplingPaths,
    tensors: Sequence[Any],
    indices: Sequence[Tensor | None],
    items: int,
) -> Tensor:
    """The output, or the gradient of one of the inputs; tensors are a, b, both factors and the gradient."""
    a, b, w1, w2, gradient = contiguous(tensors)
    ia, ib, io, r1, r2 = contiguous(indices)
    channels = a.shape[2]
    n = next((len(index) for index in (ia, ib, io, r1, r2) if index is not None), a.shape[1])
    counts = (a.shape[1], b.shape[1], items, len(w1), 0 if w2 is None else len(w2))
    shape, index, count = {
        "out": ((paths.dims[2], items, channels), io, items),
        "a": (a.shape, ia, a.shape[1]),
        "b": (b.shape, ib, b.shape[1]),
        "w1": (w1.shape, r1, len(w1)),
        "w2": (None if w2 is None else w2.shape, r2, counts[4]),
    }[name]
    result = a.new_empty(shape)
    if not result.numel():
        return result
    order, starts = (None, None) if index is None else segments(index, count)
    block = min(BLOCK, next_power_of_2(channels))
    per_channel = not (paths.shared and name == "b")  # otherwise a program sums over all channels
    grid = (count, -(-channels // block) if per_channel else 1, len(slices(paths, name)))
    run = kernel(source(paths, name), f"couple_{name}")
    run[grid](
        *(a, b, w1, w2, gradient, result),
        *(ia, ib, io, r1, r2, order, starts),
        *(n, *counts, channels),
        BLOCK=block,
        num_warps=WARPS,
    )
    return result


@lru_cache(maxsize=256)
def slices(paths: CouplingPaths, name: str) -> list[ResultSlice]:
    """Slices of one of `RESULTS`: whole degrees of a feature, or whole paths of a factor, with few coefficients."""
    degrees = [triple for triple, _ in paths.paths]
    numbers = range(len(degrees))
    sizes = [int((wigner_3j(*triple).abs() > ZERO).sum()) for triple in degrees]
    pieces: list[tuple[tuple[int, ...], tuple[int, ...]]]
    if name in ("w1", "w2"):
        pieces = [((path,), (path,)) for path in numbers]
    else:
        place = {"a": 0, "b": 1, "out": 2}[name]
        pieces = [
            (tuple(range(d**2, (d + 1) ** 2)), tuple(path for path in numbers if degrees[path][place] == d))
            for d in range(paths.degrees[place] + 1)
        ]
    made: list[ResultSlice] = []
    total = TERMS
    for components, of_piece in pieces:
        terms = sum(sizes[path] for path in of_piece)
        if total + terms > TERMS:
            made.append(ResultSlice(components, of_piece))
            total = terms
        else:
            last = made.pop()
            made.append(ResultSlice(last.components + components, tuple(sorted(last.paths + of_piece))))
            total += terms
    return made


@lru_cache(maxsize=256)
def source(paths: CouplingPaths, name: str) -> str:
    """Source of the kernel that computes one of `RESULTS`."""
    over_channels = paths.shared and name == "b"  # a program sums over all channels
    lines = [
        f"def couple_{name}(",
        "    A, B, W1, W2, G, RESULT, IA, IB, IO, R1, R2, ORDER, STARTS,",
        "    n_count, a_count, b_count, o_count, w1_count, w2_count, channels, BLOCK: tl.constexpr,",
        "):",
        "    item, part = tl.program_id(0).to(tl.int64), tl.program_id(2)",
        "    n_count, a_count, b_count = n_count.to(tl.int64), a_count.to(tl.int64), b_count.to(tl.int64)",
        "    o_count, w1_count, w2_count = o_count.to(tl.int64), w1_count.to(tl.int64), w2_count.to(tl.int64)",
        "    begin = item + 0 * n_count",
        "    end = begin + 1",
        "    if ORDER is not None:",
        "        begin = tl.load(STARTS + item)",
        "        end = tl.load(STARTS + item + 1)",
        "    c = tl.arange(0, BLOCK) + tl.program_id(1) * BLOCK",
    ]
    for part, of_part in enumerate(slices(paths, name)):
        loop = [*LOOP, *_products(paths, name, of_part)]
        lines += [
            f"    if part == {part}:",
            *(f"        sum{k} = tl.zeros((BLOCK,), RESULT.dtype.element_ty)" for k in of_part.components),
        ]
        if over_channels:
            lines += [
                "        for first in range(0, channels, BLOCK):",
                "            c = tl.arange(0, BLOCK) + first",
                *(f"            {line}" for line in loop),
            ]
        else:
            lines += [f"        {line}" for line in loop]
        for k in of_part.components:
            if over_channels:
                lines.append(f"        tl.store(RESULT + {k} * b_count + item, tl.sum(sum{k}, 0))")
            else:
                counted = {"out": "o_count", "a": "a_count", "b": "b_count"}.get(name)
                row = f"{k} * {counted} + item" if counted else f"item * {len(paths.paths)} + {k}"
                lines.append(f"        tl.store(RESULT + ({row}) * channels + c, sum{k}, mask=c < channels)")
    return "\n".join(lines) + "\n"


# The loop over the products of an item, up to the coefficients.
LOOP = """\
for k in range(begin, end):
    p = begin + (k - begin) + 0 * c  # as a block: masks of blocks and scalars fail in the interpreter
    if ORDER is not None:
        p = tl.load(ORDER + p)
    ja, jb, jo, j1, j2 = p, p, p, p, p
    if IA is not None:
        ja = tl.load(IA + p).to(tl.int64)
    if IB is not None:
        jb = tl.load(IB + p).to(tl.int64)
    if IO is not None:
        jo = tl.load(IO + p).to(tl.int64)
    if R1 is not None:
        j1 = tl.load(R1 + p).to(tl.int64)
    if R2 is not None:
        j2 = tl.load(R2 + p).to(tl.int64)
    at_a = (c < channels) & (ja >= 0) & (ja < a_count)
    at_b = (c < channels) & (jb >= 0) & (jb < b_count)
    at_o = (c < channels) & (jo >= 0) & (jo < o_count)
    at_1 = (c < channels) & (j1 >= 0) & (j1 < w1_count)
    at_2 = (c < channels) & (j2 >= 0) & (j2 < w2_count)
    fits = at_a & at_b & at_o & at_1
    if W2 is not None:
        fits = fits & at_2
    poison = tl.where(fits | (c >= channels), 0.0, float('nan')).to(RESULT.dtype.element_ty)
""".splitlines()


def _products(paths: CouplingPaths, name: str, of_part: ResultSlice) -> Iterator[str]:
    """The lines that add one product to the sums; all paths with the same (l1, l2) share their loads."""
    indent, count, zero = "    ", len(paths.paths), "other=0.0"
    groups: dict[tuple[int, int], list[tuple[int, int, Tensor]]] = {}
    for path, (((l1, l2, l3), scale), target) in enumerate(zip(paths.paths, paths.targets, strict=True)):
        if path in of_part.paths:
            groups.setdefault((l1, l2), []).append((path, target, scale * wigner_3j(l1, l2, l3)))
    loaded_a: set[int] = set()
    for (l1, l2), group in groups.items():
        if l1 not in loaded_a and name != "a":
            loaded_a = {l1}
            for i in range(l1**2, (l1 + 1) ** 2):
                yield f"{indent}a{i} = tl.load(A + ({i} * a_count + ja) * channels + c, mask=at_a, {zero})"
        if name != "b":
            for j in range(l2**2, (l2 + 1) ** 2):
                place = (
                    f"{j} * b_count + jb + 0 * c" if paths.shared else f"({j} * b_count + jb) * channels + c"
                )
                yield f"{indent}b{j} = tl.load(B + {place}, mask=at_b, {zero})"
        for path, target, table in group:
            first, second = (
                f"tl.load(W{f} + (j{f} * {count} + {path}) * channels + c, mask=at_{f}, {zero})"
                for f in (1, 2)
            )
            yield f"{indent}w = poison + {'1.0' if name == 'w1' else first}"
            if name != "w2":
                yield f"{indent}if W2 is not None:"
                yield f"{indent}    w = w * {second}"
            yield from _path(indent, name, (l1, l2), path, target, table)


def _path(
    indent: str, name: str, degrees: tuple[int, int], path: int, target: int, table: Tensor
) -> Iterator[str]:
    """One path: ``w`` is the weight without the factor whose gradient is computed."""
    l1, l2 = degrees
    if name != "out":
        for m3 in range(table.shape[2]):
            place = f"({target + m3} * o_count + jo) * channels + c"
            yield f"{indent}g{m3} = tl.load(G + {place}, mask=at_o, other=0.0)"
    terms: dict[str, list[str]] = {}
    for m1, m2, m3 in (table.abs() > ZERO).nonzero().tolist():
        value, i, j = repr(float(table[m1, m2, m3])), l1**2 + m1, l2**2 + m2
        if name == "out":
            terms.setdefault(f"sum{target + m3}", []).append(f"a{i} * b{j} * {value}")
        elif name == "a":
            terms.setdefault(f"sum{i}", []).append(f"g{m3} * b{j} * {value}")
        elif name == "b":
            terms.setdefault(f"sum{j}", []).append(f"g{m3} * a{i} * {value}")
        else:
            terms.setdefault(f"sum{path}", []).append(f"g{m3} * a{i} * b{j} * {value}")
    for total, products in terms.items():
        yield f"{indent}{total} += w * ({' + '.join(products)})"
