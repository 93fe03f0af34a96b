// Mixed products of pairs of channels, and the transpose of their Jacobian; see channel_pairs.py.
//
// Of up to 8 channels the pairs of an item are a square matrix of fixed width, padded with zeros: its rows are vectors,
// and no number is summed across lanes. Of more channels the triangle is taken row by row, as it stands in memory.
#include <cstdint>
#include <cstring>
typedef REAL real;
#define SHAPE int64_t first, int64_t last, int64_t width, int64_t start, int64_t m, int64_t c, \
    int64_t x_m, int64_t x_n, int64_t y_m, int64_t y_n
#define GIVEN first, last, width, start, m, c, x_m, x_n, y_m, y_n

template <int C> struct Vector { typedef real type __attribute__((vector_size(C * sizeof(real)))); };

template <int C> static void mixed_few(real* out, const real* X, const real* Y, real scale, SHAPE) {
  typedef typename Vector<C>::type vec;
  for (int64_t n = first; n < last; ++n) {
    vec product[C] = {};  // sum over m of x_i y_j
    for (int64_t k = 0; k < m; ++k) {
      const real* x = X + n * x_n + k * x_m;
      const real* y = Y + n * y_n + k * y_m;
      vec padded = {};
      memcpy(&padded, y, c * sizeof(real));
      for (int64_t i = 0; i < c; ++i) product[i] += x[i] * padded;
    }
    real square[C][C];
    memcpy(square, product, sizeof(square));
    real* row = out + n * width + start;  // row[j] is the pair (i, i + j)
    for (int64_t i = 0; i < c; row += c - i, ++i)
      for (int64_t j = 0; j < c - i; ++j) row[j] = scale * (square[i][i + j] + square[i + j][i]);
  }
}

template <int C> static void pull_few(const real* g, const real* X, real* V, real scale, SHAPE) {
  typedef typename Vector<C>::type vec;
  for (int64_t n = first; n < last; ++n) {
    real matrix[C][C] = {};  // s S
    const real* row = g + n * width + start;
    for (int64_t i = 0; i < c; row += c - i, ++i) {
      for (int64_t j = 0; j < c - i; ++j) matrix[i][i + j] = matrix[i + j][i] = scale * row[j];
      matrix[i][i] *= 2;
    }
    vec rows[C];
    memcpy(rows, matrix, sizeof(rows));
    for (int64_t k = 0; k < m; ++k) {
      const real* x = X + n * x_n + k * x_m;
      real* v = V + n * y_n + k * y_m;
      vec sum = {};
      for (int64_t i = 0; i < c; ++i) sum += x[i] * rows[i];
      memcpy(v, &sum, c * sizeof(real));
    }
  }
}

extern "C" void mixed(real* out, const real* X, const real* Y, double scale, SHAPE) {
  if (c <= 4) return mixed_few<4>(out, X, Y, scale, GIVEN);
  if (c <= 8) return mixed_few<8>(out, X, Y, scale, GIVEN);
  for (int64_t n = first; n < last; ++n) {
    real* row = out + n * width + start;  // row[j] is the pair (i, i + j)
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
  if (c <= 4) return pull_few<4>(g, X, V, scale, GIVEN);
  if (c <= 8) return pull_few<8>(g, X, V, scale, GIVEN);
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
