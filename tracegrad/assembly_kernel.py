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
    fitting = (
        on_site.shape[1:] == pairs.shape[1:] == (dim, dim)
        and len(pairs) == atoms * (atoms - 1)
        and len(atom) == len(slot)
        and all(((x >= 0) & (x < end)).all() for x, end in ((atom, atoms), (slot, dim)))
    )
    if not fitting:
        raise ValueError(
            f"{len(pairs)} pair blocks of {dim} slots do not fit {atoms} atoms and these orbitals"
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
    blocks = on_site.contiguous(), pairs.contiguous(), on_site.new_empty(n, n, dtype=dtype)
    indices = [np.ascontiguousarray(index, dtype=np.int64) for index in (atom, slot)]
    library.assemble(
        *map(native.pointer, blocks),
        *(ctypes.c_void_p(index.ctypes.data) for index in indices),
        *map(ctypes.c_int64, (n, atoms, dim)),
    )
    return blocks[2]


_SOURCE = """
#include <cstdint>

extern "C" void assemble(const GIVEN* on_site, const GIVEN* pairs, WANTED* out, const int64_t* atom,
                         const int64_t* slot, int64_t n, int64_t atoms, int64_t dim) {
  const int64_t size = dim * dim;
  for (int64_t i = 0; i < n; ++i, out += n) {
    const int64_t dst = atom[i], row = slot[i] * dim;
    for (int64_t j = 0; j < n;) {
      const int64_t src = atom[j];
      const GIVEN* block =
          row + (dst == src ? on_site + dst * size : pairs + (src * (atoms - 1) + dst - (dst > src)) * size);
      for (; j < n && atom[j] == src; ++j) out[j] = block[slot[j]];
    }
  }
}
"""
