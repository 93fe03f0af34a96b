"""The form of `row_product` for CPUs: products of the matrix libraries, in place for the few on-site edges."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tracegrad.ops import native
from tracegrad.ops.gpu import segments
from tracegrad.ops.matrix_product import product


def row_product(rows: list[Tensor], matrices: Tensor, on_site: Tensor, columns: list[int]) -> list[Tensor]:
    """The products of all edges, and in their place those of on-site edges."""
    loops = _loops(on_site)
    return [
        _product(x, matrix, of_loops, loops)
        for x, matrix, of_loops in zip(rows, *_both(matrices, rows, columns), strict=True)
    ]


def row_product_gradient(
    gradients: list[Tensor],
    rows: list[Tensor],
    matrices: Tensor,
    on_site: Tensor,
    columns: list[int],
    needed: Sequence[bool],
) -> list[Tensor]:
    """The gradient of `row_product`."""
    loops = _loops(on_site)
    gradients = [g.contiguous() for g in gradients]
    made = [
        _product(g, matrix.T, of_loops.T, loops)
        for g, matrix, of_loops, flag in zip(gradients, *_both(matrices, rows, columns), needed, strict=False)
        if flag
    ]
    if needed[len(rows)]:
        of_matrices = torch.empty_like(matrices)
        for x, g, of_matrix, of_loops in zip(
            rows, gradients, *_both(of_matrices, rows, columns), strict=True
        ):
            directed = g.index_fill(0, loops, 0.0) if len(loops) else g
            torch.mm(x.flatten(0, 1).T, directed.flatten(0, 1), out=of_matrix)
            torch.mm(x[loops].flatten(0, 1).T, g[loops].flatten(0, 1), out=of_loops)
        made.append(of_matrices)
    return made


def _loops(on_site: Tensor) -> Tensor:
    """Positions of the on-site edges."""
    native.index("on_site", on_site, 2)
    order, starts = segments(on_site, 2)
    return order[int(starts[1]) :]


def _product(x: Tensor, matrix: Tensor, of_loops: Tensor, loops: Tensor) -> Tensor:
    y = product(x.flatten(0, 1), matrix).view(*x.shape[:2], matrix.shape[1])
    return y.index_copy_(0, loops, x.index_select(0, loops) @ of_loops) if len(loops) else y


def _both(flat: Tensor, rows: list[Tensor], columns: list[int]) -> Iterator[list[Tensor]]:
    """Views of the matrices of all rows, and of those of on-site edges."""
    start = 0
    for _ in range(2):
        views = []
        for x, width in zip(rows, columns, strict=True):
            numbers = x.shape[2] * width
            views.append(flat.narrow(0, start, numbers).view(x.shape[2], width))
            start += numbers
        yield views
