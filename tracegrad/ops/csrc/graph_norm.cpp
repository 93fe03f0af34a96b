// Features of several irreps minus the mean of their graph, and scalars divided by their deviation; with gradients.
//
// Feature p is x[p][i, m, c] with dims[p] components and channels[p] channels. Its sums have one row for each component
// in the global frame, and the rows of all features follow one another. r[k * M + m] is the matrix element between
// component m in the frame of an item and component k in the global frame. Features with one component are scalars.
// Items are added up in chunks, so that results do not depend on the number of threads.
//
// simdlen(8): with wider vectors, features of 8 channels would be left to scalar code.
#include <cmath>
#include <cstdint>
#include <vector>
typedef REAL real;
#define ARGUMENTS \
  int64_t first, int64_t last, int64_t together, int64_t n, int64_t graphs, int64_t rows, int64_t parts, \
  const int64_t* dims, const int64_t* channels, const int64_t* batch, const real* const* x, \
  const real* const* weights, const real* const* rotations
#define ITEMS_OF(chunk) \
  for (int64_t i = chunk * together; i < ((chunk + 1) * together < n ? (chunk + 1) * together : n); ++i)

// Rotates a vector from the global frame to that of an item; copies it if both are the same.
static inline void turned_back(real* to, const real* from, const real* rotation, int64_t M) {
  for (int64_t m = 0; m < M; ++m) to[m] = rotation ? 0 : from[m];
  if (rotation)
    for (int64_t k = 0; k < M; ++k)
      for (int64_t m = 0; m < M; ++m) to[m] += rotation[k * M + m] * from[k];
}

// Adds the sums over channels, each times its factor, of one item.
static inline void add_item(
    real* sum, const real* x, const real* factor, const real* rotation, real* found, int64_t M, int64_t C) {
  for (int64_t m = 0; m < M; ++m) {
    const real* from = x + m * C;
    real total = 0;
    if (factor) {
      #pragma omp simd simdlen(8) reduction(+ : total)
      for (int64_t c = 0; c < C; ++c) total += from[c] * factor[c];
    } else {
      #pragma omp simd simdlen(8) reduction(+ : total)
      for (int64_t c = 0; c < C; ++c) total += from[c];
    }
    found[m] = total;
  }
  for (int64_t k = 0; k < M; ++k) {
    real total = rotation ? 0 : found[k];
    if (rotation)
      for (int64_t m = 0; m < M; ++m) total += rotation[k * M + m] * found[m];
    sum[k] += total;
  }
}

// sums[chunk, graph, row]: of x; of_gradient[chunk, graph, row]: of the gradients times the weights, if there are any.
extern "C" void sums(ARGUMENTS, const real* const* gradients, real* sums, real* of_gradient) {
  for (int64_t chunk = first; chunk < last; ++chunk) {
    for (int64_t p = 0, row = 0; p < parts; row += dims[p++]) {
      const int64_t M = dims[p], C = channels[p];
      std::vector<real> found(M);
      ITEMS_OF(chunk) {
        const int64_t at = (chunk * graphs + batch[i]) * rows + row;
        const real* rotation = rotations[p] ? rotations[p] + i * M * M : nullptr;
        add_item(sums + at, x[p] + i * M * C, nullptr, rotation, found.data(), M, C);
        if (gradients) add_item(of_gradient + at, gradients[p] + i * M * C, weights[p], rotation, found.data(), M, C);
      }
    }
  }
}

// The same for scalars: sums of d d, and of d times the gradient and the weight, where d is x minus its mean.
extern "C" void squares(ARGUMENTS, const real* const* gradients, const real* means, real* sums, real* of_gradient) {
  for (int64_t chunk = first; chunk < last; ++chunk) {
    for (int64_t p = 0, row = 0; p < parts; row += dims[p++]) {
      const int64_t C = channels[p];
      const real* w = weights[p];
      if (dims[p] > 1) continue;
      ITEMS_OF(chunk) {
        const real mean = means[batch[i] * rows + row], *from = x[p] + i * C;
        const int64_t at = (chunk * graphs + batch[i]) * rows + row;
        real total = 0, product = 0;
        #pragma omp simd simdlen(8) reduction(+ : total)
        for (int64_t c = 0; c < C; ++c) total += (from[c] - mean) * (from[c] - mean);
        sums[at] += total;
        if (!gradients) continue;
        const real* g = gradients[p] + i * C;
        #pragma omp simd simdlen(8) reduction(+ : product)
        for (int64_t c = 0; c < C; ++c) product += (from[c] - mean) * (g[c] * w[c]);
        of_gradient[at] += product;
      }
    }
  }
}

