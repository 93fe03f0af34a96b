"""The operator that multiplies the rows of all |m| (`tracegrad.ops.edge_rows`), each with its matrix.

On-site edges have matrices of their own:

    out[g][e, p, w] = sum over u of rows[g][e, p, u] M[g][u, w]      M: those of on-site edges where e is on-site
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracegrad.numerics.precision import full_precision
from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.operator import Operator
from tracegrad.ops.row_product import cpu, gpu


@full_precision
def row_product(
    rows: Sequence[Float[Tensor, "edges _p _u"]],
    matrices: Float[Tensor, " numbers"],
    on_site: Int[Tensor, " edges"],
    columns: Sequence[int],
) -> list[Float[Tensor, "edges _p _w"]]:
    """The products.

    Args:
        rows: one tensor for each |m|.
        matrices: one [u, w] after another, flat: those of all rows, and then those of on-site edges.
        on_site: 1 for on-site edges, 0 for others.
        columns: number of columns w of the matrix of each of the rows.

    Raises:
        OperatorArgumentError: tensors of other shapes.
        OperatorIndexError: on a CPU, another number in ``on_site``; on a GPU the products are NaN then.
    """
    return ROW_PRODUCT(list(rows), matrices, on_site, list(columns))


def _plain(rows: list[Tensor], matrices: Tensor, on_site: Tensor, columns: list[int]) -> list[Tensor]:
    shapes = [(x.shape[2], width) for x, width in zip(rows, columns, strict=True)] * 2
    parts = [
        part.view(shape)
        for part, shape in zip(matrices.split(list(map(math.prod, shapes))), shapes, strict=True)
    ]
    chosen = on_site.bool()[:, None, None]
    return [
        torch.where(chosen, x @ of_loops, x @ matrix)
        for x, matrix, of_loops in zip(rows, parts, parts[len(rows) :], strict=False)
    ]


def _outputs(rows: list[Tensor], matrices: Tensor, on_site: Tensor, columns: list[int]) -> list[Tensor]:
    return [x.new_empty(*x.shape[:2], width) for x, width in zip(rows, columns, strict=True)]


def _check(rows: list[Tensor], matrices: Tensor, on_site: Tensor, columns: list[int]) -> None:
    edges, dtypes = len(on_site) if on_site.ndim else 0, {x.dtype for x in (*rows, matrices)}
    fits = (
        len(rows) == len(columns)
        and all(x.ndim == 3 and len(x) == edges for x in rows)
        and matrices.shape == (2 * sum(x.shape[2] * w for x, w in zip(rows, columns, strict=False)),)
        and on_site.shape == (edges,)
        and not on_site.is_floating_point()
        and len(dtypes) == 1
    )
    if not fits:
        raise OperatorArgumentError(
            f"rows of the shapes {[tuple(x.shape) for x in rows]} with {list(columns)} columns of their matrices, "
            f"{tuple(matrices.shape)} numbers of the matrices, on_site of the shape {tuple(on_site.shape)}, "
            f"{on_site.dtype}; rows [edges, p, u], twice the sum of u times columns numbers, and a whole number "
            f"for each edge are needed, all numbers of one dtype (found {', '.join(sorted(map(str, dtypes)))})"
        )


ROW_PRODUCT = Operator(
    "row_product",
    "Tensor[] rows, Tensor matrices, Tensor on_site, int[] columns",
    _plain,
    _outputs,
    check=_check,
    results=None,
)
ROW_PRODUCT.register("CPU", cpu.row_product, cpu.row_product_gradient)
ROW_PRODUCT.register("CUDA", gpu.row_product, gpu.row_product_gradient)
