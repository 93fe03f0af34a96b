// Invariants of pairs of items of component-first features x[m][i][c]; y[k][0 .. degrees][c] belongs to the pair k.
// Channels first .. last - 1.
#include <cstdint>
typedef REAL real;
typedef const int64_t* places;
#define SHAPE places dst, places src, places other, int64_t degrees, int64_t n, int64_t pairs, int64_t c, \
    int64_t first, int64_t last

extern "C" void forward(const real* x, real* y, SHAPE) {
  for (int64_t k = 0; k < pairs; ++k) {
    const real *a = x + dst[k] * c, *b = x + src[k] * c, *o = x + other[k] * c;
    real* to = y + k * (degrees + 1) * c;
    for (int64_t j = first; j < last; ++j) {
      to[j] = a[j];
      to[c + j] = o[j];
    }
    for (int64_t l = 1; l < degrees; ++l) {
      real* sum = to + (l + 1) * c;
      const real factor = real(1) / (2 * l + 1);
      for (int64_t j = first; j < last; ++j) sum[j] = 0;
      for (int64_t m = l * l; m < (l + 1) * (l + 1); ++m) {
        const int64_t at = m * n * c;
#pragma omp simd
        for (int64_t j = first; j < last; ++j) sum[j] += a[at + j] * b[at + j] * factor;
      }
    }
  }
}

extern "C" void backward(const real* g, const real* x, real* of_x, SHAPE) {
  for (int64_t k = 0; k < pairs; ++k) {
    const real *a = x + dst[k] * c, *b = x + src[k] * c, *from = g + k * (degrees + 1) * c;
    real *of_a = of_x + dst[k] * c, *of_b = of_x + src[k] * c, *of_o = of_x + other[k] * c;
    for (int64_t j = first; j < last; ++j) {
      of_a[j] += from[j];
      of_o[j] += from[c + j];
    }
    for (int64_t l = 1; l < degrees; ++l) {
      const real factor = real(1) / (2 * l + 1);
      for (int64_t m = l * l; m < (l + 1) * (l + 1); ++m) {
        const int64_t at = m * n * c;
        // The two items of a pair may be the same one, so each sum has a loop of its own.
#pragma omp simd
        for (int64_t j = first; j < last; ++j) of_a[at + j] += from[(l + 1) * c + j] * factor * b[at + j];
#pragma omp simd
        for (int64_t j = first; j < last; ++j) of_b[at + j] += from[(l + 1) * c + j] * factor * a[at + j];
      }
    }
  }
}
