"""C++ of Clebsch-Gordan products: one pass over memory, with only the coefficients that are not zero.

The kernel takes one product and one vector of channels after the other, reads its inputs through indices (the atoms
of an edge), computes all paths in registers, and adds the result to its item of the output. The source is written out
coefficient by coefficient, because a compiler then keeps sums in registers.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from tracegrad.numerics.wigner_3j import wigner_3j
from tracegrad.ops import native
from tracegrad.ops.coupling.paths import CouplingPaths
from tracegrad.ops.optional_tensors import contiguous

ZERO = 1e-12  # smaller coefficients are rounding errors
VECTOR = 64  # bytes; compilers split such vectors for processors with shorter registers
OPERATIONS = 60  # for each path and channel, roughly
FUNCTIONS = (
    native.Function("forward", "ppppp" + "pppppiiiiiii"),
    native.Function("backward", "p" * 9 + "pppppiiiiiii"),
)
INDICES = ("item of a", "item of b", "item of the output", "row of factor 1", "row of factor 2")


def couple(a: Tensor, b: Tensor, w1: Tensor, w2: Tensor | None, *others: Any) -> Tensor | None:
    """The form of the operator `couple` for CPUs."""
    *indices, items, key = others
    paths = CouplingPaths.named(key)
    out = a.new_zeros(paths.dims[2], items, a.shape[2])
    return out if _run("forward", paths, (a, b, w1, w2, out), indices) else None


def couple_gradient(
    gradients: Sequence[Tensor],
    a: Tensor,
    b: Tensor,
    w1: Tensor,
    w2: Tensor | None,
    *others: Any,
) -> list[Tensor] | None:
    """The gradient of the operator `couple` for CPUs."""
    *indices, _, key, needed = others
    paths = CouplingPaths.named(key)
    if paths.shared and needed[1]:  # `covers` keeps this from happening
        return None
    # Without an index each row of the values belongs to one product, and the kernel overwrites its gradient.
    of_values = [
        x if x is None else x.new_empty(x.shape) if row is None else x.new_zeros(x.shape)
        for x, row in zip((w1, w2), indices[3:], strict=True)
    ]
    made = [a.new_zeros(a.shape), None if paths.shared else b.new_zeros(b.shape), *of_values]
    if not _run("backward", paths, (a, b, w1, w2, gradients[0], *made), indices):
        return None
    return [x for x, flag in zip(made, needed, strict=False) if flag and x is not None]


def _run(name: str, paths: CouplingPaths, tensors: Sequence[Any], indices: Sequence[Tensor | None]) -> bool:
    """Call a function of the library, if there is one; threads share the channels, which are independent."""
    a, b, w1, w2, out = contiguous(tensors[:5])
    if a.dtype not in native.C_TYPES:
        return False
    library = native.library(source(paths, native.C_TYPES[a.dtype]), *FUNCTIONS)
    if library is None:
        return False
    channels, lanes, items = a.shape[2], VECTOR // a.element_size(), out.shape[1]
    limits = (a.shape[1], b.shape[1], items, len(w1), 0 if w2 is None else len(w2))
    checked = [
        None if index is None else native.index(of, index, limit)
        for of, index, limit in zip(INDICES, indices, limits, strict=True)
    ]
    n = next((len(index) for index in checked if index is not None), a.shape[1])
    addresses = [native.pointer(x) for x in (a, b, w1, w2, out, *tensors[5:])]
    addresses += [native.pointer(index) for index in checked]
    sizes = (n, channels, a.shape[1] * channels, b[0].numel(), items * channels)
    function = getattr(library, name)

    def share(first: int, last: int) -> None:
        function(*addresses, *sizes, first * lanes, min(last * lanes, channels))

    native.in_threads(share, -(-channels // lanes), n * channels * len(paths.paths) * OPERATIONS)
    return True


@lru_cache(maxsize=64)
def source(paths: CouplingPaths, real: str) -> str:
    """C++ source of a product; ``real`` is float or double."""
    groups: dict[tuple[int, int], list[tuple[int, int, Tensor]]] = {}
    for path, (((l1, l2, l3), scale), target) in enumerate(zip(paths.paths, paths.targets, strict=True)):
        groups.setdefault((l1, l2), []).append((path, target, scale * wigner_3j(l1, l2, l3)))
    functions = [_group_source(*degrees, of_group, paths.shared) for degrees, of_group in groups.items()]
    m1, m2, m3 = paths.dims
    return _FRAME.format(
        real=real,
        bytes=VECTOR,
        m1=m1,
        m2=m2,
        m3=m3,
        paths=len(paths.paths),
        other="real" if paths.shared else "vec",
        functions="\n".join(functions),
        load_b="for (int m = 0; m < M2; ++m) b[m] = B[m * step_b + jb];"
        if paths.shared
        else "load(b, B + jb * c + at, M2, step_b, lanes);",
        add_b="" if paths.shared else "add(of_B + jb * c + at, of_b, M2, step_b, lanes);",
        forward=" ".join(f"forward_{l1}_{l2}(a, b, w, out);" for l1, l2 in groups),
        backward=" ".join(f"backward_{l1}_{l2}(a, b, w, g, of_a, of_b, of_w);" for l1, l2 in groups),
    )


def _group_source(l1: int, l2: int, paths: list[tuple[int, int, Tensor]], shared: bool) -> str:
    """C++ of the functions for all paths with the same (l1, l2).

    In the source ``t`` are the coupled products of each row (path, m3), ``s`` the gradients that reach them.

    Args:
        l1, l2: degrees of a and b.
        paths: number, first component of the output, and table [m1, m2, m3] of each path.
        shared: see `CouplingPaths`.
    """
    rows = [
        (path, target + m3, table[:, :, m3]) for path, target, table in paths for m3 in range(table.shape[2])
    ]
    numbers = range(len(rows))
    entries = {
        (m1, m2): [(k, value) for k in numbers if abs(value := float(rows[k][2][m1, m2])) > ZERO]
        for m1 in range(2 * l1 + 1)
        for m2 in range(2 * l2 + 1)
    }
    coupled = [f"vec {', '.join(f't{k} = {{}}' for k in numbers)};"]
    transposed = [f"vec {', '.join(f's{k} = w[{rows[k][0]}] * g[{rows[k][1]}]' for k in numbers)};"]
    for (m1, m2), nonzero in entries.items():
        if not nonzero:
            continue
        i, j = l1**2 + m1, l2**2 + m2
        sums = " ".join(f"t{k} += p * real({value!r});" for k, value in nonzero)
        coupled.append(f"{{ vec p = a[{i}] * b[{j}]; {sums} }}")
        back = " + ".join(f"s{k} * real({value!r})" for k, value in nonzero)
        of_b = "" if shared else f" of_b[{j}] += q * a[{i}];"
        transposed.append(f"{{ vec q = {back}; of_a[{i}] += q * b[{j}];{of_b} }}")
    out = [f"out[{m3}] += w[{path}] * t{k};" for k, (path, m3, _) in enumerate(rows)]
    of_w = [
        f"of_w[{path}] = {' + '.join(f't{k} * g[{rows[k][1]}]' for k in numbers if rows[k][0] == path)};"
        for path, *_ in paths
    ]
    lines = [
        f"apart void forward_{l1}_{l2}(const vec* a, const other* b, const vec* w, vec* out) {{",
        *coupled,
        *out,
        "}",
        f"apart void backward_{l1}_{l2}(const vec* a, const other* b, const vec* w, const vec* g, vec* of_a, "
        "vec* of_b, vec* of_w) {",
        "{",
        *coupled,
        *of_w,
        "}",
        *transposed,
        "}",
    ]
    return "\n".join(lines)


# What surrounds the products: loops over items and vectors of channels, loads and stores. `of_` marks gradients.
_FRAME = """
#include <cstdint>
#include <cstring>
typedef {real} real;
typedef real vec __attribute__((vector_size({bytes})));
typedef {other} other;
typedef const int64_t* places;
#define apart static __attribute__((noinline))
#define SHAPE places items_a, places items_b, places items_out, places rows_1, places rows_2, \\
    int64_t n, int64_t c, int64_t step_a, int64_t step_b, int64_t step_out, int64_t first, int64_t last
