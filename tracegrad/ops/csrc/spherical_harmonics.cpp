// Real spherical harmonics y[k][i] of the directions of vectors, by the recursion
//     y[out[e]] += value[e] * y[low[e]] * y[one[e]]
// over entries e in ascending degree; y[0] = 1, y[1 .. 3] = sqrt(3) (y, z, x). Vectors first .. last - 1.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
typedef REAL real;
typedef const int64_t* whole;
#define TABLE whole low, whole one, whole out, const real* value, int64_t entries, int64_t count, int64_t n
constexpr int64_t LANES = 64;  // vectors at once
constexpr real LEAST = real(1e-12);  // of a length
static const real ROOT_3 = std::sqrt(real(3));

static void recursion(const real* vectors, real* y, real* length, TABLE, int64_t begin, int64_t lanes) {
  memset(y, 0, count * LANES * sizeof(real));
  for (int64_t i = 0; i < lanes; ++i) {
    const real* v = vectors + 3 * (begin + i);
    length[i] = std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
    y[i] = 1;
    if (count == 1) continue;
    const real divisor = length[i] < LEAST ? LEAST : length[i];
    for (int64_t d = 0; d < 3; ++d) y[(1 + d) * LANES + i] = ROOT_3 * v[(d + 1) % 3] / divisor;
  }
  for (int64_t e = 0; e < entries; ++e) {
    const real *a = y + low[e] * LANES, *b = y + one[e] * LANES;
    real* to = y + out[e] * LANES;
#pragma omp simd
    for (int64_t i = 0; i < LANES; ++i) to[i] += value[e] * a[i] * b[i];
  }
}

extern "C" void forward(const real* vectors, real* result, TABLE, int64_t first, int64_t last) {
  std::vector<real> y(count * LANES);
  real length[LANES];
  for (int64_t begin = first; begin < last; begin += LANES) {
    const int64_t lanes = last - begin < LANES ? last - begin : LANES;
    recursion(vectors, y.data(), length, low, one, out, value, entries, count, n, begin, lanes);
    for (int64_t k = 0; k < count; ++k) memcpy(result + k * n + begin, &y[k * LANES], lanes * sizeof(real));
  }
}

extern "C" void backward(
    const real* gradient, const real* vectors, real* of_vectors, TABLE, int64_t first, int64_t last) {
  std::vector<real> y(count * LANES), g(count * LANES);
  real length[LANES];
  for (int64_t begin = first; begin < last; begin += LANES) {
    const int64_t lanes = last - begin < LANES ? last - begin : LANES;
    recursion(vectors, y.data(), length, low, one, out, value, entries, count, n, begin, lanes);
    for (int64_t k = 0; k < count; ++k) memcpy(&g[k * LANES], gradient + k * n + begin, lanes * sizeof(real));
    for (int64_t e = entries - 1; e >= 0; --e) {
      const real *a = &y[low[e] * LANES], *b = &y[one[e] * LANES], *from = &g[out[e] * LANES];
      real* of_a = &g[low[e] * LANES];
#pragma omp simd
      for (int64_t i = 0; i < LANES; ++i) of_a[i] += value[e] * b[i] * from[i];
      real* of_b = &g[one[e] * LANES];
#pragma omp simd
      for (int64_t i = 0; i < LANES; ++i) of_b[i] += value[e] * a[i] * from[i];
    }
    for (int64_t i = 0; i < lanes; ++i) {
      real* to = of_vectors + 3 * (begin + i);
      to[0] = to[1] = to[2] = 0;
      if (count == 1) continue;
      const real divisor = length[i] < LEAST ? LEAST : length[i];
      real along = 0;
      for (int64_t d = 0; d < 3; ++d) along += g[(1 + d) * LANES + i] * y[(1 + d) * LANES + i];
      if (length[i] < LEAST) along = 0;
      for (int64_t d = 0; d < 3; ++d) {
        const int64_t at = (1 + d) * LANES + i;
        to[(d + 1) % 3] = (ROOT_3 * g[at] - along * y[at] / ROOT_3) / divisor;
      }
    }
  }
}
