// Errors of blocks [n, row, column, parts]; parts is 2 where elements are complex, real and imaginary part side by
// side. `ends` are the atoms of the rows of all blocks, then those of their columns.
#ifndef __clang__
#pragma GCC optimize("no-trapping-math")  // comparisons in loops over vectors; it changes no number
#endif
#include <cmath>
#include <cstdint>
typedef REAL real;
#define SHAPE int64_t first, int64_t last, int64_t n, int64_t row_count, int64_t column_count, int64_t parts
#define ARGUMENTS \
  SHAPE, double square, double modulus, const real *blocks, const real *labels, const real *rows, \
      const real *columns, const int64_t *ends

template <int PARTS> static void sums_of(ARGUMENTS, real *sums) {
  for (int64_t k = first; k < last; ++k) {
    const real *of_rows = rows + ends[k] * row_count, *of_columns = columns + ends[n + k] * column_count;
    real squares = 0, moduli = 0, count = 0;
    for (int64_t i = 0; i < row_count; ++i) {
      const int64_t at = (k * row_count + i) * column_count * PARTS;
      const real *x = blocks + at, *y = labels + at;
      const real row = of_rows[i];
      real sum_of_squares = 0, sum_of_moduli = 0, elements = 0;
      #pragma omp simd reduction(+ : sum_of_squares, sum_of_moduli, elements)
      for (int64_t j = 0; j < column_count; ++j) {
        const real mask = row * of_columns[j];
        const real d = (x[j * PARTS] - y[j * PARTS]) * mask;
        const real other = PARTS == 2 ? (x[j * PARTS + PARTS - 1] - y[j * PARTS + PARTS - 1]) * mask : 0;
        const real squared = d * d + other * other;
        elements += mask;
        sum_of_squares += squared;
        sum_of_moduli += PARTS == 2 ? std::sqrt(squared) : std::fabs(d);
      }
      count += elements;
      squares += sum_of_squares;
      moduli += sum_of_moduli;
    }
    sums[k] = (square ? real(square) * squares : 0) + (modulus ? real(modulus) * moduli : 0);
    sums[n + k] = count;
  }
}

template <int PARTS> static void gradients_of(ARGUMENTS, const real *gradient, real *of_blocks) {
  for (int64_t k = first; k < last; ++k) {
    const real *of_rows = rows + ends[k] * row_count, *of_columns = columns + ends[n + k] * column_count;
    const real of_square = 2 * real(square) * gradient[k], of_modulus = real(modulus) * gradient[k];
    for (int64_t i = 0; i < row_count; ++i) {
      const int64_t at = (k * row_count + i) * column_count * PARTS;
      const real *x = blocks + at, *y = labels + at;
      real *out = of_blocks + at;
      const real row = of_rows[i];
      #pragma omp simd
      for (int64_t j = 0; j < column_count; ++j) {
        const real mask = row * of_columns[j];
        const real d = (x[j * PARTS] - y[j * PARTS]) * mask;
        const real other = PARTS == 2 ? (x[j * PARTS + PARTS - 1] - y[j * PARTS + PARTS - 1]) * mask : 0;
        if (PARTS == 2) {
          const real length = std::sqrt(d * d + other * other);
          const real factor = mask * (of_square + (length > 0 ? of_modulus / length : 0));
          out[j * PARTS] = d * factor;
          out[j * PARTS + PARTS - 1] = other * factor;
        } else {
          const real sign = d != d ? d : real(d > 0) - real(d < 0);
          out[j * PARTS] = mask * (of_square * d + of_modulus * sign);
        }
      }
    }
  }
}

extern "C" void sums(ARGUMENTS, real *sums) {
  (parts == 2 ? sums_of<2> : sums_of<1>)(first, last, n, row_count, column_count, parts, square, modulus, blocks,
                                         labels, rows, columns, ends, sums);
}

extern "C" void gradients(ARGUMENTS, const real *gradient, real *of_blocks) {
  (parts == 2 ? gradients_of<2> : gradients_of<1>)(first, last, n, row_count, column_count, parts, square, modulus,
                                                   blocks, labels, rows, columns, ends, gradient, of_blocks);
}
