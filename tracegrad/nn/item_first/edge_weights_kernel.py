"""C++ of `item_first.edge_product`: its matrices from weights of rank one, in one pass over the weights, and back.

A *submatrix* is what one coupling contributes for one input. It starts at (row, column) of a matrix M and has, with
a coefficient t_p for each path p,

    M[row + u, column + w] = sum over p of t_p w1[p, u, w] w2[p, w]

where w1[p, u, w] is number start_1 + p stride_1 + u columns + w, and w2[p, w] number start_2 + p stride_2 + w of the
flat weights.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.numerics.constants import Constant
from tracegrad.ops import native
from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.plain_gradients import plain_gradients

FUNCTIONS = native.Function("assemble", "ipppppp"), native.Function("gradients", "ipppppppp")


@dataclass(frozen=True)
class Submatrix:
    """Position of a submatrix in its matrix and in both weights (formula in the module's docstring).

    Args:
        matrix: number of the matrix.
        row, column: where the submatrix starts.
        rows, columns: its size.
        start_1, stride_1: where it starts in w1, and the stride from path to path.
        start_2, stride_2: the same in w2.
        paths: number of paths.
    """

    # The C++ below reads these numbers in this order.
    matrix: int
    row: int
    column: int
    rows: int
    columns: int
    start_1: int
    stride_1: int
    start_2: int
    stride_2: int
    paths: int


class Submatrices:
    """All submatrices of some matrices.

    Args:
        shapes: of the matrices.
        submatrices: each with its coefficients t; they must not overlap.

    Raises:
        OperatorArgumentError: a submatrix that is not within its matrix, starts before its weights, overlaps another
            one, or has another number of coefficients than paths.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        submatrices: Sequence[tuple[Submatrix, Float[Tensor, " paths"]]],
    ):
        self.shapes = list(shapes)
        self.positions = torch.tensor([astuple(submatrix) for submatrix, _ in submatrices], dtype=torch.int64)
        self.values = Constant(torch.cat([values for _, values in submatrices]))
        filled, ends = [torch.zeros(shape, dtype=torch.uint8) for shape in shapes], [(0, 0)]
        for submatrix, values in submatrices:
            within = (
                min(astuple(submatrix)) >= 0 < submatrix.paths == len(values)
                and submatrix.matrix < len(shapes)
                and submatrix.row + submatrix.rows <= shapes[submatrix.matrix][0]
                and submatrix.column + submatrix.columns <= shapes[submatrix.matrix][1]
            )
            if not within:
                raise OperatorArgumentError(
                    f"{submatrix} with {len(values)} values; it must lie within matrices of the shapes "
                    f"{self.shapes}, with a value for each path"
                )
            area = filled[submatrix.matrix][submatrix.row :, submatrix.column :]
            area = area[: submatrix.rows, : submatrix.columns]
            if area.any():
                raise OperatorArgumentError(
                    f"{submatrix}: overlaps another submatrix; each must have separate rows or columns"
                )
            area.fill_(1)
            last = submatrix.paths - 1
            end_1 = submatrix.start_1 + last * submatrix.stride_1 + submatrix.rows * submatrix.columns
            ends.append((end_1, submatrix.start_2 + last * submatrix.stride_2 + submatrix.columns))
        self.least = tuple(map(max, zip(*ends, strict=True)))  # how many numbers w1 and w2 must have at least
        self._full = [bool(matrix.all()) for matrix in filled]

    def new_matrices(self, like: Tensor) -> list[Tensor]:
        """Memory for the matrices, set to zero where some elements belong to no submatrix."""
        return [
            like.new_empty(shape) if full else like.new_zeros(shape)
            for shape, full in zip(self.shapes, self._full, strict=True)
        ]


def assembled(
    submatrices: Submatrices,
    w1: Float[Tensor, " _"],
    w2: Float[Tensor, " _"],
    plain: Callable[..., list[Tensor]],
) -> list[Float[Tensor, "_ _"]]:
    """The matrices, by the kernel where it can be used and otherwise by ``plain(w1, w2)``.

    Raises:
        OperatorArgumentError: weights with fewer numbers than the submatrices need.
    """
    library = None
    if native.usable(w1, w2):
        library = native.library(_SOURCE.replace("REAL", native.C_TYPES[w1.dtype]), *FUNCTIONS)
    if library is None:
        return plain(w1, w2)
    return list(_Assembled.apply(library, submatrices, plain, w1.contiguous(), w2.contiguous()))


