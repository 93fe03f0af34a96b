"""The Triton form of `row_product`: the products of all |m| in one launch, two for the gradient of the matrices.

Edges are taken in an order in which the on-site ones come last, so that nearly all blocks of edges need one of the
two matrices only. The gradient of the matrices is a sum over all edges: each of `SHARES` programs takes a share of
the blocks of edges, and their sums are added in a fixed order. Sizes are constants of the sources.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from tracegrad.ops.gpu import kernel, multiplies, next_power_of_2, segments

BLOCK = 64  # rows and columns of the result that a program computes, at most
INNER = 16  # numbers that are multiplied in a step
LEAST = 16  # smallest block that Triton multiplies
SHARES = 16
OPTIONS = {"num_warps": 8, "num_stages": 2}  # with which the kernels fit into the registers
Sizes = tuple[
    tuple[int, int, int], ...
]  # for each of the rows: rows of an edge (1 or 2), and u and w of the matrix


def row_product(
    rows: list[Tensor], matrices: Tensor, on_site: Tensor, columns: list[int]
) -> list[Tensor] | None:
    """The form of the operator `row_product` for GPUs."""
    if not multiplies(matrices.dtype):
        return None
    return _products(rows, matrices, on_site, _sizes(rows, columns), transposed=False)


def row_product_gradient(
    gradients: list[Tensor],
    rows: list[Tensor],
    matrices: Tensor,
    on_site: Tensor,
    columns: list[int],
    needed: Sequence[bool],
) -> list[Tensor] | None:
    """The gradient of the operator `row_product` for GPUs."""
    if not multiplies(matrices.dtype):
        return None
    sizes, made = _sizes(rows, columns), []
    if any(needed[: len(rows)]):
        of_rows = _products(gradients, matrices, on_site, sizes, transposed=True)
        made = [x for x, flag in zip(of_rows, needed, strict=False) if flag]
    if needed[len(rows)]:
        shares = matrices.new_empty(SHARES, len(matrices))
        source, tasks = matrices_source(sizes)
        order, starts = segments(on_site, 2)
        kernel(source, "of_matrices")[(SHARES, tasks)](
            *(x.contiguous() for x in (*rows, *gradients)),
            *(shares, order, starts),
            SHARES=SHARES,
            INNER=INNER,
            PRECISION=_precision(),
            **OPTIONS,
        )
        made.append(shares.sum(0))
    return made


def _products(
    rows: Sequence[Tensor], matrices: Tensor, on_site: Tensor, sizes: Sizes, *, transposed: bool
) -> list[Tensor]:
    made = [
        x.new_empty(*x.shape[:2], u if transposed else w) for x, (_, u, w) in zip(rows, sizes, strict=True)
    ]
    edges = len(on_site)
    if edges:
        source, tasks = products_source(sizes, transposed)
        order, _ = segments(on_site, 2)
        blocks = -(-edges * max(p for p, _, _ in sizes) // BLOCK)
        kernel(source, "products")[(blocks, tasks)](
            *(x.contiguous() for x in (*rows, matrices)),
            *(*made, on_site.contiguous(), order, edges),
            BLOCK=BLOCK,
            INNER=INNER,
            PRECISION=_precision(),
            **OPTIONS,
        )
    return made


def _sizes(rows: Sequence[Tensor], columns: Sequence[int]) -> Sizes:
    return tuple((x.shape[1], x.shape[2], w) for x, w in zip(rows, columns, strict=True))


def _precision() -> str:
    """Whether products may be rounded to TF32, as those of torch."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


