"""Clebsch-Gordan products in one pass over memory, with only the coefficients that are not zero.

A product couples components channel by channel, with weights w_p of one or two factors for each path p:

    out_l3[m3, i, c] = sum over p = (l1, l2, l3) and over m1, m2 of
                       w_p[i, c] C^{l1 l2 l3}_{m1 m2 m3} a_l1[m1, i, c] b_l2[m2, i, c]

The kernel takes one item and one vector of channels after the other, reads its inputs through indices (the atoms of
an edge), computes all paths in registers, and adds the result to its item of the output. No intermediate result is
stored: the outer products and the gathered features, which take most of the time and memory of the plain form, do
not exist. The C++ source is written out coefficient by coefficient, because a compiler then keeps sums in registers.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracegrad.nn.component_first.features import wigner_3j
from tracegrad.numerics import native
from tracegrad.numerics.plain_gradients import plain_gradients

ZERO = 1e-12  # smaller coefficients are rounding errors
VECTOR = 64  # bytes; compilers split such vectors for processors with shorter registers
OPERATIONS = 60  # for each path and channel, roughly
# A factor of the weights: values, and for each item the row of the values that belongs to it (None: row i to item i).
WeightFactor = tuple[Float[Tensor, "_ paths c"], Int[Tensor, " _"] | None]
OptionalIndex = Int[Tensor, " _"] | None
FUNCTIONS = (
    native.Function("forward", "ppppp" + "pppppiiiiiii"),
    native.Function("backward", "p" * 9 + "pppppiiiiiii"),
)
NAMES = ("a", "b", "output", "factor 1", "factor 2")
TENSORS = (*NAMES[:2], *NAMES[3:], "output", *(f"gradient of {name}" for name in (*NAMES[:2], *NAMES[3:])))


@dataclass(frozen=True)
class CouplingPaths:
    """The paths of a product.

    Args:
        paths: degrees (l1, l2, l3) and coefficient of each path.
        degrees: highest degree of a, b and the output.
        shared: b is [m2, items] and has the same value for all channels.
        stacked: each path has its own 2 l3 + 1 components of the output, one path after another; otherwise all paths
            into a degree are added.
    """

    paths: tuple[tuple[tuple[int, int, int], float], ...]
    degrees: tuple[int, int, int]
    shared: bool
    stacked: bool = False

    @property
    def dims(self) -> tuple[int, int, int]:
        """Numbers of components of a, b and the output."""
        first, second, third = ((degree + 1) ** 2 for degree in self.degrees)
        return first, second, sum(2 * l3 + 1 for (_, _, l3), _ in self.paths) if self.stacked else third

    @property
    def targets(self) -> list[int]:
        """First component of the output that each path adds to."""
        sizes = [2 * l3 + 1 for (_, _, l3), _ in self.paths]
        if self.stacked:
            return [sum(sizes[:path]) for path in range(len(sizes))]
        return [l3**2 for (_, _, l3), _ in self.paths]


def couple(
    coupling: CouplingPaths,
    a: Float[Tensor, "m1 items_a c"],
    b: Float[Tensor, "m2 items_b *c"],
    factors: Sequence[WeightFactor],
    indices: tuple[OptionalIndex, OptionalIndex, OptionalIndex],
    items: int,
    plain: Callable[..., Tensor],
) -> Float[Tensor, "m3 items c"]:
    """The product, by the kernel where it can be used and otherwise by ``plain``.

    Args:
        coupling: the paths.
        a, b: features; b has no channels if it is shared.
        factors: one or two factors of the weights.
        indices: for each item of the product its item of a, of b and of the output; None means item i for item i.
        items: number of items of the output, to which the items of the product are added.
        plain: the same in torch, a function of (a, b, values of the factors).

    Raises:
        KernelArgumentError: features, factors or indices whose shapes do not fit.
        KernelIndexError: an index that is out of range.
    """
    values = [value for value, _ in factors]
    library = None
    if native.usable(a, b, *values) and not (coupling.shared and b.requires_grad):
        library = native.library(source(coupling, native.C_TYPES[a.dtype]), *FUNCTIONS)
    if library is None:
        return plain(a, b, *values)
    if a.ndim != 3 or b.ndim != 3 - coupling.shared or len(values) not in (1, 2):
        raise native.KernelArgumentError(
            f"features of the shapes {tuple(a.shape)} and {tuple(b.shape)} with {len(values)} factors; "
            f"(m1, items, c), (m2, items{'' if coupling.shared else ', c'}) and one or two factors are needed"
        )
    all_indices = [*indices, *(row for _, row in factors)]
    limits = [a.shape[1], b.shape[1], items, *(len(value) for value in values)]
    checked = [
        None if row is None else native.index(f"index of {name}", row, limit)
        for name, row, limit in zip(NAMES, all_indices, limits, strict=False)
    ]
    n = next((len(index.values) for index in checked if index is not None), a.shape[1])
    for name, row, limit in zip(NAMES, checked, limits, strict=False):
        if row is None and limit != n:
            raise native.KernelArgumentError(
                f"{name}: {limit} items without an index for {n} products; give an index"
            )
    checked += [None] * (5 - len(checked))
    call = _CouplingCall(coupling, library, checked, n, items, plain)
    return _Couple.apply(call, *(x.contiguous() for x in (a, b, *values)))


@dataclass(frozen=True)
class _CouplingCall:
    """What `couple` passes to its kernels besides the tensors that have gradients."""

    coupling: CouplingPaths
    library: ctypes.CDLL
    indices: list[native.Index | None]  # of a, b, output, and both factors
    n: int  # items of the product
    items: int  # of the output
    plain: Callable[..., Tensor]

    def run(self, name: str, tensors: Sequence[Tensor | None], a: Tensor, b: Tensor) -> None:
        """Call a function of the library; threads share the channels, which are independent of each other."""
        channels, lanes = a.shape[2], VECTOR // a.element_size()
        m1, m2, m3 = self.coupling.dims
        of_a = (m1, a.shape[1], channels)
        of_b = (m2, b.shape[1]) if self.coupling.shared else (m2, b.shape[1], channels)
        of_out = (m3, self.items, channels)
        weights = [None if x is None else (len(x), len(self.coupling.paths), channels) for x in tensors[2:4]]
        shapes: Sequence[tuple[int, ...] | None] = (of_a, of_b, *weights, of_out, of_a, of_b, *weights)
        addresses = [
            None if x is None or shape is None else native.address(of, x, shape, a.dtype)
            for of, x, shape in zip(TENSORS, tensors, shapes, strict=False)
        ]
        limits = [a.shape[1], b.shape[1], self.items, *(0 if x is None else len(x) for x in tensors[2:4])]
        addresses += [
            None if row is None else row.address(f"index of {of}", self.n, limit)
            for of, row, limit in zip(NAMES, self.indices, limits, strict=True)
        ]
        sizes = (self.n, channels, a.shape[1] * channels, b[0].numel(), self.items * channels)
        function = getattr(self.library, name)

        def share(first: int, last: int) -> None:
            function(*addresses, *sizes, first * lanes, min(last * lanes, channels))

        operations = self.n * channels * len(self.coupling.paths) * OPERATIONS
        native.in_threads(share, -(-channels // lanes), operations)


class _Couple(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call: _CouplingCall, a: Tensor, b: Tensor, *values: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(a, b, *values)
        out = a.new_zeros(call.coupling.dims[2], call.items, a.shape[2])
        call.run("forward", (a, b, *_two(values), out), a, b)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        call: _CouplingCall = ctx.call
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled() or not native.enabled(gradient):
            return None, *plain_gradients(call.plain, inputs, [gradient], ctx.needs_input_grad[1:])
        a, b, *values = inputs
        of_a = torch.zeros_like(a)
        # Without an index each row of the values belongs to one item, and the kernel overwrites its gradient.
        rows = call.indices[3:]
        of_values = [
            torch.empty_like(x) if row is None else torch.zeros_like(x)
            for x, row in zip(values, rows, strict=False)
        ]
        of_b = None if call.coupling.shared else torch.zeros_like(b)
        tensors = (a, b, *_two(values), native.dense(gradient), of_a, of_b, *_two(of_values))
        call.run("backward", tensors, a, b)
        return None, of_a, of_b, *of_values


def _two(values: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    return values[0], values[1] if len(values) > 1 else None


@lru_cache(maxsize=64)
def source(coupling: CouplingPaths, real: str) -> str:
    """C++ source of a product; ``real`` is float or double."""
    groups: dict[tuple[int, int], list[tuple[int, int, Tensor]]] = {}
    for path, (((l1, l2, l3), scale), target) in enumerate(
        zip(coupling.paths, coupling.targets, strict=True)
    ):
        groups.setdefault((l1, l2), []).append((path, target, scale * wigner_3j(l1, l2, l3)))
    functions = [_group_source(*degrees, paths, coupling.shared) for degrees, paths in groups.items()]
    m1, m2, m3 = coupling.dims
    return _FRAME.format(
        real=real,
        bytes=VECTOR,
        m1=m1,
        m2=m2,
        m3=m3,
        paths=len(coupling.paths),
        other="real" if coupling.shared else "vec",
        functions="\n".join(functions),
        load_b="for (int m = 0; m < M2; ++m) b[m] = B[m * step_b + jb];"
        if coupling.shared
        else "load(b, B + jb * c + at, M2, step_b, lanes);",
        add_b="" if coupling.shared else "add(of_B + jb * c + at, of_b, M2, step_b, lanes);",
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
