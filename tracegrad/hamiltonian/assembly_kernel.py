"""C++ kernel that assembles dense matrices of molecules from their blocks in one pass, without an index tensor."""

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tracegrad.ops import native
from tracegrad.ops.errors import OperatorArgumentError, OperatorIndexError

FUNCTION = native.Function("assemble", "pppppppiii", fails=True)


def assemble_with_kernel(
    on_site: Float[Tensor, "atoms dim dim"],
    pairs: Float[Tensor, "edges dim dim"],
    slots: Int64[np.ndarray, "atoms dim"],
    starts: Int64[np.ndarray, " atoms"],
    spans: Int64[np.ndarray, "molecules 3"],
    n: int,
    subtract: Sequence[Float[np.ndarray, " packed"]] | None,
) -> Float[Tensor, "molecules n n"] | None:
    """Matrices of molecules with n orbitals each, see `blocks.assemble_matrices`; None where no kernel can be used.

    Args:
        on_site, pairs: blocks of all molecules, see `blocks.cut_blocks`.
        slots: slots[a, s] is the orbital of atom a, counted in the order of the files, in union slot s; -1: padding.
        starts: starts[a] is the number of orbitals of all atoms before atom a.
        spans: rows [first atom, number of atoms, first pair], one for each molecule.
        n: number of orbitals of each molecule.
        subtract: lower triangles (float64) of symmetric matrices that are subtracted; the result is then float64.

    Raises:
        OperatorArgumentError: shapes or dtypes that do not belong together.
        OperatorIndexError: indices out of range, or slots that do not hold each orbital exactly once.
    """
    _check(on_site, pairs, slots, starts, spans, n, subtract)
    if not native.usable(on_site, pairs):
        return None
    if torch.is_grad_enabled() and (on_site.requires_grad or pairs.requires_grad):
        return None
    dtype = on_site.dtype if subtract is None else torch.float64
    source = _SOURCE.replace("INPUT", native.C_TYPES[on_site.dtype]).replace("OUTPUT", native.C_TYPES[dtype])
    library = native.library(source, FUNCTION)
    if library is None:
        return None
    blocks, molecules, (atoms, dim) = [on_site.contiguous(), pairs.contiguous()], len(spans), slots.shape
    out = on_site.new_empty(molecules, n, n, dtype=dtype)
    arrays = [np.ascontiguousarray(a, dtype=np.int64) for a in (slots, starts, spans)]
    triangles = None if subtract is None else [np.ascontiguousarray(x) for x in subtract]
    arguments = (
        native.address("on-site blocks", blocks[0], (atoms, dim, dim), on_site.dtype),
        native.address("pair blocks", blocks[1], (len(pairs), dim, dim), on_site.dtype),
        native.address("matrices", out, (molecules, n, n), dtype),
        *(a.ctypes.data for a in arrays),
        triangles and (ctypes.c_void_p * molecules)(*(x.ctypes.data for x in triangles)),
        molecules,
        n,
        dim,
    )
    failed = []
    native.in_threads(lambda first, last: failed.append(library.assemble(*arguments)), 1, 0)
    if failed[0]:
        raise OperatorIndexError(
            f"the slots of molecule {failed[0] - 1} do not hold each of {n} orbitals once; each has one slot"
        )
    return out