@lru_cache(maxsize=256)
def products_source(sizes: Sizes, transposed: bool) -> tuple[str, int]:
    """Source of the kernel that multiplies rows by the matrices, or by the transposed ones; number of its tasks."""
    names = [*(f"X{g}" for g in range(len(sizes))), "MATRICES", *(f"Y{g}" for g in range(len(sizes)))]
    lines = [
        f"def products({', '.join(names)}, ON_SITE, ORDER, edges_count,",
        "             BLOCK: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr):",
        "    row = (tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK))[:, None]",
    ]
    task, size = 0, sum(u * w for _, u, w in sizes)
    for g, (start, (p, u, w)) in enumerate(zip(_starts(sizes), sizes, strict=True)):
        inner, width, step_k, step_n = (w, u, 1, w) if transposed else (u, w, w, 1)
        block, blocks = _blocks(width)
        lines += [
            f"    block = tl.program_id(1) - {task}",
            f"    if (block >= 0) & (block < {blocks}):",
            f"        near = row // {p} < edges_count",
            f"        edge = tl.load(ORDER + row // {p}, mask=near, other=0)",
            "        kind = tl.load(ON_SITE + edge, mask=near, other=-1)",
            f"        r = edge * {p} + row % {p}",
            f"        n = block * {block} + tl.arange(0, {block})[None, :]",
            f"        total = tl.zeros((BLOCK, {block}), Y{g}.dtype.element_ty)",
            "        for chosen in range(2):",
            "            mine = kind == chosen",
            "            if tl.max(mine.to(tl.int32)) > 0:",
            f"                for first in range(0, {inner}, INNER):",
            "                    k = first + tl.arange(0, INNER)",
            f"                    x = tl.load(X{g} + r * {inner} + k[None, :],",
            f"                                mask=mine & (k[None, :] < {inner}), other=0.0)",
            f"                    at = {start} + chosen * {size} + k[:, None] * {step_k} + n * {step_n}",
            "                    matrix = tl.load(MATRICES + at,",
            f"                                     mask=(k[:, None] < {inner}) & (n < {width}), other=0.0)",
            "                    total = tl.dot(x, matrix, total, input_precision=PRECISION,",
            f"                                   out_dtype=Y{g}.dtype.element_ty)",
            "        total = tl.where((kind == 0) | (kind == 1), total, float('nan'))",
            f"        tl.store(Y{g} + r * {width} + n, total, mask=near & (n < {width}))",
        ]
        task += blocks
    return "\n".join(lines) + "\n", task


@lru_cache(maxsize=256)
def matrices_source(sizes: Sizes) -> tuple[str, int]:
    """Source of the kernel that computes shares of the gradient of the matrices, and the number of its tasks."""
    names = [f"{name}{g}" for name in "XG" for g in range(len(sizes))]
    lines = [
        f"def of_matrices({', '.join(names)}, SHARES_OF, ORDER, STARTS,",
        "                SHARES: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr):",
        "    share = tl.program_id(0).to(tl.int64)",
    ]
    task, size = 0, sum(u * w for _, u, w in sizes)
    for g, (start, (p, u, w)) in enumerate(zip(_starts(sizes), sizes, strict=True)):
        (block_u, blocks_u), (block_w, blocks_w) = _blocks(u), _blocks(w)
        lines += [
            f"    block = tl.program_id(1) - {task}",
            f"    if (block >= 0) & (block < {2 * blocks_u * blocks_w}):",
            f"        kind = block // {blocks_u * blocks_w}",
            f"        begin = tl.load(STARTS + kind) * {p}",
            f"        end = tl.load(STARTS + kind + 1) * {p}",
            f"        u = block // {blocks_w} % {blocks_u} * {block_u} + tl.arange(0, {block_u})[:, None]",
            f"        w = block % {blocks_w} * {block_w} + tl.arange(0, {block_w})[None, :]",
            f"        total = tl.zeros(({block_u}, {block_w}), SHARES_OF.dtype.element_ty)",
            "        for first in range(begin + share * INNER, end, SHARES * INNER):",
            "            row = first + tl.arange(0, INNER)",
            f"            edge = tl.load(ORDER + row // {p}, mask=row < end, other=0)",
            f"            r = edge * {p} + row % {p}",
            f"            x = tl.load(X{g} + r[None, :] * {u} + u, mask=(row[None, :] < end) & (u < {u}), other=0.0)",
            f"            g = tl.load(G{g} + r[:, None] * {w} + w, mask=(row[:, None] < end) & (w < {w}), other=0.0)",
            "            total = tl.dot(x, g, total, input_precision=PRECISION,",
            "                           out_dtype=SHARES_OF.dtype.element_ty)",
            f"        at = share * {2 * size} + kind * {size} + {start} + u * {w} + w",
            f"        tl.store(SHARES_OF + at, total, mask=(u < {u}) & (w < {w}))",
        ]
        task += 2 * blocks_u * blocks_w
    return "\n".join(lines) + "\n", task


def _starts(sizes: Sizes) -> list[int]:
    """Where the matrix of each of the rows starts."""
    return [sum(u * w for _, u, w in sizes[:g]) for g in range(len(sizes))]


def _blocks(width: int) -> tuple[int, int]:
    """Number of columns that a program takes, and number of programs that take all columns."""
    block = max(LEAST, min(BLOCK, next_power_of_2(width)))
    return block, -(-width // block)
