"""Products of all pairs of channels, x_ij = s <f_i, f_j> for i <= j, and the transpose of their Jacobian.

With a symmetric S, where S_ij = g_ij for i < j and S_ii = 2 g_ii, the pulled-back vector sum_p g_p dx_p/df is
v = s S f. The derivative of x is again such a v, and those of v are another v and the mixed products
s (<a_i, b_j> + <a_j, b_i>). The two functions are therefore closed under differentiation to any order; on a CPU each
is one pass over memory in C++.

Features are lists of tensors f[m, item, channel], with any strides of m and item. The columns of x are the pairs of
all irreps, one irrep after another, each in the order of the upper triangle:

    (0, 0) (0, 1) .. (0, C-1)  (1, 1) .. (1, C-1)  ..  (C-1, C-1)
"""

import ctypes
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.ops import native
from tracegrad.ops.errors import OperatorArgumentError

# One tensor for each irrep; kernels read them through the strides of m and n.
StridedFeature = Sequence[Float[Tensor, "_m n _c"]]
FUNCTIONS = native.Function("mixed", "pppdiiiiiiiiii"), native.Function("pull", "pppdiiiiiiiiii")


def channel_pairs(feature: StridedFeature, scales: Sequence[float]) -> Float[Tensor, "n pairs"]:
    """x_ij = s <f_i, f_j> for all irreps.

    Args:
        feature: one tensor for each irrep.
        scales: s of each irrep.
    """
    halves = [s / 2 for s in scales]
    if not native.enabled():
        return _plain_mixed(feature, feature, halves)
    return _Mixed.apply(halves, *feature)


def pull_pairs(
    feature: StridedFeature, scales: Sequence[float], g: Float[Tensor, "n pairs"]
) -> list[Float[Tensor, "_m n _c"]]:
    """v = s S f of each irrep, with the strides of the feature where possible.

    Args:
        feature: f, one tensor for each irrep.
        scales: s of each irrep.
        g: what multiplies the derivatives of x.
    """
    if not native.enabled():
        return _plain_pull(feature, g, scales)
    return list(_Pull.apply(list(scales), g, *feature))


class _Mixed(torch.autograd.Function):
    """Mixed products s (<a_i, b_j> + <a_j, b_i>); with one feature only, b is a."""

    @staticmethod
    def forward(ctx, scales: list[float], *parts: Tensor) -> Tensor:
        ctx.scales = scales
        ctx.save_for_backward(*parts)
        a, b = _two(parts, scales)
        counts = [_pairs(f) for f in a]
        library = _library(parts)
        if library is None:
            return _plain_mixed(a, b, scales)
        out = a[0].new_empty(a[0].shape[1], sum(counts))
        for k, (x, y, s) in enumerate(zip(a, b, scales, strict=True)):
            _run(library.mixed, s, out, sum(counts[:k]), x, y)
        return out

    @staticmethod
    def backward(ctx, g: Tensor):
        a, b = _two(ctx.saved_tensors, ctx.scales)
        if a is b:
            return None, *_Pull.apply([2 * s for s in ctx.scales], g, *a)
        return None, *_Pull.apply(ctx.scales, g, *b), *_Pull.apply(ctx.scales, g, *a)


