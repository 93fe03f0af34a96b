"""Errors of predicted blocks, summed over those matrix elements of each block that are not padding.

On CPUs a C++ kernel computes the sums of |d|^2 and |d|, where d is prediction - label, in one pass over both, and the
gradient in another one; neither masks nor differences are stored.
"""

import ctypes
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Inexact, Int
from torch import Tensor

from tracegrad.hamiltonian.traces import squared_modulus
from tracegrad.ops import native
from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.plain_gradients import plain_gradients

FUNCTIONS = native.Function("sums", "iiiiippppp"), native.Function("gradients", "iiiiipppppp")
KernelCall = tuple[
    ctypes.CDLL, native.Index
]  # library, and atoms of the rows of all blocks, then of their columns
# Error of each real or complex matrix element, by its name in the configuration.
ERRORS: dict[str, Callable[[Tensor], Tensor]] = {"mse": squared_modulus, "mae": torch.abs}


def block_errors(
    blocks: Inexact[Tensor, "n dim dim"],
    labels: Inexact[Tensor, "n dim dim"],
    orbital_mask: Float[Tensor, "atoms dim"],
    block_atoms: Int[Tensor, "2 n"],
    names: Sequence[str],
) -> list[Float[Tensor, " n"]]:
    """Error of each block, summed over its matrix elements; one tensor for each name.

    Args:
        blocks: predictions, real or complex, in the unit of H.
        labels: blocks of the reference.
        orbital_mask: 1 for each union slot that an atom fills, 0 for padding.
        block_atoms: atom of the rows and atom of the columns of each block.
        names: error measures, keys of `ERRORS`.
    """
    parts = [
        torch.view_as_real(x.resolve_conj()) if x.is_complex() else x[..., None] for x in (blocks, labels)
    ]
    library = None
    only_blocks = not (
        labels.requires_grad or orbital_mask.requires_grad
    )  # the kernel has no other gradients
    if only_blocks and blocks.is_complex() == labels.is_complex() and native.usable(*parts, orbital_mask):
        library = native.library(_SOURCE.replace("REAL", native.C_TYPES[orbital_mask.dtype]), *FUNCTIONS)
    if library is None:
        return _plain(blocks, labels, orbital_mask, block_atoms, names)
    if (
        blocks.ndim != 3
        or blocks.shape[1] != blocks.shape[2]
        or block_atoms.shape != (2, len(blocks))
        or orbital_mask.ndim != 2
    ):
        raise OperatorArgumentError(
            f"blocks {tuple(blocks.shape)}, ends {tuple(block_atoms.shape)} and orbitals "
            f"{tuple(orbital_mask.shape)}; (n, dim, dim), (2, n) and (atoms, dim) are needed"
        )
    call = library, native.index("ends", block_atoms.flatten(), len(orbital_mask))
    sums = _Errors.apply(call, *(x.contiguous() for x in (*parts, orbital_mask)))
    return [sums[list(ERRORS).index(name)] for name in names]


def _plain(
    blocks: Tensor, labels: Tensor, orbital_mask: Tensor, block_atoms: Tensor, names: Sequence[str]
) -> list[Tensor]:
    rows, columns = (orbital_mask.index_select(0, atoms) for atoms in block_atoms)
    difference = (blocks - labels) * (rows[:, :, None] * columns[:, None, :])
    return [ERRORS[name](difference).flatten(1).sum(1) for name in names]


class _Errors(torch.autograd.Function):
    """Sums of |d|^2 and |d|; blocks [n, dim, dim, 1] if real, else [n, dim, dim, 2] with real and imaginary parts."""

    @staticmethod
    def forward(ctx, call: KernelCall, blocks: Tensor, labels: Tensor, orbital_mask: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(blocks, labels, orbital_mask)
        sums = blocks.new_empty(2, len(blocks))
        _run(call, "sums", (blocks, labels, orbital_mask), sums=sums)
        return sums

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        blocks, labels, orbital_mask = ctx.saved_tensors
        if torch.is_grad_enabled() or not native.enabled(gradient):
            block_atoms = ctx.call[1].values.view(2, -1)
            (plain,) = plain_gradients(
                lambda x: torch.stack(
                    _plain(_as_numbers(x), _as_numbers(labels), orbital_mask, block_atoms, list(ERRORS))
                ),
                [blocks],
                [gradient],
                [True],
            )
            return None, plain, None, None
        of_blocks = torch.empty_like(blocks)
        _run(
            ctx.call,
            "gradients",
            (blocks, labels, orbital_mask),
            sums=native.dense(gradient),
            of_blocks=of_blocks,
        )
        return None, of_blocks, None, None


def _as_numbers(parts: Tensor) -> Tensor:
    return torch.view_as_complex(parts) if parts.shape[3] == 2 else parts[..., 0]


def _run(call: KernelCall, name: str, inputs: Sequence[Tensor], **others: Tensor) -> None:
    """Call a function of the library in threads; ``others`` are the sums [2, n] or have the shape of the blocks."""
    library, block_atoms = call
    blocks, labels, orbital_mask = inputs
    shape, dtype, atoms = blocks.shape, blocks.dtype, len(orbital_mask)
    n, dim, _, parts = shape
    function = getattr(library, name)
    addresses = [
        native.address("blocks", blocks, shape, dtype),
        native.address("labels", labels, shape, dtype),
        native.address("orbitals", orbital_mask, (atoms, dim), dtype),
        block_atoms.address("ends", 2 * n, atoms),
        *(
            native.address(label, x, (2, n) if label == "sums" else shape, dtype)
            for label, x in others.items()
        ),
    ]

    def share(first: int, last: int) -> None:
        function(first, last, n, dim, parts, *addresses)

    native.in_threads(share, n, 8 * blocks.numel())


# PARTS is 2 where the elements of a block are complex, real and imaginary part side by side, else 1.
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
        const real squared = d * d + other * other;
        square += squared;
        modulus += PARTS == 2 ? std::sqrt(squared) : std::fabs(d);
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