class _Assembled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        library: ctypes.CDLL,
        submatrices: Submatrices,
        plain: Callable[..., list[Tensor]],
        w1: Tensor,
        w2: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.library, ctx.submatrices, ctx.plain = library, submatrices, plain
        ctx.save_for_backward(w1, w2)
        matrices = submatrices.new_matrices(w1)
        _run(library.assemble, submatrices, matrices, w1, w2)
        return tuple(matrices)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        w1, w2 = ctx.saved_tensors
        if torch.is_grad_enabled() or not native.enabled(*gradients):
            of_inputs = plain_gradients(ctx.plain, [w1, w2], gradients, ctx.needs_input_grad[3:])
            return None, None, None, *of_inputs
        of_weights = torch.zeros_like(w1), torch.zeros_like(w2)
        of_matrices = [native.dense(g) for g in gradients]
        _run(ctx.library.gradients, ctx.submatrices, of_matrices, w1, w2, *of_weights)
        return None, None, None, *of_weights


def _run(function: Callable, submatrices: Submatrices, matrices: Sequence[Tensor], *weights: Tensor) -> None:
    """Call a function of the library with the weights w1 and w2, and the memory for their gradients if any."""
    dtype, count = weights[0].dtype, len(submatrices.positions)
    matrix_addresses = [
        native.address(f"matrix {k}", matrix, shape, dtype)
        for k, (matrix, shape) in enumerate(zip(matrices, submatrices.shapes, strict=True))
    ]
    for x, least in zip(weights, 2 * submatrices.least, strict=False):
        if len(x) < least:
            raise OperatorArgumentError(f"weights of {len(x)} numbers; the submatrices need {least}")
    weight_addresses = [
        native.address(name, x, weights[k % 2].shape[:1], dtype)
        for k, (name, x) in enumerate(zip(("w1", "w2", "of_w1", "of_w2"), weights, strict=False))
    ]
    values = submatrices.values(weights[0])
    shared = (
        count,
        native.address("positions", submatrices.positions, (count, len(fields(Submatrix))), torch.int64),
        native.address("values", values, (int(submatrices.positions[:, -1].sum()),), dtype),
        (ctypes.c_void_p * len(matrices))(*matrix_addresses),
        (ctypes.c_int64 * len(matrices))(*(columns for _, columns in submatrices.shapes)),
    )
    native.in_threads(lambda first, last: function(*shared, *weight_addresses), 1, 0)


_SOURCE = """
#include <cstdint>
#include <vector>
typedef REAL real;
struct Piece { int64_t matrix, row, column, rows, columns, first_1, step_1, first_2, step_2, degrees; };
#define SHARED \\
  int64_t count, const Piece* pieces, const real* values, real* const* matrices, const int64_t* steps, \\
  const real* w1, const real* w2

extern "C" void assemble(SHARED) {
  std::vector<real> factors;
  for (int64_t k = 0; k < count; values += pieces[k++].degrees) {
    const Piece& p = pieces[k];
    factors.resize(p.columns);
    real* factor = factors.data();
    for (int64_t l = 0; l < p.degrees; ++l) {
      for (int64_t w = 0; w < p.columns; ++w) factor[w] = values[l] * w2[p.first_2 + l * p.step_2 + w];
      for (int64_t u = 0; u < p.rows; ++u) {
        const real* from = w1 + p.first_1 + l * p.step_1 + u * p.columns;
        real* to = matrices[p.matrix] + (p.row + u) * steps[p.matrix] + p.column;
        if (l == 0) {
          #pragma omp simd
          for (int64_t w = 0; w < p.columns; ++w) to[w] = factor[w] * from[w];
        } else {
          #pragma omp simd
          for (int64_t w = 0; w < p.columns; ++w) to[w] += factor[w] * from[w];
        }
      }
    }
  }
}

extern "C" void gradients(SHARED, real* of_w1, real* of_w2) {
  std::vector<real> factors, sums;
  for (int64_t k = 0; k < count; values += pieces[k++].degrees) {
    const Piece& p = pieces[k];
    factors.resize(p.columns);
    real* factor = factors.data();
    for (int64_t l = 0; l < p.degrees; ++l) {
      sums.assign(p.columns, 0);
      real* sum = sums.data();
      for (int64_t w = 0; w < p.columns; ++w) factor[w] = values[l] * w2[p.first_2 + l * p.step_2 + w];
      for (int64_t u = 0; u < p.rows; ++u) {
        const int64_t at = p.first_1 + l * p.step_1 + u * p.columns;
        const real* gradient = matrices[p.matrix] + (p.row + u) * steps[p.matrix] + p.column;
        #pragma omp simd
        for (int64_t w = 0; w < p.columns; ++w) {
          sum[w] += gradient[w] * w1[at + w];
          of_w1[at + w] += gradient[w] * factor[w];
        }
      }
      for (int64_t w = 0; w < p.columns; ++w) of_w2[p.first_2 + l * p.step_2 + w] += values[l] * sum[w];
    }
  }
}
"""
