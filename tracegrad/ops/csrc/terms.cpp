// Inner and crossed products of the terms of one irrep; see terms.py.
#include <cstdint>
typedef REAL real;
#define SHAPE double scale, int64_t first, int64_t last, int64_t m, int64_t items, int64_t c
#define EACH _Pragma("omp simd") for (int64_t i = 0; i < c; ++i)

extern "C" void inner(real* U, real* DERIVATIVE, const real* X, const real* Y, SHAPE) {
  const real s = scale;
  for (int64_t n = first; n < last; ++n) {
    real* u = U + n * c;
    for (int64_t k = 0; k < m; ++k) {
      const int64_t row = (k * items + n) * 2 * c;
      const real* x = X + row;
      if (Y) {
        const real* y = Y + row;
        real* derivative = DERIVATIVE + n * c;
        EACH {
          u[i] += s * x[i] * x[c + i];
          derivative[i] += s * (x[i] * y[c + i] + x[c + i] * y[i]);
        }
      } else {
        EACH u[i] += s * x[i] * x[c + i];
      }
    }
  }
}

extern "C" void crossed(real* OUT, real* SUM, const real* X, const real* Y, const real* F, const real* F_X, SHAPE) {
  const real s = scale;
  for (int64_t k = 0; k < m; ++k) {
    for (int64_t n = first; n < last; ++n) {
      const int64_t row = (k * items + n) * 2 * c;
      const real *x = X + row, *f = F + n * c;
      real* out = OUT + row;
      if (Y) {
        const real *y = Y + row, *f_x = F_X + n * c;
        real* sum = SUM + row;
        EACH {
          const real p = s * f[i], q = s * f_x[i];
          const real x_a = x[i], x_b = x[c + i];
          out[i] = x_b * p;
          out[c + i] = x_a * p;
          sum[i] = x_b * q + y[c + i] * p;
          sum[c + i] = x_a * q + y[i] * p;
        }
      } else {
        EACH {
          const real p = s * f[i];
          out[i] = x[c + i] * p;
          out[c + i] = x[i] * p;
        }
      }
    }
  }
}
