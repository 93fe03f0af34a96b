"""C++ of `tracegrad.nn.item_first.edge_rows`, in one pass over memory.

``spread`` is the kernel of `to_rows`: it reads the feature of an edge (or of its node, through an index), rotates it
into the frame of the edge and writes each component to its address in the rows. ``collect`` is the kernel of
`from_rows`: it reads the components from the rows, rotates them back and adds up the edges of each node, in the order
of the edges, so that results do not depend on the number of threads. Both may multiply by a factor for each edge and
channel; ``spread`` then computes the gradients of ``collect``.

All numbers of one component and edge are contiguous along the channels. Strides count numbers, not bytes.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from tracegrad.ops import native

Address = int | None
StridedAddress = tuple[
    Address, int
]  # of the number of item 0 and channel 0, and the stride from item to item
FUNCTIONS = (
    native.Function("spread", "iii" + "pii" + "pp" + "pp" + "pi" + "pp" + "pi"),
    native.Function("collect", "iiii" + "pii" + "pp" + "p" + "pp" + "pi"),
)


@dataclass(frozen=True)
class FeatureMemory:
    """Memory of a feature x[i, l + m, c] of shape [items, 2l + 1, channels].

    Args:
        start: address of component m = -l of item 0, and the stride from item to item.
        component_stride: from component to component.
        items, channels: sizes of the feature.
    """

    start: StridedAddress
    component_stride: int
    items: int
    channels: int


def library(degree: int, dtype: torch.dtype) -> ctypes.CDLL | None:
    """The kernels for features of one degree."""
    return native.library(_source(degree, native.C_TYPES[dtype]), *FUNCTIONS)


def spread(
    kernels: ctypes.CDLL,
    x: FeatureMemory,
    rotation: Address,
    index: Address,
    out: Sequence[StridedAddress],
    edges: int,
    factor: StridedAddress = (None, 0),
    rows: Sequence[StridedAddress] | None = None,
    of_factor: StridedAddress = (None, 0),
) -> None:
    """Write the components of ``x`` to the rows: y_e = R_e^T x[index[e]].

    Args:
        kernels: compiled for the degree of ``x``.
        x: the feature.
        rotation: matrices R [edges, m, m] from the frame of the edge to that of the feature, if they differ.
        index: node of each edge; None if item e is edge e.
        out: addresses of the components of edge 0 in the rows.
        edges: number of edges.
        factor: y is multiplied by it, if there is one.
        rows: with a factor, the inputs of ``collect``.
        of_factor: with a factor, receives its gradient, the sum over components of y times ``rows``.
    """
    inputs = rows or [(None, 0)] * len(out)
    rest = (*_addresses_and_strides(out), *factor, *_addresses_and_strides(inputs), *of_factor)

    def share(first: int, last: int) -> None:
        kernels.spread(first, last, x.channels, *x.start, x.component_stride, index, rotation, *rest)

    native.in_threads(share, edges, edges * x.channels * len(out) ** 2)


def collect(
    kernels: ctypes.CDLL,
    x: FeatureMemory,
    rotation: Address,
    edge_lists: tuple[Address, Address],
    rows: Sequence[StridedAddress],
    edges: int,
    factor: StridedAddress = (None, 0),
    *,
    add: bool = False,
) -> None:
    """Set ``x`` to the sum over the edges of each item of f_e R_e y_e, or add the sum to ``x``.

    Args:
        kernels: compiled for the degree of ``x``.
        x: the feature, which is overwritten unless ``add`` is set.
        rotation: matrices R [edges, m, m], as for `spread`.
        edge_lists: the edges sorted by item, and the start of each item in this list; both None if item e is edge e.
        rows: addresses of the components y of edge 0.
        edges: number of edges.
        factor: f, if there is one.
        add: keep what ``x`` holds.
    """
    rest = (*_addresses_and_strides(rows), *factor)

    def share(first: int, last: int) -> None:
        kernels.collect(
            first, last, x.channels, add, *x.start, x.component_stride, *edge_lists, rotation, *rest
        )

    native.in_threads(share, x.items, edges * x.channels * len(rows) ** 2)


def _addresses_and_strides(components: Sequence[StridedAddress]) -> tuple[ctypes.Array, ctypes.Array]:
    """C arrays of the addresses and of the strides."""
    addresses, strides = zip(*components, strict=True)
    return (ctypes.c_void_p * len(addresses))(*addresses), (ctypes.c_int64 * len(strides))(*strides)


@lru_cache(maxsize=64)
def _source(degree: int, real: str) -> str:
    return _SOURCE.replace("REAL", real).replace("COMPONENTS", str(2 * degree + 1))


# r[k * M + m] is the matrix element between component m in the frame of the edge and component k in the frame of the
# feature. `made` are the rows that the feature was made from, `of_factor` the gradient of the factor.
_SOURCE = """
#include <cstdint>
#include <cstring>
typedef REAL real;
constexpr int M = COMPONENTS;
typedef real wide __attribute__((vector_size(64)));
typedef real half __attribute__((vector_size(32)));
template <class V> constexpr int64_t lanes = sizeof(V) / sizeof(real);
#define ALL _Pragma("GCC unroll 32") for (int m = 0; m < M; ++m)
#define inner static inline __attribute__((always_inline))