#define PLACES_OF(k) \\
    const int64_t ja = items_a ? items_a[k] : k, jb = items_b ? items_b[k] : k, jo = items_out ? items_out[k] : k; \\
    const int64_t j1 = (rows_1 ? rows_1[k] : k) * PATHS * c, j2 = (rows_2 ? rows_2[k] : k) * PATHS * c;
constexpr int64_t LANES = {bytes} / sizeof(real);
constexpr int M1 = {m1}, M2 = {m2}, M3 = {m3}, PATHS = {paths};

{functions}

static inline void load(vec* to, const real* from, int rows, int64_t step, int64_t lanes) {{
  if (lanes == LANES) {{
    for (int r = 0; r < rows; ++r) memcpy(to + r, from + r * step, sizeof(vec));
  }} else {{
    memset(to, 0, rows * sizeof(vec));
    for (int r = 0; r < rows; ++r) memcpy(to + r, from + r * step, lanes * sizeof(real));
  }}
}}

static inline void put(real* to, const vec* from, int rows, int64_t step, int64_t lanes) {{
  const int64_t bytes = lanes * sizeof(real);
  for (int r = 0; r < rows; ++r) memcpy(to + r * step, from + r, bytes);
}}

static inline void add(real* to, const vec* from, int rows, int64_t step, int64_t lanes) {{
  for (int r = 0; r < rows; ++r) {{
    if (lanes == LANES) {{
      vec sum;
      memcpy(&sum, to + r * step, sizeof(vec));
      sum += from[r];
      memcpy(to + r * step, &sum, sizeof(vec));
    }} else {{
      for (int64_t i = 0; i < lanes; ++i) to[r * step + i] += from[r][i];
    }}
  }}
}}

