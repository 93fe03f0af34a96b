"""Errors of predicted blocks, summed over the matrix elements of each block that exist.

On CPUs one pass over predictions and labels gives the sums of |d|^2 and |d|, d being their difference, and another
one the gradient; neither masks nor differences are stored.
"""

import ctypes
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Inexact, Int
from torch import Tensor

from tracegrad.hamiltonian.traces import squared_modulus
from tracegrad.numerics import native
from tracegrad.numerics.plain_gradients import plain_gradients

FUNCTIONS = native.Function("sums", "iiiiippppp"), native.Function("gradients", "iiiiipppppp")
Call = tuple[ctypes.CDLL, native.Index]  # the kernels, and the atoms of all rows and then of all columns
# Of real or complex numbers.
ERRORS: dict[str, Callable[[Tensor], Tensor]] = {"mse": squared_modulus, "mae": torch.abs}


def block_errors(
    blocks: Inexact[Tensor, "n dim dim"],
    labels: Inexact[Tensor, "n dim dim"],
    present: Float[Tensor, "atoms dim"],
    ends: Int[Tensor, "2 n"],
    names: Sequence[str],
) -> list[Float[Tensor, " n"]]:
    """Sums over the elements of each block, one tensor for each of ``names`` of `ERRORS`.

    Args:
        blocks: predictions, real or complex.
        labels: of the blocks.
        present: 1 for each orbital that an atom has, else 0.
        ends: atoms of the rows and of the columns of each block.
        names: of the error measures.
    """
    parts = [
        torch.view_as_real(x.resolve_conj()) if x.is_complex() else x[..., None] for x in (blocks, labels)
    ]
    library = None
    alone = not (labels.requires_grad or present.requires_grad)
    if alone and blocks.is_complex() == labels.is_complex() and native.usable(*parts, present):
        library = native.library(_SOURCE.replace("REAL", native.C_TYPES[present.dtype]), *FUNCTIONS)
    if library is None:
        return _plain(blocks, labels, present, ends, names)
    if (
        blocks.ndim != 3
        or blocks.shape[1] != blocks.shape[2]
        or ends.shape != (2, len(blocks))
        or present.ndim != 2
    ):
        raise native.KernelArgumentError(
            f"blocks {tuple(blocks.shape)}, ends {tuple(ends.shape)} and orbitals {tuple(present.shape)}; "
            "(n, dim, dim), (2, n) and (atoms, dim) are needed"
        )
    call = library, native.index("ends", ends.flatten(), len(present))
    sums = _Errors.apply(call, *(x.contiguous() for x in (*parts, present)))
    return [sums[list(ERRORS).index(name)] for name in names]


def _plain(
    blocks: Tensor, labels: Tensor, present: Tensor, ends: Tensor, names: Sequence[str]
) -> list[Tensor]:
    rows, columns = (present.index_select(0, end) for end in ends)
    difference = (blocks - labels) * (rows[:, :, None] * columns[:, None, :])
    return [ERRORS[name](difference).flatten(1).sum(1) for name in names]