template <class V> inner V load(const real* from) {
  V v;
  memcpy(&v, from, sizeof(V));
  return v;
}

template <class V> inner void store(real* to, V v) { memcpy(to, &v, sizeof(V)); }

template <class V, bool TURNED, bool SCALED>
inner void spread_at(
    const real* x, int64_t x_component, const real* r, real* const* out, const int64_t* out_edge, const real* factor,
    const real* const* made, const int64_t* made_edge, real* of_factor, int64_t e, int64_t at) {
  V y[M];
  if (TURNED) {
    ALL y[m] = V{};
    _Pragma("GCC unroll 32") for (int k = 0; k < M; ++k) {
      const V v = load<V>(x + k * x_component + at);
      ALL y[m] += v * r[k * M + m];
    }
  } else {
    ALL y[m] = load<V>(x + m * x_component + at);
  }
  if (SCALED) {
    const V f = load<V>(factor + at);
    V sum = {};
    ALL {
      if (made[m]) sum += y[m] * load<V>(made[m] + e * made_edge[m] + at);
      y[m] *= f;
    }
    store<V>(of_factor + at, sum);
  }
  ALL if (out[m]) store<V>(out[m] + e * out_edge[m] + at, y[m]);
}

template <class V, bool TURNED, bool SCALED>
inner void collect_at(
    V* x, const real* r, const real* const* in, const int64_t* in_edge, const real* factor, int64_t e, int64_t at) {
  V y[M];
  ALL y[m] = in[m] ? load<V>(in[m] + e * in_edge[m] + at) : V{};
  if (SCALED) {
    const V f = load<V>(factor + at);
    ALL y[m] *= f;
  }
  if (TURNED) {
    _Pragma("GCC unroll 32") for (int k = 0; k < M; ++k) {
      V sum = x[k];
      ALL sum += y[m] * r[k * M + m];
      x[k] = sum;
    }
  } else {
    ALL x[m] += y[m];
  }
}

// Runs the statements for vectors V of channels: the widest first, single numbers for the remainder.
#define WITH(V, TYPE, ...) for (; at + lanes<TYPE> <= c; at += lanes<TYPE>) { typedef TYPE V; __VA_ARGS__ }
#define VECTORS(...) \
  int64_t at = 0; WITH(V, wide, __VA_ARGS__) WITH(V, half, __VA_ARGS__) WITH(V, real, __VA_ARGS__)

template <bool TURNED, bool SCALED>
void spread_all(
    int64_t first, int64_t last, int64_t c, const real* X, int64_t x_item, int64_t x_component, const int64_t* index,
    const real* R, real* const* out, const int64_t* out_edge, const real* F, int64_t f_edge,
    const real* const* made, const int64_t* made_edge, real* OF, int64_t of_edge) {
  for (int64_t e = first; e < last; ++e) {
    const real *x = X + (index ? index[e] : e) * x_item, *r = R + e * M * M, *f = F + e * f_edge;
    real* of = OF + e * of_edge;
    VECTORS((spread_at<V, TURNED, SCALED>(x, x_component, r, out, out_edge, f, made, made_edge, of, e, at));)
  }
}

template <bool TURNED, bool SCALED>
void collect_all(
    int64_t first, int64_t last, int64_t c, int64_t add, real* X, int64_t x_item, int64_t x_component,
    const int64_t* order, const int64_t* starts, const real* R, const real* const* in, const int64_t* in_edge,
    const real* F, int64_t f_edge) {
  for (int64_t i = first; i < last; ++i) {
    real* x = X + i * x_item;
    const int64_t begin = starts ? starts[i] : i, end = starts ? starts[i + 1] : i + 1;
    VECTORS(
      V sum[M];
      ALL sum[m] = add ? load<V>(x + m * x_component + at) : V{};
      for (int64_t k = begin; k < end; ++k) {
        const int64_t e = order ? order[k] : k;
        collect_at<V, TURNED, SCALED>(sum, R + e * M * M, in, in_edge, F + e * f_edge, e, at);
      }
      ALL store<V>(x + m * x_component + at, sum[m]);)
  }
}

extern "C" void spread(
    int64_t first, int64_t last, int64_t c, const real* X, int64_t x_item, int64_t x_component, const int64_t* index,
    const real* R, real* const* out, const int64_t* out_edge, const real* F, int64_t f_edge,
    const real* const* made, const int64_t* made_edge, real* OF, int64_t of_edge) {
  auto run = R ? (F ? spread_all<true, true> : spread_all<true, false>)
               : (F ? spread_all<false, true> : spread_all<false, false>);
  run(first, last, c, X, x_item, x_component, index, R, out, out_edge, F, f_edge, made, made_edge, OF, of_edge);
}

extern "C" void collect(
    int64_t first, int64_t last, int64_t c, int64_t add, real* X, int64_t x_item, int64_t x_component,
    const int64_t* order, const int64_t* starts, const real* R, const real* const* in, const int64_t* in_edge,
    const real* F, int64_t f_edge) {
  auto run = R ? (F ? collect_all<true, true> : collect_all<true, false>)
               : (F ? collect_all<false, true> : collect_all<false, false>);
  run(first, last, c, add, X, x_item, x_component, order, starts, R, in, in_edge, F, f_edge);
}
"""
