// Blocks of items from mixtures of the channels of their features x[m][i][c]. The mixtures of degree l are
// mixed[u][m], u = 0 .. counts[l] - 1, one degree after another; each block is mixed times a sparse table. Weights
// are w[kind][u of all degrees][c].
#include <cstdint>
#include <cstring>
#include <vector>
typedef REAL real;
typedef const int64_t* whole;
#define SHAPE whole kind, whole counts, int64_t degrees, int64_t n, int64_t c, int64_t mixtures, int64_t components
#define TABLE whole rows, whole columns, const real* values, int64_t entries, int64_t elements
#define FOR_MIXTURES \
    for (int64_t l = 0, u = 0, at = 0; l < degrees; ++l) \
      for (int64_t end = u + counts[l]; u < end; ++u, at += 2 * l + 1) \
        for (int64_t m = 0; m < 2 * l + 1; ++m)

extern "C" void forward(
    const real* x, const real* w, const real* bias, real* out, SHAPE, TABLE, int64_t first, int64_t last) {
  std::vector<real> mixed(components);
  for (int64_t i = first; i < last; ++i) {
    const real *of_kind = w + kind[i] * mixtures * c, *b = bias + kind[i] * counts[0];
    FOR_MIXTURES {
      const real *weight = of_kind + u * c, *from = x + ((l * l + m) * n + i) * c;
      real sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t k = 0; k < c; ++k) sum += weight[k] * from[k];
      mixed[at + m] = l ? sum : sum + b[u];
    }
    real* to = out + i * elements;
    memset(to, 0, elements * sizeof(real));
    for (int64_t e = 0; e < entries; ++e) to[columns[e]] += values[e] * mixed[rows[e]];
  }
}

// Gradients of mixed, which has room for all items, and of the features.
extern "C" void backward(
    const real* g, const real* w, real* of_mixed, real* of_x, SHAPE, TABLE, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) {
    const real *from = g + i * elements, *of_kind = w + kind[i] * mixtures * c;
    real* mixed = of_mixed + i * components;
    memset(mixed, 0, components * sizeof(real));
    for (int64_t e = 0; e < entries; ++e) mixed[rows[e]] += values[e] * from[columns[e]];
    for (int64_t m = 0; m < degrees * degrees; ++m) memset(of_x + (m * n + i) * c, 0, c * sizeof(real));
    FOR_MIXTURES {
      const real *weight = of_kind + u * c, factor = mixed[at + m];
      real* to = of_x + ((l * l + m) * n + i) * c;
#pragma omp simd
      for (int64_t k = 0; k < c; ++k) to[k] += factor * weight[k];
    }
  }
}

// Gradient of the weights, which is zero before; mixtures first .. last - 1.
extern "C" void backward_weights(
    const real* of_mixed, const real* x, real* of_w, SHAPE, int64_t first, int64_t last) {
  for (int64_t i = 0; i < n; ++i) {
    const real* mixed = of_mixed + i * components;
    real* of_kind = of_w + kind[i] * mixtures * c;
    FOR_MIXTURES {
      if (u < first || u >= last) continue;
      const real *from = x + ((l * l + m) * n + i) * c, factor = mixed[at + m];
      real* to = of_kind + u * c;
#pragma omp simd
      for (int64_t k = 0; k < c; ++k) to[k] += factor * from[k];
    }
  }
}
