"""C++ kernel for the absolute deviation of matrices at the shift that minimises it.

The shift is a weighted median, see `tracegrad.metrics.functional.shift`. A histogram around the shift of least
squares shows which bin contains the median; only the few numbers in this bin are sorted.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.numerics import native

BINS = 4096
OPERATIONS = 50  # approximate number of operations for each matrix element


def shifted_deviations(
    difference: Float[Tensor, "batch n n"], direction: Float[Tensor, "batch packed"]
) -> Float[Tensor, " batch"] | None:
    """min over mu of sum_ij |D + mu S|_ij for each matrix D; None where no kernel can be used.

    Args:
        difference: D, float64.
        direction: lower triangle of the symmetric S, see `shifted_mae`.
    """
    if not native.usable(difference, direction) or difference.dtype != torch.float64:
        return None
    library = native.library(_SOURCE, native.Function("deviations", "pppiiii"))
    if library is None:
        return None
    if difference.ndim != 3:
        raise native.KernelArgumentError(
            f"differences of shape {tuple(difference.shape)}; (batch, n, n) is needed"
        )
    batch, n, _ = difference.shape
    tensors = difference.contiguous(), direction.contiguous(), difference.new_empty(batch)
    shapes = (batch, n, n), (batch, n * (n + 1) // 2), (batch,)
    addresses = [
        native.address(name, x, shape, torch.float64)
        for name, x, shape in zip(("difference", "direction", "result"), tensors, shapes, strict=True)
    ]

    def share(first: int, last: int) -> None:
        library.deviations(*addresses, first, last, n, BINS)

    native.in_threads(share, batch, batch * n * n * OPERATIONS)
    return tensors[-1]


_SOURCE = """
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

// The zeros z_i = -d_i / s_i of d_i + mu s_i and the weights |s_i| of one matrix; the weight is 0 where s_i is 0.
struct Terms {
  std::vector<double> z, w, sums;
  std::vector<int32_t> bins;
  int64_t count = 0;

  void clear(int64_t most, int64_t n_bins) {
    z.resize(most); w.resize(most); bins.resize(most); sums.resize(n_bins);
    count = 0;
  }

  void add(const double* d, const double* s, double times, int64_t n, double& fixed, double& mixed) {
    double still = 0, product = 0, *zeros = &z[count], *weights = &w[count];
    #pragma omp simd reduction(+ : still, product)
    for (int64_t j = 0; j < n; ++j) {
      const double weight = std::abs(s[j]), zero = -d[j] / s[j];
      const bool counts = std::abs(zero) <= 1e300;
      zeros[j] = counts ? zero : 0.0;
      weights[j] = counts ? times * weight : 0.0;
      still += times * (counts ? 0.0 : std::abs(d[j]) + 0.0 * weight);  // a NaN in d or s reaches the result
      product += times * d[j] * s[j];
    }
    count += n;
    fixed += still;
    mixed += product;
  }

  double deviation(double mu) const {
    double sum = 0;
    #pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; ++i) sum += w[i] * std::abs(mu - z[i]);
    return sum;
  }

  double median(double total, double centre, double radius) {
    const double half = total / 2, scale = (sums.size() - 2) / (2 * radius), low = centre - radius;
    const double last = double(sums.size() - 1);
    // The bin is a monotonic function of z, so that rounding of the edges of the bins does not change the result.
    // If the limits are NaN, all numbers are in the first bin, which is sorted.
    #pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const double place = (z[i] - low) * scale + 1;
      bins[i] = int32_t(place > 0.0 ? (place > last ? last : place) : 0.0);
    }
    std::fill(sums.begin(), sums.end(), 0.0);
    for (int64_t i = 0; i < count; ++i) sums[bins[i]] += w[i];
    double before = 0;
    int32_t chosen = 0;
    while (chosen < int32_t(last) && before + sums[chosen] < half) before += sums[chosen++];
    std::vector<std::pair<double, double>> inside;
    for (int64_t i = 0; i < count; ++i)
      if (bins[i] == chosen && w[i] > 0) inside.emplace_back(z[i], w[i]);
    std::sort(inside.begin(), inside.end());
    for (const auto& one : inside) {
      before += one.second;
      if (!(before < half)) return one.first;
    }
    return inside.empty() ? centre : inside.back().first;  // because of rounding the last sum may lie below half
  }
};

extern "C" void deviations(const double* all_d, const double* all_s, double* out, int64_t first, int64_t last,
                           int64_t n, int64_t bins) {
  constexpr int64_t tile = 16;
  thread_local Terms terms;  // memory is reused by the next call
  std::vector<double> columns(tile * n);
  for (int64_t b = first; b < last; ++b) {
    const double *D = all_d + b * n * n, *s = all_s + b * (n * (n + 1) / 2);
    terms.clear(n * n, bins);
    double fixed = 0, mixed = 0, total = 0, square = 0;
    for (int64_t above = 0; above < n; above += tile) {
      const int64_t end = std::min(above + tile, n);
      for (int64_t j = 0; j < end; ++j)
        for (int64_t i = above; i < end; ++i) columns[(i - above) * n + j] = D[j * n + i];
      for (int64_t i = above; i < end; ++i) {
        const double *lower = D + i * n, *upper = &columns[(i - above) * n];
        if (std::equal(lower, lower + i, upper)) {
          terms.add(lower, s, 2, i, fixed, mixed);
        } else {
          terms.add(lower, s, 1, i, fixed, mixed);
          terms.add(upper, s, 1, i, fixed, mixed);
        }
        terms.add(lower + i, s + i, 1, 1, fixed, mixed);
        #pragma omp simd reduction(+ : square)
        for (int64_t j = 0; j < i; ++j) square += 2 * s[j] * s[j];
        square += s[i] * s[i];
        s += i + 1;
      }
    }
    #pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < terms.count; ++i) total += terms.w[i];
    out[b] = fixed;
    if (!(total > 0)) continue;
    const double centre = square > 0 ? -mixed / square : 0;
    // |mu - centre| sum |s| - deviation <= sum |d + mu s| <= deviation
    const double radius = std::max(2 * terms.deviation(centre) / total, 1e-300);
    out[b] += terms.deviation(terms.median(total, centre, radius));
  }
}
"""