class _Pull(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scales: list[float], g: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.scales = scales
        ctx.save_for_backward(g, *parts)
        counts = [_pairs(f) for f in parts]
        library = _library((g, *parts))
        if library is None:
            return tuple(_plain_pull(parts, g, scales))
        g = native.dense(g)
        native.address("g", g, (parts[0].shape[1], sum(counts)), g.dtype)
        out = []
        for k, (f, s) in enumerate(zip(parts, scales, strict=True)):
            out.append(torch.empty_like(f) if torch.empty_like(f).stride(2) == 1 else f.new_empty(f.shape))
            _run(library.pull, s, g, sum(counts[:k]), f, out[-1])
        return tuple(out)

    @staticmethod
    def backward(ctx, *h: Tensor):
        g, *parts = ctx.saved_tensors
        of_g = _Mixed.apply(ctx.scales, *h, *parts) if ctx.needs_input_grad[1] else None
        return None, of_g, *_Pull.apply(ctx.scales, g, *h)


def _two(parts: Sequence[Tensor], scales: list[float]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    count = len(scales)
    return (parts, parts) if len(parts) == count else (parts[:count], parts[count:])


def _pairs(f: Tensor) -> int:
    return f.shape[2] * (f.shape[2] + 1) // 2


def _plain_mixed(a: StridedFeature, b: StridedFeature, scales: Sequence[float]) -> Float[Tensor, "n pairs"]:
    products = []
    for x, y, scale in zip(a, b, scales, strict=True):
        gram = x.permute(1, 2, 0) @ y.transpose(0, 1)  # [n, i, j]
        rows, columns = torch.triu_indices(x.shape[2], x.shape[2], device=x.device)
        upper, lower = gram[:, rows, columns], gram[:, columns, rows]
        products.append((upper + lower) * scale)
    return torch.cat(products, dim=1)


def _plain_pull(
    feature: StridedFeature, g: Tensor, scales: Sequence[float]
) -> list[Float[Tensor, "_m n _c"]]:
    v = []
    parts = g.split([_pairs(f) for f in feature], dim=1)
    for f, part, scale in zip(feature, parts, scales, strict=True):
        mul = f.shape[2]
        rows, columns = torch.triu_indices(mul, mul, device=f.device)
        index = rows.new_empty(mul, mul)
        index[rows, columns] = index[columns, rows] = torch.arange(len(rows), device=f.device)
        matrix = (part * scale).index_select(1, index.flatten()).view(-1, mul, mul)
        matrix = matrix + torch.diag_embed(matrix.diagonal(dim1=1, dim2=2))  # d<f_i, f_i> = 2 <f_i, df_i>
        v.append((f.transpose(0, 1) @ matrix).transpose(0, 1))
    return v


def _library(tensors: Sequence[Tensor]) -> ctypes.CDLL | None:
    if not native.usable(*tensors) or any(x.stride(-1) != 1 for x in tensors):
        return None
    return native.library(_SOURCE.replace("REAL", native.C_TYPES[tensors[0].dtype]), *FUNCTIONS)


def _run(function, scale: float, table: Tensor, start: int, x: Tensor, y: Tensor) -> None:
    """Call ``function`` for one irrep, whose pairs are the columns of ``table`` from ``start`` on."""
    if x.ndim != 3 or not len(x) or table.ndim != 2 or not 0 <= start <= table.shape[1] - _pairs(x):
        raise OperatorArgumentError(
            f"a feature of shape {tuple(x.shape)} with pairs {tuple(table.shape)} from column {start} on; (m, n, c), "
            "and (n, pairs) with room for c (c + 1) / 2 of them, are needed"
        )
    m, n, channels = x.shape
    addresses = (
        native.address("pairs", table, (n, table.shape[1]), x.dtype),
        native.address("first feature", x, x.shape, x.dtype, strided=True),
        native.address("second feature", y, x.shape, x.dtype, strided=True),
    )
    sizes = [table.shape[1], start, m, channels, *x.stride()[:2], *y.stride()[:2]]

    def share(first: int, last: int) -> None:
        function(*addresses, scale, first, last, *sizes)

    native.in_threads(share, n, n * m * channels**2)


_SOURCE = """
#include <cstdint>
typedef REAL real;
#define SHAPE int64_t first, int64_t last, int64_t width, int64_t start, int64_t m, int64_t c, \\
    int64_t x_m, int64_t x_n, int64_t y_m, int64_t y_n

extern "C" void mixed(real* out, const real* X, const real* Y, double scale, SHAPE) {
  for (int64_t n = first; n < last; ++n) {
    real* row = out + n * width + start;  // row[j] is the pair (i, j)
    for (int64_t i = 0; i < c; row += c - i, ++i) {
      for (int64_t k = 0; k < m; ++k) {
        const real* x = X + n * x_n + k * x_m + i;
        const real* y = Y + n * y_n + k * y_m + i;
        const real of_x = x[0] * real(scale), of_y = y[0] * real(scale);
        if (k == 0) {
          #pragma omp simd
          for (int64_t j = 0; j < c - i; ++j) row[j] = of_x * y[j] + of_y * x[j];
        } else {
          #pragma omp simd
          for (int64_t j = 0; j < c - i; ++j) row[j] += of_x * y[j] + of_y * x[j];
        }
      }
    }
  }
}

extern "C" void pull(const real* g, const real* X, real* V, double scale, SHAPE) {
  for (int64_t n = first; n < last; ++n) {
    for (int64_t k = 0; k < m; ++k) {
      real* v = V + n * y_n + k * y_m;
      for (int64_t i = 0; i < c; ++i) v[i] = 0;
    }
    const real* row = g + n * width + start;
    for (int64_t i = 0; i < c; row += c - i, ++i) {
      for (int64_t k = 0; k < m; ++k) {
        const real* x = X + n * x_n + k * x_m + i;
        real* v = V + n * y_n + k * y_m + i;
        const real own = x[0] * real(scale);
        real sum = 0;
        #pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < c - i; ++j) {
          v[j] += row[j] * own;
          sum += row[j] * x[j];
        }
        v[0] += sum * real(scale);
      }
    }
  }
}
"""