class _Errors(torch.autograd.Function):
    """|d|^2 and |d| of real numbers [n, dim, dim, 1] or of the parts of complex ones [n, dim, dim, 2]."""

    @staticmethod
    def forward(ctx, call: Call, blocks: Tensor, labels: Tensor, present: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(blocks, labels, present)
        sums = blocks.new_empty(2, len(blocks))
        _run(call, "sums", (blocks, labels, present), sums=sums)
        return sums

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        blocks, labels, present = ctx.saved_tensors
        if torch.is_grad_enabled() or not native.enabled(gradient):
            ends = ctx.call[1].values.view(2, -1)
            (found,) = plain_gradients(
                lambda x: torch.stack(_plain(_number(x), _number(labels), present, ends, list(ERRORS))),
                [blocks],
                [gradient],
                [True],
            )
            return None, found, None, None
        of_blocks = torch.empty_like(blocks)
        _run(
            ctx.call, "gradients", (blocks, labels, present), sums=native.dense(gradient), of_blocks=of_blocks
        )
        return None, of_blocks, None, None


def _number(parts: Tensor) -> Tensor:
    return torch.view_as_complex(parts) if parts.shape[3] == 2 else parts[..., 0]


def _run(call: Call, name: str, inputs: Sequence[Tensor], **others: Tensor) -> None:
    """Call a function of the library on shares of the blocks; ``others`` are sums or have the shape of blocks."""
    library, ends = call
    blocks, labels, present = inputs
    shape, dtype, atoms = blocks.shape, blocks.dtype, len(present)
    n, dim, _, parts = shape
    function = getattr(library, name)
    addresses = [
        native.address("blocks", blocks, shape, dtype),
        native.address("labels", labels, shape, dtype),
        native.address("orbitals", present, (atoms, dim), dtype),
        ends.address("ends", 2 * n, atoms),
        *(native.address(of, x, (2, n) if of == "sums" else shape, dtype) for of, x in others.items()),
    ]

    def share(first: int, last: int) -> None:
        function(first, last, n, dim, parts, *addresses)

    native.in_threads(share, n, 8 * blocks.numel())


# A row of a block is a row of complex numbers, or of real ones if PARTS is 1.
_SOURCE = """
#include <cmath>
#include <cstdint>
typedef REAL real;
#define SHAPE int64_t first, int64_t last, int64_t n, int64_t dim, int64_t parts
#define BLOCKS const real* blocks, const real* labels, const real* present, const int64_t* ends

template <int PARTS> void sums_of(SHAPE, BLOCKS, real* sums) {
  for (int64_t e = first; e < last; ++e) {
    const real *rows = present + ends[e] * dim, *columns = present + ends[n + e] * dim;
    real squares = 0, moduli = 0;
    for (int64_t i = 0; i < dim; ++i) {
      const real *x = blocks + (e * dim + i) * dim * PARTS, *y = labels + (e * dim + i) * dim * PARTS;
      const real row = rows[i];
      real square = 0, modulus = 0;
      #pragma omp simd reduction(+ : square, modulus)
      for (int64_t j = 0; j < dim; ++j) {
        const real mask = row * columns[j];
        const real d = (x[j * PARTS] - y[j * PARTS]) * mask;
        const real other = PARTS == 2 ? (x[j * PARTS + PARTS - 1] - y[j * PARTS + PARTS - 1]) * mask : 0;
        const real found = d * d + other * other;
        square += found;
        modulus += PARTS == 2 ? std::sqrt(found) : std::fabs(d);
      }
      squares += square;
      moduli += modulus;
    }
    sums[e] = squares;
    sums[n + e] = moduli;
  }
}

template <int PARTS> void gradients_of(SHAPE, BLOCKS, const real* gradient, real* of_blocks) {
  for (int64_t e = first; e < last; ++e) {
    const real *rows = present + ends[e] * dim, *columns = present + ends[n + e] * dim;
    const real of_square = 2 * gradient[e], of_modulus = gradient[n + e];
    for (int64_t i = 0; i < dim; ++i) {
      const int64_t at = (e * dim + i) * dim * PARTS;
      const real *x = blocks + at, *y = labels + at;
      real* out = of_blocks + at;
      const real row = rows[i];
      #pragma omp simd
      for (int64_t j = 0; j < dim; ++j) {
        const real mask = row * columns[j];
        const real d = (x[j * PARTS] - y[j * PARTS]) * mask;
        const real other = PARTS == 2 ? (x[j * PARTS + PARTS - 1] - y[j * PARTS + PARTS - 1]) * mask : 0;
        if (PARTS == 2) {
          const real modulus = std::sqrt(d * d + other * other);
          const real factor = mask * (of_square + (modulus > 0 ? of_modulus / modulus : 0));
          out[j * PARTS] = d * factor;
          out[j * PARTS + PARTS - 1] = other * factor;
        } else {
          const real sign = d != d ? d : real(d > 0) - real(d < 0);
          out[j * PARTS] = mask * (of_square * d + of_modulus * sign);
        }
      }
    }
  }
}

extern "C" void sums(SHAPE, BLOCKS, real* sums) {
  (parts == 2 ? sums_of<2> : sums_of<1>)(first, last, n, dim, parts, blocks, labels, present, ends, sums);
}

extern "C" void gradients(SHAPE, BLOCKS, const real* gradient, real* of_blocks) {
  (parts == 2 ? gradients_of<2> : gradients_of<1>)(
      first, last, n, dim, parts, blocks, labels, present, ends, gradient, of_blocks);
}
"""
