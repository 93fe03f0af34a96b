// Mixed products of pairs of channels, and the transpose of their Jacobian; see channel_pairs.py.
#include <cstdint>
typedef REAL real;
#define SHAPE int64_t first, int64_t last, int64_t width, int64_t start, int64_t m, int64_t c, \
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
