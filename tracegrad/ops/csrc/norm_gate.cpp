// Invariants of component-first features, and their multiplication by gates. A feature is x[m][i][c] with the
// components m of degree l at l^2 .. (l + 1)^2 - 1; invariants and gates are g[i][l][c]. Items first .. last - 1.
#include <cmath>
#include <cstdint>
typedef REAL real;

// y[i][0] = x_0, y[i][l] = |x_l|
extern "C" void norms(const real* x, real* y, int64_t degrees, int64_t n, int64_t c, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) {
    for (int64_t l = 0; l < degrees; ++l) {
      real* to = y + (i * degrees + l) * c;
      if (!l) {
        for (int64_t k = 0; k < c; ++k) to[k] = x[i * c + k];
        continue;
      }
      for (int64_t k = 0; k < c; ++k) to[k] = 0;
      for (int64_t m = l * l; m < (l + 1) * (l + 1); ++m) {
        const real* from = x + (m * n + i) * c;
#pragma omp simd
        for (int64_t k = 0; k < c; ++k) to[k] += from[k] * from[k];
      }
#pragma omp simd
      for (int64_t k = 0; k < c; ++k) to[k] = std::sqrt(to[k]);
    }
  }
}

// of_x_l = g[i][l] x_l / |x_l|, and zero where |x_l| is zero; norm has room for c numbers
extern "C" void norms_gradient(
    const real* x, const real* g, real* of_x, int64_t degrees, int64_t n, int64_t c, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) {
    for (int64_t k = 0; k < c; ++k) of_x[i * c + k] = g[i * degrees * c + k];
    for (int64_t l = 1; l < degrees; ++l) {
      const real* of_norm = g + (i * degrees + l) * c;
      const int64_t step = n * c, begin = l * l * step + i * c;
#pragma omp simd
      for (int64_t k = 0; k < c; ++k) {
        real square = 0;
        for (int64_t m = 0; m < 2 * l + 1; ++m) square += x[begin + m * step + k] * x[begin + m * step + k];
        const real factor = square > 0 ? of_norm[k] / std::sqrt(square) : 0;
        for (int64_t m = 0; m < 2 * l + 1; ++m) of_x[begin + m * step + k] = x[begin + m * step + k] * factor;
      }
    }
  }
}

// y_0 = g[i][0], y_l = g[i][l] x_l
extern "C" void gated(
    const real* x, const real* g, real* y, int64_t degrees, int64_t n, int64_t c, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) {
    for (int64_t k = 0; k < c; ++k) y[i * c + k] = g[i * degrees * c + k];
    for (int64_t l = 1; l < degrees; ++l) {
      const real* gate = g + (i * degrees + l) * c;
      for (int64_t m = l * l; m < (l + 1) * (l + 1); ++m) {
        const int64_t at = (m * n + i) * c;
#pragma omp simd
        for (int64_t k = 0; k < c; ++k) y[at + k] = x[at + k] * gate[k];
      }
    }
  }
}

extern "C" void gated_gradient(
    const real* of_y, const real* x, const real* g, real* of_x, real* of_g, int64_t degrees, int64_t n, int64_t c,
    int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) {
    for (int64_t k = 0; k < c; ++k) {
      of_x[i * c + k] = 0;
      of_g[i * degrees * c + k] = of_y[i * c + k];
    }
    for (int64_t l = 1; l < degrees; ++l) {
      const real* gate = g + (i * degrees + l) * c;
      real* of_gate = of_g + (i * degrees + l) * c;
      for (int64_t k = 0; k < c; ++k) of_gate[k] = 0;
      for (int64_t m = l * l; m < (l + 1) * (l + 1); ++m) {
        const int64_t at = (m * n + i) * c;
#pragma omp simd
        for (int64_t k = 0; k < c; ++k) {
          of_gate[k] += of_y[at + k] * x[at + k];
          of_x[at + k] = of_y[at + k] * gate[k];
        }
      }
    }
  }
}
