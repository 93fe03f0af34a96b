"""The operator that makes the matrices of the tensor product in the frame of an edge from weights of rank one.

The formula stands in `Submatrix`: each number of a matrix is a sum over paths of a coefficient, a number of w1 and a
number of w2.
"""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.numerics.constants import Constant
from tracegrad.numerics.precision import full_precision
from tracegrad.ops.edge_matrices import cpu, gpu
from tracegrad.ops.edge_matrices.table import MatrixTable
from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.operator import Operator


@full_precision
def edge_matrices(
    w1: Float[Tensor, " first"], w2: Float[Tensor, " second"], key: str
) -> Float[Tensor, " numbers"]:
    """The matrices, row by row and one after another in one dimension.

    Args:
        w1, w2: weights.
        key: of the `MatrixTable`.

    Raises:
        OperatorArgumentError: weights with fewer numbers than the submatrices need.
    """
    return EDGE_MATRICES(w1, w2, key)


@lru_cache(maxsize=64)
def _gathered(key: str) -> tuple[Tensor, Tensor, Constant]:
    """The formula number by number.

    Returns:
        For each path and number of the matrices the number of w1, the number of w2, and the coefficient, which is 0
        for numbers with fewer paths.
    """
    table = MatrixTable.named(key)
    with torch.inference_mode(False):
        first, second = torch.zeros(2, max(s.paths for s in table.submatrices), table.size, dtype=torch.int64)
        values = torch.zeros(first.shape, dtype=torch.float64)
        coefficients = table.values(values)
        for start, stride, rows, columns, *weights, paths, k in table.numbers.tolist():
            u, w = torch.arange(rows)[:, None], torch.arange(columns)
            at = start + u * stride + w
            start_1, stride_1, start_2, stride_2 = weights
            for p in range(paths):
                first[p, at] = start_1 + p * stride_1 + u * columns + w
                second[p, at] = start_2 + p * stride_2 + w
                values[p, at] = coefficients[k + p]
        return first, second, Constant(values)


def _plain(w1: Tensor, w2: Tensor, key: str) -> Tensor:
    first, second, values = _gathered(key)
    return (values(w1) * w1[first.to(w1.device)] * w2[second.to(w1.device)]).sum(0)


def _outputs(w1: Tensor, w2: Tensor, key: str) -> Tensor:
    return w1.new_empty(MatrixTable.named(key).size)


def _check(w1: Tensor, w2: Tensor, key: str) -> None:
    least = MatrixTable.named(key).least
    if w1.ndim != 1 or w2.ndim != 1 or len(w1) < least[0] or len(w2) < least[1] or w1.dtype != w2.dtype:
        raise OperatorArgumentError(
            f"weights of the shapes {tuple(w1.shape)}, {w1.dtype} and {tuple(w2.shape)}, {w2.dtype}; the "
            f"submatrices need {least[0]} and {least[1]} numbers of one dtype"
        )


EDGE_MATRICES = Operator("edge_matrices", "Tensor w1, Tensor w2, str key", _plain, _outputs, check=_check)
EDGE_MATRICES.register("CPU", cpu.edge_matrices, cpu.edge_matrices_gradient)
EDGE_MATRICES.register("CUDA", gpu.edge_matrices, gpu.edge_matrices_gradient)
