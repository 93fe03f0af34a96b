"""C++ of `item_first.shell_pairs`: from the channels of irreps to blocks, in one pass over memory, and back.

A block is a sparse matrix, the same for all edges, times the numbers of an edge: of the couplings of 196 pairs of
shells with spin, 1 in 8 is not zero. The kernel processes as many edges at a time as a vector has lanes: it
transposes their numbers so that those of different edges are adjacent, rotates every irrep into the global frame,
adds up the couplings, and writes the blocks. The transposed map does the same in the opposite direction.

    memory      edge 0: n0 n1 n2 ...        vectors     n0: edge 0, edge 1, ...
                edge 1: n0 n1 n2 ...   ->               n1: edge 0, edge 1, ...
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracegrad.numerics.constants import Constant
from tracegrad.ops import native
from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.plain_gradients import plain_gradients

BYTES = 64  # of a vector; compilers split such vectors for processors with shorter registers
FUNCTIONS = (
    native.Function("expand", "iiippppp" + "iipppp"),
    native.Function("contract", "iiippppp" + "iipppp"),
)
OptionalRotation = Float[Tensor, "n _m _m"] | None


@dataclass(frozen=True)
class SparseMap:
    """A sparse matrix y = A x in compressed rows.

        y[targets[r]] = sum over k = starts[r] .. starts[r + 1] - 1 of values[k] x[columns[k]]

    Args:
        targets: which number of y each row computes; rows that read the same numbers of x should be adjacent.
        starts: first entry of each row, and the number of all entries.
        columns: which number of x each entry multiplies.
        values: of the entries.
        outputs: length of y; each number is computed by one row.
        inputs: length of x, as far as entries read it.
    """

    targets: native.Index
    starts: native.Index
    columns: native.Index
    values: Constant
    outputs: int
    inputs: int

    @classmethod
    def of(
        cls,
        rows: Int[Tensor, " entries"],
        columns: Int[Tensor, " entries"],
        values: Float[Tensor, " entries"],
    ) -> "SparseMap":
        """From the entries of the matrix, where those of one row are adjacent.

        Raises:
            OperatorArgumentError: entries of a row that are not adjacent, or more of rows, columns or values than of
                the others.
            OperatorIndexError: rows that are not numbered 0 .. outputs - 1.
        """
        if not len(rows) == len(columns) == len(values):
            raise OperatorArgumentError(
                f"{len(rows)} rows, {len(columns)} columns and {len(values)} values; each entry has one"
            )
        targets, counts = torch.unique_consecutive(rows, return_counts=True)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        inputs = int(columns.max()) + 1 if len(columns) else 0
        if len(targets.unique()) < len(targets):
            raise OperatorArgumentError("entries of one row are not adjacent; sort them by their rows")
        return cls(
            native.index("rows", targets, len(targets), torch.int32),
            native.index("starts", starts, len(values) + 1, torch.int32),
            native.index("columns", columns, inputs, torch.int32),
            Constant(values),
            len(targets),
            inputs,
        )


@dataclass(frozen=True)
class ExpansionMaps:
    """The map from the numbers of a feature to the elements of a block, and its transpose."""

    forward: SparseMap
    transpose: SparseMap


def expand(
    maps: ExpansionMaps,
    x: Sequence[Float[Tensor, "n _m _c"]],
    rotations: Sequence[OptionalRotation],
    plain: Callable[..., Float[Tensor, "n elements"]],
) -> Float[Tensor, "n elements"]:
    """Elements of the blocks, by the kernel where it can be used and otherwise by ``plain``.

    Args:
        maps: from the numbers of the features to the elements; all numbers must be used.
        x: features. Their numbers are counted one feature after another, [m, c] in each.
        rotations: of each feature to the global frame; None for a feature that is in the global frame.
        plain: the same in torch, a function of the features.

    Raises:
        OperatorArgumentError: features or rotations whose shapes do not fit.
    """
    matrices = [rotation for rotation in rotations if rotation is not None]
    library = None
    if native.usable(*x, *matrices) and not any(rotation.requires_grad for rotation in matrices):
        library = native.library(_SOURCE.replace("REAL", native.C_TYPES[x[0].dtype]), *FUNCTIONS)
    if library is None:
        return plain(*x)
    for part in x:
        if part.ndim != 3 or len(part) != len(x[0]):
            raise OperatorArgumentError(
                f"features of the shapes {[tuple(part.shape) for part in x]}; they must be (n, m, c) with the same n"
            )
    contiguous = [None if rotation is None else rotation.contiguous() for rotation in rotations]
    return _Expand.apply(_ExpandCall(maps, library, contiguous, plain), *(part.contiguous() for part in x))


@dataclass(frozen=True)
class _ExpandCall:
    """What `expand` passes to its kernels besides the features."""

    maps: ExpansionMaps
    library: ctypes.CDLL
    rotations: list[Tensor | None]
    plain: Callable[..., Tensor]

    def run(self, name: str, sparse: SparseMap, x: Sequence[Tensor], blocks: Tensor) -> None:
        """Call a function of the library; threads share the items."""
        n, count, dtype = len(x[0]), len(x), x[0].dtype
        lanes = BYTES // blocks.element_size()
        elements, numbers = self.maps.forward.outputs, sum(part.shape[1] * part.shape[2] for part in x)
        outputs, inputs = (elements, numbers) if sparse is self.maps.forward else (numbers, elements)
        values, entries = sparse.values(blocks), len(sparse.columns.values)
        features = [
            native.address(f"feature {k}", part, (n, *part.shape[1:]), dtype) for k, part in enumerate(x)
        ]
        rotations = [
            None if r is None else native.address(f"rotation {k}", r, (n, *[part.shape[1]] * 2), dtype)
            for k, (r, part) in enumerate(zip(self.rotations, x, strict=True))
        ]
        if numbers != self.maps.transpose.outputs or sparse.outputs != outputs:
            raise OperatorArgumentError(
                f"features of {numbers} numbers for each item; the blocks need {self.maps.transpose.outputs}"
            )
        fixed = (
            count,
            (ctypes.c_void_p * count)(*features),
            (ctypes.c_int64 * count)(*(part.shape[1] for part in x)),
            (ctypes.c_int64 * count)(*(part.shape[2] for part in x)),
            (ctypes.c_void_p * count)(*rotations),
            native.address("blocks", blocks, (n, elements), dtype),
            elements,
            outputs,
            sparse.targets.address("rows", outputs, outputs),
            sparse.starts.address("starts", outputs + 1, entries + 1),
            sparse.columns.address("columns", entries, inputs),
            native.address("values", values, (entries,), dtype),
        )
        function = getattr(self.library, name)

        def share(first: int, last: int) -> None:
            function(first * lanes, min(last * lanes, n), *fixed)

        native.in_threads(share, -(-n // lanes), n * len(values))


class _Expand(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call: _ExpandCall, *x: Tensor) -> Tensor:
        ctx.call, ctx.sizes = call, [part.shape for part in x]
        blocks = x[0].new_empty(len(x[0]), call.maps.forward.outputs)
        call.run("expand", call.maps.forward, x, blocks)
        return blocks

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        call: _ExpandCall = ctx.call
        if torch.is_grad_enabled() or not native.enabled(gradient):
            # Blocks are linear in the features, so their derivative is the same at any features: zeros will do.
            x = [gradient.new_zeros(size) for size in ctx.sizes]
            return None, *plain_gradients(call.plain, x, [gradient], ctx.needs_input_grad[1:])
        of_x = [gradient.new_empty(size) for size in ctx.sizes]
        call.run("contract", call.maps.transpose, of_x, native.dense(gradient))
        return None, *of_x


# A vector holds one number of LANES items. r[k * M + m] is the matrix element between component m in the frame of an
# item and component k in the global frame.
_SOURCE = """
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>
typedef REAL real;
typedef real vec __attribute__((vector_size(64)));
constexpr int LANES = sizeof(vec) / sizeof(real);
#define inner static inline __attribute__((always_inline))

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE
#endif
#endif

