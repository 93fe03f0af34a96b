"""Dense matrices from the blocks of a molecule in C++, one pass without an index of all elements."""

import ctypes

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tracegrad.nn import native


def assembled(
    on_site: Float[Tensor, "atoms dim dim"],
    pairs: Float[Tensor, "edges dim dim"],
    atom: Int64[np.ndarray, " n"],
    slot: Int64[np.ndarray, " n"],
    dtype: torch.dtype,
) -> Float[Tensor, "n n"] | None:
    """The matrix whose orbitals are these slots of these atoms, in any order; None without a kernel."""
    atoms, dim = on_site.shape[:2]
    if not on_site.shape[1:] == pairs.shape[1:] == (dim, dim) or len(pairs) != atoms * (atoms - 1):
        raise ValueError(
            f"{tuple(on_site.shape)} on-site and {tuple(pairs.shape)} pair blocks are of no molecule"
        )
    if not native.usable(on_site, pairs) or dtype not in native.C_TYPES:
        return None
    if torch.is_grad_enabled() and (on_site.requires_grad or pairs.requires_grad):
        return None
    names = native.C_TYPES[on_site.dtype], native.C_TYPES[dtype]
    library = native.library(_SOURCE.replace("GIVEN", names[0]).replace("WANTED", names[1]))
    if library is None:
        return None
    n = len(atom)
    if len(slot) != n:
        raise ValueError(f"{n} atoms of orbitals, but {len(slot)} slots")
    blocks = on_site.contiguous(), pairs.contiguous(), on_site.new_empty(n, n, dtype=dtype)
    indices = [np.ascontiguousarray(index, dtype=np.int64) for index in (atom, slot)]
    outside = library.assemble(
        *map(native.pointer, blocks),
        *(ctypes.c_void_p(index.ctypes.data) for index in indices),
        *map(ctypes.c_int64, (n, atoms, dim)),
    )
    if outside:
        raise IndexError(f"an orbital is not within the {dim} slots of {atoms} atoms")
    return blocks[2]


_SOURCE = """
#include <cstdint>

extern "C" int assemble(const GIVEN* on_site, const GIVEN* pairs, WANTED* out, const int64_t* atom,
                         const int64_t* slot, int64_t n, int64_t atoms, int64_t dim) {
  const int64_t size = dim * dim;
  for (int64_t i = 0; i < n; ++i)
    if (atom[i] < 0 || atom[i] >= atoms || slot[i] < 0 || slot[i] >= dim) return 1;
  auto end = [&](int64_t i) {
    int64_t next = i;
    while (next < n && atom[next] == atom[i]) ++next;
    return next;
  };
  for (int64_t first = 0, last; first < n; first = last) {
    last = end(first);
    for (int64_t from = 0, to; from < n; from = to) {
      to = end(from);
      const int64_t dst = atom[first], src = atom[from];
      const GIVEN* block =
          dst == src ? on_site + dst * size : pairs + (src * (atoms - 1) + dst - (dst > src)) * size;
      for (int64_t i = first; i < last; ++i)
        for (int64_t j = from; j < to; ++j) out[i * n + j] = block[slot[i] * dim + slot[j]];
    }
  }
  return 0;
}
"""