def _check(
    on_site: Tensor,
    pairs: Tensor,
    slots: np.ndarray,
    starts: np.ndarray,
    spans: np.ndarray,
    n: int,
    subtract: Sequence[np.ndarray] | None,
) -> None:
    """Raise `OperatorArgumentError` or `OperatorIndexError` unless the arrays belong together."""
    for name, a, shape in (
        ("slots", slots, on_site.shape[:2]),
        ("starts", starts, on_site.shape[:1]),
        ("spans", spans, (len(spans), 3)),
    ):
        if a.shape != tuple(shape) or a.dtype.kind not in "iu":
            raise OperatorArgumentError(
                f"{name}: an array of shape {a.shape}, {a.dtype}; whole numbers of shape {tuple(shape)} are needed"
            )
    (atoms, dim), edges = slots.shape, len(pairs)
    if on_site.shape != (atoms, dim, dim) or pairs.shape != (edges, dim, dim):
        raise OperatorArgumentError(
            f"{tuple(on_site.shape)} on-site and {tuple(pairs.shape)} pair blocks; {(atoms, dim, dim)} and "
            f"{(edges, dim, dim)} are needed"
        )
    for number, (first, count, edge) in enumerate(spans.tolist()):  # Python integers do not overflow
        if not 0 <= first < first + count <= atoms or not 0 <= edge <= edge + count * (count - 1) <= edges:
            raise OperatorIndexError(
                f"spans: {[first, count, edge]} of molecule {number} are not within {atoms} atoms and {edges} pairs"
            )
    for name, a, low, high in (("slots", slots, -1, dim), ("starts", starts, 0, atoms * dim + 1)):
        if a.size and not low <= int(a.min()) <= int(a.max()) < high:
            raise OperatorIndexError(f"{name}: an entry is not within {low} .. {high - 1}")
    if n < 0 or (subtract is not None and len(subtract) != len(spans)):
        raise OperatorArgumentError(
            f"{len(subtract or ())} packed triangles for {len(spans)} molecules of {n} orbitals"
        )
    for x in subtract or ():
        if x.shape != (n * (n + 1) // 2,) or x.dtype != np.float64:
            raise OperatorArgumentError(
                f"a packed triangle of shape {x.shape}, {x.dtype}; {(n * (n + 1) // 2,)}, float64 is needed"
            )


_SOURCE = """
#include <algorithm>
#include <cstdint>
#include <vector>

extern "C" int assemble(const INPUT* on_site, const INPUT* pairs, OUTPUT* all, const int64_t* slots,
                        const int64_t* starts, const int64_t* spans, const double* const* subtract, int64_t molecules,
                        int64_t n, int64_t dim) {
  const int64_t size = dim * dim, tile = 16;
  std::vector<int64_t> slot(n), ends;
  for (int64_t m = 0; m < molecules; ++m) {
    const int64_t first = spans[3 * m], atoms = spans[3 * m + 1], edge = spans[3 * m + 2];
    OUTPUT* out = all + m * n * n;
    std::fill(slot.begin(), slot.end(), -1);
    ends.assign(1, 0);
    for (int64_t a = 0; a < atoms; ++a) {
      int64_t filled = 0;
      for (int64_t s = 0; s < dim; ++s) {
        const int64_t inside = slots[(first + a) * dim + s];
        if (inside < 0) continue;
        const int64_t row = starts[first + a] - starts[first] + inside;
        if (row < ends.back() || row >= n || slot[row] >= 0) return m + 1;
        slot[row] = s; ++filled;
      }
      ends.push_back(ends.back() + filled);
      for (int64_t row = ends[a]; row < ends[a + 1]; ++row)
        if (row >= n || slot[row] < 0) return m + 1;
    }
    if (ends.back() != n) return m + 1;
    for (int64_t src = 0; src < atoms; ++src)  // in the order of the blocks in memory
      for (int64_t dst = 0; dst < atoms; ++dst) {
        const INPUT* block = dst == src ? on_site + (first + dst) * size
                                        : pairs + (edge + src * (atoms - 1) + dst - (dst > src)) * size;
        for (int64_t i = ends[dst]; i < ends[dst + 1]; ++i)
          for (int64_t j = ends[src]; j < ends[src + 1]; ++j) out[i * n + j] = block[slot[i] * dim + slot[j]];
      }
    if (!subtract) continue;
    for (int64_t below = 0; below < n; below += tile)
      for (int64_t right = 0; right <= below; right += tile)
        for (int64_t i = below; i < std::min(below + tile, n); ++i) {
          const double* row = subtract[m] + i * (i + 1) / 2;
          for (int64_t j = right; j < std::min(right + tile, i); ++j) {
            out[i * n + j] -= row[j];
            out[j * n + i] -= row[j];
          }
          if (below == right) out[i * n + i] -= row[i];
        }
  }
  return 0;
}
"""
