// Matrices from weights of rank one, in one pass over the weights, and back; see `Submatrix` in Python.

#include <cstdint>
#include <cstring>
#include <vector>
typedef REAL real;
// `MatrixTable.numbers`
struct Submatrix { int64_t start, stride, rows, columns, start_1, stride_1, start_2, stride_2, paths, value; };
#define SHARED \
  int64_t count, const Submatrix* submatrices, const real* values, real* matrices, const real* w1, const real* w2

extern "C" void assemble(SHARED) {
  std::vector<real> factors;
  for (int64_t k = 0; k < count; ++k) {
    const Submatrix& s = submatrices[k];
    real* first = matrices + s.start;
    factors.resize(s.columns);
    real* factor = factors.data();
    if (s.paths == 0)
      for (int64_t u = 0; u < s.rows; ++u) memset(first + u * s.stride, 0, s.columns * sizeof(real));
    for (int64_t p = 0; p < s.paths; ++p) {
      for (int64_t w = 0; w < s.columns; ++w) factor[w] = values[s.value + p] * w2[s.start_2 + p * s.stride_2 + w];
      for (int64_t u = 0; u < s.rows; ++u) {
        const real* from = w1 + s.start_1 + p * s.stride_1 + u * s.columns;
        real* to = first + u * s.stride;
        if (p == 0) {
          #pragma omp simd
          for (int64_t w = 0; w < s.columns; ++w) to[w] = factor[w] * from[w];
        } else {
          #pragma omp simd
          for (int64_t w = 0; w < s.columns; ++w) to[w] += factor[w] * from[w];
        }
      }
    }
  }
}

extern "C" void gradients(SHARED, real* of_w1, real* of_w2) {
  std::vector<real> factors, sums;
  for (int64_t k = 0; k < count; ++k) {
    const Submatrix& s = submatrices[k];
    const real* first = matrices + s.start;
    factors.resize(s.columns);
    real* factor = factors.data();
    for (int64_t p = 0; p < s.paths; ++p) {
      sums.assign(s.columns, 0);
      real* sum = sums.data();
      for (int64_t w = 0; w < s.columns; ++w) factor[w] = values[s.value + p] * w2[s.start_2 + p * s.stride_2 + w];
      for (int64_t u = 0; u < s.rows; ++u) {
        const int64_t at = s.start_1 + p * s.stride_1 + u * s.columns;
        const real* gradient = first + u * s.stride;
        #pragma omp simd
        for (int64_t w = 0; w < s.columns; ++w) {
          sum[w] += gradient[w] * w1[at + w];
          of_w1[at + w] += gradient[w] * factor[w];
        }
      }
      for (int64_t w = 0; w < s.columns; ++w) of_w2[s.start_2 + p * s.stride_2 + w] += values[s.value + p] * sum[w];
    }
  }
}
