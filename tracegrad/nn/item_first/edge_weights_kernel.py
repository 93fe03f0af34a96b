"""C++ of `item_first.edge_product`: matrices from weights of rank one, in one pass over the weights, and back.

A *piece* is what one coupling makes of one input: sum over l2 of t_l2 w1[l2, u, w] w2[l2, w] at a place of a matrix.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.numerics import native
from tracegrad.numerics.constants import Constant
from tracegrad.numerics.plain_gradients import plain_gradients

FUNCTIONS = native.Function("assemble", "ipppppp"), native.Function("gradients", "ipppppppp")


@dataclass(frozen=True)
class Piece:
    """Where a piece stands in the matrices and in both weights."""

    matrix: int
    row: int
    column: int
    rows: int
    columns: int
    first_1: int  # number of w1 with which it begins, and how many there are for each l2
    step_1: int
    first_2: int
    step_2: int
    degrees: int  # of the values t


class Pieces:
    """All pieces of some matrices.

    Args:
        shapes: of the matrices.
        pieces: each with its values t; none of them overlap.

    Raises:
        KernelArgumentError: a piece that is not within its matrix, begins before a weight or overlaps another one, or
            another number of values.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, int]], pieces: Sequence[tuple[Piece, Float[Tensor, " l2"]]]
    ):
        self.shapes = list(shapes)
        self.places = torch.tensor([astuple(piece) for piece, _ in pieces], dtype=torch.int64)
        self.values = Constant(torch.cat([values for _, values in pieces]))
        filled, ends = [torch.zeros(shape, dtype=torch.uint8) for shape in shapes], [(0, 0)]
        for piece, values in pieces:
            within = (
                min(astuple(piece)) >= 0 < piece.degrees == len(values)
                and piece.matrix < len(shapes)
                and piece.row + piece.rows <= shapes[piece.matrix][0]
                and piece.column + piece.columns <= shapes[piece.matrix][1]
            )
            if not within:
                raise native.KernelArgumentError(
                    f"{piece} with {len(values)} values; it must lie within matrices of the shapes {self.shapes}, "
                    "with a value for each degree"
                )
            place = filled[piece.matrix][piece.row :, piece.column :][: piece.rows, : piece.columns]
            if place.any():
                raise native.KernelArgumentError(
                    f"{piece}: overlaps another piece; each has a place of its own"
                )
            place.fill_(1)
            last = piece.degrees - 1
            of_1 = piece.first_1 + last * piece.step_1 + piece.rows * piece.columns
            ends.append((of_1, piece.first_2 + last * piece.step_2 + piece.columns))
        self.least = tuple(map(max, zip(*ends, strict=True)))  # numbers that w1 and w2 need
        self._full = [bool(places.all()) for places in filled]

    def room(self, like: Tensor) -> list[Tensor]:
        """The matrices, zero where no piece stands."""
        return [
            like.new_empty(shape) if full else like.new_zeros(shape)
            for shape, full in zip(self.shapes, self._full, strict=True)
        ]


def assembled(
    pieces: Pieces, w1: Float[Tensor, " _"], w2: Float[Tensor, " _"], plain: Callable[..., list[Tensor]]
) -> list[Float[Tensor, "_ _"]]:
    """The matrices by the kernel, or by ``plain`` of both weights where there is none."""
    library = None
    if native.usable(w1, w2):
        library = native.library(_SOURCE.replace("REAL", native.C_TYPES[w1.dtype]), *FUNCTIONS)
    if library is None:
        return plain(w1, w2)
    return list(_Assembled.apply(library, pieces, plain, w1.contiguous(), w2.contiguous()))


class _Assembled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, library: ctypes.CDLL, pieces: Pieces, plain: Callable[..., list[Tensor]], w1: Tensor, w2: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.library, ctx.pieces, ctx.plain = library, pieces, plain
        ctx.save_for_backward(w1, w2)
        matrices = pieces.room(w1)
        _run(library.assemble, pieces, matrices, w1, w2)
        return tuple(matrices)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        w1, w2 = ctx.saved_tensors
        if torch.is_grad_enabled() or not native.wanted(*gradients):
            found = plain_gradients(ctx.plain, [w1, w2], gradients, ctx.needs_input_grad[3:])
            return None, None, None, *found
        of_weights = torch.zeros_like(w1), torch.zeros_like(w2)
        _run(ctx.library.gradients, ctx.pieces, [native.dense(g) for g in gradients], w1, w2, *of_weights)
        return None, None, None, *of_weights


def _run(function: Callable, pieces: Pieces, matrices: Sequence[Tensor], *weights: Tensor) -> None:
    dtype, count = weights[0].dtype, len(pieces.places)
    of_matrices = [
        native.address(f"matrix {k}", matrix, shape, dtype)
        for k, (matrix, shape) in enumerate(zip(matrices, pieces.shapes, strict=True))
    ]
    for x, least in zip(weights, 2 * pieces.least, strict=False):
        if len(x) < least:
            raise native.KernelArgumentError(f"weights of {len(x)} numbers; the pieces need {least}")
    of_weights = [
        native.address(name, x, weights[k % 2].shape[:1], dtype)
        for k, (name, x) in enumerate(zip(("w1", "w2", "of_w1", "of_w2"), weights, strict=False))
    ]
    values = pieces.values(weights[0])
    shared = (
        count,
        native.address("places", pieces.places, (count, len(fields(Piece))), torch.int64),
        native.address("values", values, (int(pieces.places[:, -1].sum()),), dtype),
        (ctypes.c_void_p * len(matrices))(*of_matrices),
        (ctypes.c_int64 * len(matrices))(*(columns for _, columns in pieces.shapes)),
    )
    native.in_threads(lambda first, last: function(*shared, *of_weights), 1, 0)


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