#ifdef SHUFFLE
// Two rows of a square matrix: exchanges the off-diagonal blocks of S x S numbers.
template <int S, int... J> inner void exchange(vec& a, vec& b, std::integer_sequence<int, J...>) {
  const vec first = __builtin_shufflevector(a, b, (J & S ? LANES + J - S : J)...);
  b = __builtin_shufflevector(a, b, (J & S ? LANES + J : J + S)...);
  a = first;
}

template <int S> inner void turn_square(vec* square) {
  if constexpr (S > 0) {
    _Pragma("GCC unroll 16") for (int i = 0; i < LANES; ++i)
      if (!(i & S)) exchange<S>(square[i], square[i + S], std::make_integer_sequence<int, LANES>());
    turn_square<S / 2>(square);
  }
}

inner void transpose(vec* square) { turn_square<LANES / 2>(square); }
#else
inner void transpose(vec* square) {
  for (int i = 0; i < LANES; ++i)
    for (int j = 0; j < i; ++j) {
      const real kept = square[i][j];
      square[i][j] = square[j][i];
      square[j][i] = kept;
    }
}
#endif

// Transposes the numbers of some items, so that to[k] holds number k of all of them; may write behind the last one.
inner void gather(vec* to, const real* from, int64_t numbers, int items) {
  for (int64_t at = 0; at < numbers; at += LANES) {
    const int64_t bytes = (numbers - at < LANES ? numbers - at : LANES) * sizeof(real);
    vec square[LANES] = {};
    if (bytes == sizeof(vec) && items == LANES) {
      _Pragma("GCC unroll 16") for (int i = 0; i < LANES; ++i)
        memcpy(square + i, from + i * numbers + at, sizeof(vec));
    } else {
      for (int i = 0; i < items; ++i) memcpy(square + i, from + i * numbers + at, bytes);
    }
    transpose(square);
    memcpy(to + at, square, sizeof(square));
  }
}

