"""The absolute deviation of matrices at their best shift, in C++.

The shift is a weighted median, see `tracegrad.metrics.functional.shift`. The weights of many bins around the shift of
least squares tell the one with the median, and its few numbers are sorted.
"""

import ctypes

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.nn import native

BINS = 4096
OPERATIONS = 50  # for each element, about


def shifted_deviations(
    difference: Float[Tensor, "batch n n"], direction: Float[Tensor, "batch packed"]
) -> Float[Tensor, " batch"] | None:
    """min over mu of sum_ij |D + mu S|_ij of each matrix, S symmetric and packed; None without a kernel."""
    n = difference.shape[1]
    if direction.shape != (len(difference), n * (n + 1) // 2):
        raise ValueError(
            f"a packed triangle of {tuple(difference.shape)} is needed, not {tuple(direction.shape)}"
        )
    if not native.usable(difference, direction) or difference.dtype != torch.float64:
        return None
    library = native.library(_SOURCE)
    if library is None:
        return None
    tensors = difference.contiguous(), direction.contiguous(), difference.new_empty(len(difference))
    pointers = [native.pointer(x) for x in tensors]

    def share(first: int, last: int) -> None:
        library.deviations(*pointers, *map(ctypes.c_int64, (first, last, n, BINS)))

    native.in_threads(share, len(difference), len(difference) * n * n * OPERATIONS)
    return tensors[-1]


_SOURCE = """
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

// The d_i + mu s_i of one matrix with s_i != 0, by the zeros z_i = -d_i / s_i and the weights |s_i|.
static double median(const double* z, const double* w, int64_t count, double total, double centre,
                     double radius, double* sums, int64_t bins) {
  const double half = total / 2, scale = (bins - 2) / (2 * radius), low = centre - radius;
  // The bin never falls where z rises, so that rounding of the edges changes nothing.
  auto bin = [&](double zero) {
    return int64_t(std::min(std::max((zero - low) * scale + 1, 0.0), double(bins - 1)));
  };
  std::fill(sums, sums + bins, 0.0);
  for (int64_t i = 0; i < count; ++i) sums[bin(z[i])] += w[i];
  double before = 0;
  int64_t chosen = 0;
  while (chosen < bins - 1 && before + sums[chosen] < half) before += sums[chosen++];
  std::vector<std::pair<double, double>> inside;
  for (int64_t i = 0; i < count; ++i)
    if (bin(z[i]) == chosen) inside.emplace_back(z[i], w[i]);
  std::sort(inside.begin(), inside.end());
  for (const auto& one : inside) {
    before += one.second;
    if (!(before < half)) return one.first;
  }
  return inside.empty() ? centre : inside.back().first;  // rounding may leave the last sum below the half
}

extern "C" void deviations(const double* all_d, const double* all_s, double* out, int64_t first, int64_t last,
                           int64_t n, int64_t bins) {
  std::vector<double> scratch(2 * n * n + bins);
  double *z = scratch.data(), *w = z + n * n, *sums = w + n * n;
  for (int64_t b = first; b < last; ++b) {
    const double *D = all_d + b * n * n, *s = all_s + b * (n * (n + 1) / 2);
    int64_t count = 0;
    double fixed = 0, total = 0, square = 0, mixed = 0;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j <= i; ++j, ++s) {
        const double weight = std::abs(*s), lower = D[i * n + j], upper = D[j * n + i];
        const double times = i == j ? 1 : 2, sum = i == j ? lower : lower + upper;
        const double zero = -lower / *s, other = lower == upper ? zero : -upper / *s;
        if (!(weight > 0) || !std::isfinite(zero) || !std::isfinite(other)) {
          fixed += (i == j ? std::abs(lower) : std::abs(lower) + std::abs(upper)) + 0 * weight;  // or NaN
          continue;
        }
        total += times * weight;
        square += times * *s * *s;
        mixed += sum * *s;
        if (lower == upper) {
          z[count] = zero; w[count++] = times * weight;
        } else {
          z[count] = zero; w[count++] = weight;
          z[count] = other; w[count++] = weight;
        }
      }
    out[b] = fixed;
    if (!count) continue;
    auto deviation = [&](double mu) {
      double sum = 0;
      #pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < count; ++i) sum += w[i] * std::abs(mu - z[i]);
      return sum;
    };
    const double centre = square > 0 ? -mixed / square : 0;
    // |mu - centre| sum |s| - deviation <= sum |d + mu s| <= deviation
    const double radius = std::max(2 * deviation(centre) / total, 1e-300);
    out[b] += deviation(median(z, w, count, total, centre, radius, sums, bins));
  }
}
"""