// to[graph, row]: the sums of all chunks divided by their number of terms; those of graphs without items are not used.
extern "C" void averages(
    int64_t chunks, int64_t graphs, int64_t rows, int64_t parts, const int64_t* dims, const int64_t* channels,
    const real* counts, const real* sums, real* to) {
  for (int64_t graph = 0; graph < graphs; ++graph)
    for (int64_t p = 0, row = 0; p < parts; ++p)
      for (int64_t end = row + dims[p]; row < end; ++row) {
        real total = 0;
        for (int64_t chunk = 0; chunk < chunks; ++chunk) total += sums[(chunk * graphs + graph) * rows + row];
        to[graph * rows + row] = total / ((counts[graph] < 1 ? 1 : counts[graph]) * channels[p]);
      }
}

extern "C" void normalise(
    ARGUMENTS, const real* means, const real* variances, double eps, const real* const* biases,
    const real* const* plus, real* const* out) {
  for (int64_t chunk = first; chunk < last; ++chunk) {
    for (int64_t p = 0, row = 0; p < parts; row += dims[p++]) {
      const int64_t M = dims[p], C = channels[p];
      const real *w = weights[p], *bias = biases[p];
      std::vector<real> middle(M);
      ITEMS_OF(chunk) {
        const int64_t at = batch[i] * rows + row;
        turned_back(middle.data(), means + at, rotations[p] ? rotations[p] + i * M * M : nullptr, M);
        const real scale = M > 1 ? 1 : 1 / (std::sqrt(variances[at]) + static_cast<real>(eps));
        for (int64_t m = 0; m < M; ++m) {
          const real *from = x[p] + (i * M + m) * C, shift = middle[m];
          const real* add = plus[p] ? plus[p] + (i * M + m) * C : nullptr;
          real* to = out[p] + (i * M + m) * C;
          if (M > 1 && add) {
            #pragma omp simd simdlen(8)
            for (int64_t c = 0; c < C; ++c) to[c] = (from[c] - shift) * w[c] + add[c];
            continue;
          }
          #pragma omp simd simdlen(8)
          for (int64_t c = 0; c < C; ++c) to[c] = (from[c] - shift) * scale * w[c];
          if (bias) {
            #pragma omp simd simdlen(8)
            for (int64_t c = 0; c < C; ++c) to[c] += bias[c];
          }
          if (add) {
            #pragma omp simd simdlen(8)
            for (int64_t c = 0; c < C; ++c) to[c] += add[c];
          }
        }
      }
    }
  }
}

// of_weights and of_biases have one row of all channels for each chunk. of_means and products are the averages of
// the gradients times the weights, and of these times x minus its mean.
extern "C" void gradients(
    ARGUMENTS, const real* means, const real* variances, double eps, const real* const* gradients,
    const real* of_means, const real* products, int64_t width, real* const* of_x, real* of_weights, real* of_biases) {
  for (int64_t chunk = first; chunk < last; ++chunk) {
    int64_t column = chunk * width;
    for (int64_t p = 0, row = 0; p < parts; column += channels[p], row += dims[p++]) {
      const int64_t M = dims[p], C = channels[p];
      const real* w = weights[p];
      real *of_weight = of_weights + column, *of_bias = of_biases + column;
      std::vector<real> middle(M), shift(M);
      ITEMS_OF(chunk) {
        const int64_t at = batch[i] * rows + row;
        const real* rotation = rotations[p] ? rotations[p] + i * M * M : nullptr;
        turned_back(middle.data(), means + at, rotation, M);
        turned_back(shift.data(), of_means + at, rotation, M);
        if (M == 1) {
          const real deviation = std::sqrt(variances[at]), scale = 1 / (deviation + static_cast<real>(eps));
          // Where all numbers are equal, the deviation is zero; so is then its gradient, not 0/0.
          const real slope = deviation > 0 ? scale * scale / deviation * products[at] : 0;
          const real *g = gradients[p] + i * C, *from = x[p] + i * C, mean = middle[0], of_mean = shift[0];
          real* to = of_x[p] + i * C;
          #pragma omp simd simdlen(8)
          for (int64_t c = 0; c < C; ++c) {
            to[c] = (g[c] * w[c] - of_mean) * scale - (from[c] - mean) * slope;
            of_weight[c] += g[c] * (from[c] - mean) * scale;
            of_bias[c] += g[c];
          }
          continue;
        }
        for (int64_t m = 0; m < M; ++m) {
          const int64_t first_of = (i * M + m) * C;
          const real *g = gradients[p] + first_of, *from = x[p] + first_of, mean = middle[m], of_mean = shift[m];
          real* to = of_x[p] + first_of;
          #pragma omp simd simdlen(8)
          for (int64_t c = 0; c < C; ++c) {
            to[c] = g[c] * w[c] - of_mean;
            of_weight[c] += g[c] * (from[c] - mean);
          }
        }
      }
    }
  }
}

// Sums over the chunks, separated by feature; features whose result is a null pointer are left out.
extern "C" void collect(
    int64_t chunks, int64_t parts, const int64_t* channels, int64_t width, const real* from, real* const* to) {
  for (int64_t p = 0, column = 0; p < parts; column += channels[p++])
    for (int64_t c = 0; to[p] && c < channels[p]; ++c) {
      real total = 0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) total += from[chunk * width + column + c];
      to[p][c] = total;
    }
}