// The inverse of gather; reads behind the last number.
inner void scatter(real* to, const vec* from, int64_t numbers, int items) {
  for (int64_t at = 0; at < numbers; at += LANES) {
    const int64_t bytes = (numbers - at < LANES ? numbers - at : LANES) * sizeof(real);
    vec square[LANES];
    memcpy(square, from + at, sizeof(square));
    transpose(square);
    if (bytes == sizeof(vec) && items == LANES) {
      _Pragma("GCC unroll 16") for (int i = 0; i < LANES; ++i)
        memcpy(to + i * numbers + at, square + i, sizeof(vec));
    } else {
      for (int i = 0; i < items; ++i) memcpy(to + i * numbers + at, square + i, bytes);
    }
  }
}

template <int M, bool BACK> void rotate(vec* x, const vec* r, int64_t channels) {
  for (int64_t c = 0; c < channels; ++c) {
    vec y[M] = {};
    _Pragma("GCC unroll 32") for (int m = 0; m < M; ++m) {
      const vec v = x[m * channels + c];
      _Pragma("GCC unroll 32") for (int k = 0; k < M; ++k) y[k] += v * r[BACK ? m * M + k : k * M + m];
    }
    _Pragma("GCC unroll 32") for (int m = 0; m < M; ++m) x[m * channels + c] = y[m];
  }
}

template <bool BACK> void rotate_any(vec* x, const vec* r, int64_t dim, int64_t channels) {
  switch (dim) {
    case 3: return rotate<3, BACK>(x, r, channels);
    case 5: return rotate<5, BACK>(x, r, channels);
    case 7: return rotate<7, BACK>(x, r, channels);
    case 9: return rotate<9, BACK>(x, r, channels);
    case 11: return rotate<11, BACK>(x, r, channels);
  }
  std::vector<vec> y(dim);
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t k = 0; k < dim; ++k) {
      vec sum = {};
      for (int64_t m = 0; m < dim; ++m) sum += x[m * channels + c] * r[BACK ? m * dim + k : k * dim + m];
      y[k] = sum;
    }
    for (int64_t k = 0; k < dim; ++k) x[k * channels + c] = y[k];
  }
}

inner void multiply(
    vec* to, const vec* from, int64_t rows, const int32_t* places, const int32_t* starts, const int32_t* columns,
    const real* values) {
  for (int64_t row = 0; row < rows; ++row) {
    vec sum = {};
    for (int32_t k = starts[row]; k < starts[row + 1]; ++k) sum += from[columns[k]] * values[k];
    to[places[row]] = sum;
  }
}

#define ARGUMENTS \\
  int64_t first, int64_t last, int64_t parts, real* const* x, const int64_t* dims, const int64_t* channels, \\
  const real* const* rotations, real* blocks, int64_t elements, int64_t rows, const int32_t* places, \\
  const int32_t* starts, const int32_t* columns, const real* values

template <bool BACK> void run(ARGUMENTS) {
  int64_t numbers = 0, largest = 0;
  for (int64_t p = 0; p < parts; ++p) {
    numbers += dims[p] * channels[p];
    largest = largest < dims[p] ? dims[p] : largest;
  }
  std::vector<vec> feature(numbers + LANES), block(elements + LANES), rotation(largest * largest + LANES);
  for (int64_t i = first; i < last; i += LANES) {
    const int items = last - i < LANES ? last - i : LANES;
    if (BACK) {
      gather(block.data(), blocks + i * elements, elements, items);
      multiply(feature.data(), block.data(), rows, places, starts, columns, values);
    }
    vec* at = feature.data();
    for (int64_t p = 0; p < parts; ++p) {
      const int64_t dim = dims[p], size = dim * channels[p];
      if (!BACK) gather(at, x[p] + i * size, size, items);
      if (rotations[p]) {
        gather(rotation.data(), rotations[p] + i * dim * dim, dim * dim, items);
        rotate_any<BACK>(at, rotation.data(), dim, channels[p]);
      }
      if (BACK) scatter(x[p] + i * size, at, size, items);
      at += size;
    }
    if (!BACK) {
      multiply(block.data(), feature.data(), rows, places, starts, columns, values);
      scatter(blocks + i * elements, block.data(), elements, items);
    }
  }
}

extern "C" void expand(ARGUMENTS) {
  run<false>(
      first, last, parts, x, dims, channels, rotations, blocks, elements, rows, places, starts, columns, values);
}

extern "C" void contract(ARGUMENTS) {
  run<true>(
      first, last, parts, x, dims, channels, rotations, blocks, elements, rows, places, starts, columns, values);
}
"""