extern "C" void forward(
    const real* A, const real* B, const real* W1, const real* W2, real* OUT,
    SHAPE) {{
  for (int64_t k = 0; k < n; ++k) {{
    PLACES_OF(k)
    for (int64_t at = first; at < last; at += LANES) {{
      const int64_t lanes = last - at < LANES ? last - at : LANES;
      vec a[M1], w[PATHS], w2[PATHS], out[M3] = {{}};
      other b[M2];
      load(a, A + ja * c + at, M1, step_a, lanes);
      {load_b}
      load(w, W1 + j1 + at, PATHS, c, lanes);
      if (W2) {{
        load(w2, W2 + j2 + at, PATHS, c, lanes);
        for (int p = 0; p < PATHS; ++p) w[p] *= w2[p];
      }}
      {forward}
      add(OUT + jo * c + at, out, M3, step_out, lanes);
    }}
  }}
}}

extern "C" void backward(
    const real* A, const real* B, const real* W1, const real* W2, const real* G,
    real* of_A, real* of_B, real* of_W1, real* of_W2,
    SHAPE) {{
  for (int64_t k = 0; k < n; ++k) {{
    PLACES_OF(k)
    for (int64_t at = first; at < last; at += LANES) {{
      const int64_t lanes = last - at < LANES ? last - at : LANES;
      vec a[M1], g[M3], w[PATHS], w1[PATHS], w2[PATHS], of_a[M1] = {{}}, of_b[M2] = {{}}, of_w[PATHS];
      other b[M2];
      load(a, A + ja * c + at, M1, step_a, lanes);
      {load_b}
      load(g, G + jo * c + at, M3, step_out, lanes);
      load(w1, W1 + j1 + at, PATHS, c, lanes);
      if (W2) load(w2, W2 + j2 + at, PATHS, c, lanes);
      for (int p = 0; p < PATHS; ++p) w[p] = W2 ? w1[p] * w2[p] : w1[p];
      {backward}
      add(of_A + ja * c + at, of_a, M1, step_a, lanes);
      {add_b}
      if (W2) {{
        for (int p = 0; p < PATHS; ++p) {{
          w1[p] *= of_w[p];
          of_w[p] *= w2[p];
        }}
        (rows_2 ? add : put)(of_W2 + j2 + at, w1, PATHS, c, lanes);
      }}
      (rows_1 ? add : put)(of_W1 + j1 + at, of_w, PATHS, c, lanes);
    }}
  }}
}}
"""
