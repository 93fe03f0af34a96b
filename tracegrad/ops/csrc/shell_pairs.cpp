// From the numbers of features to blocks, by one sparse matrix for all items, and back.
//
// As many items are processed at a time as a vector has lanes: their numbers are transposed so that those of different
// items are adjacent, every irrep is rotated into the global frame, the entries of the matrix are added up, and the
// blocks are written. The transposed map does the same in the opposite direction.
//
//     memory      item 0: n0 n1 n2 ...        vectors     n0: item 0, item 1, ...
//                 item 1: n0 n1 n2 ...   ->               n1: item 0, item 1, ...
//
// A vector holds one number of LANES items. r[k * M + m] is the matrix element between component m in the frame of an
// item and component k in the global frame.
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>
typedef REAL real;
typedef real vec __attribute__((vector_size(64)));
constexpr int LANES = sizeof(vec) / sizeof(real);
#define inner static inline __attribute__((always_inline))

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE
#endif
#endif

#ifdef SHUFFLE
// Two rows of a square matrix: exchanges the off-diagonal blocks of S x S numbers.
template <int S, int... J> inner void exchange(vec& a, vec& b, std::integer_sequence<int, J...>) {
  const vec first = __builtin_shufflevector(a, b, (J & S ? LANES + J - S : J)...);
  b = __builtin_shufflevector(a, b, (J & S ? LANES + J : J + S)...);
  a = first;
}

template <int S> inner void turn_square(vec* square) {
  if constexpr (S > 0) {
    _Pragma("GCC unroll 16") for (int i = 0; i < LANES; ++i)
      if (!(i & S)) exchange<S>(square[i], square[i + S], std::make_integer_sequence<int, LANES>());
    turn_square<S / 2>(square);
  }
}

inner void transpose(vec* square) { turn_square<LANES / 2>(square); }
#else
inner void transpose(vec* square) {
  for (int i = 0; i < LANES; ++i)
    for (int j = 0; j < i; ++j) {
      const real kept = square[i][j];
      square[i][j] = square[j][i];
      square[j][i] = kept;
    }
}
#endif

// Transposes the numbers of some items, so that to[k] holds number k of all of them; may write behind the last one.
inner void gather(vec* to, const real* from, int64_t numbers, int items) {
  for (int64_t at = 0; at < numbers; at += LANES) {
    const int64_t bytes = (numbers - at < LANES ? numbers - at : LANES) * sizeof(real);
    vec square[LANES] = {};
    if (bytes == sizeof(vec) && items == LANES) {
      _Pragma("GCC unroll 16") for (int i = 0; i < LANES; ++i)
        memcpy(square + i, from + i * numbers + at, sizeof(vec));
    } else {
      for (int i = 0; i < items; ++i) memcpy(square + i, from + i * numbers + at, bytes);
    }
    transpose(square);
    memcpy(to + at, square, sizeof(square));
  }
}

// The inverse of gather; reads behind the last number.
inner void scatter(real* to, const vec* from, int64_t numbers, int items) {
  for (int64_t at = 0; at < numbers; at += LANES) {
    const int64_t bytes = (numbers - at < LANES ? numbers - at : LANES) * sizeof(real);
    vec square[LANES];
    memcpy(square, from + at, sizeof(square));
    transpose(square);
    if (bytes == sizeof(vec) && items == LANES) {
      _Pragma("GCC unroll 16") for (int i = 0; i < LANES; ++i)
        memcpy(to + i * numbers + at, square + i, sizeof(vec));
    } else {
      for (int i = 0; i < items; ++i) memcpy(to + i * numbers + at, square + i, bytes);
    }
  }
}

template <int M, bool BACK> void rotate(vec* x, const vec* r, int64_t channels) {
  for (int64_t c = 0; c < channels; ++c) {
    vec y[M] = {};
    _Pragma("GCC unroll 32") for (int m = 0; m < M; ++m) {
      const vec v = x[m * channels + c];
      _Pragma("GCC unroll 32") for (int k = 0; k < M; ++k) y[k] += v * r[BACK ? m * M + k : k * M + m];
    }
    _Pragma("GCC unroll 32") for (int m = 0; m < M; ++m) x[m * channels + c] = y[m];
  }
}

template <bool BACK> void rotate_any(vec* x, const vec* r, int64_t dim, int64_t channels) {
  switch (dim) {
    case 3: return rotate<3, BACK>(x, r, channels);
    case 5: return rotate<5, BACK>(x, r, channels);
    case 7: return rotate<7, BACK>(x, r, channels);
    case 9: return rotate<9, BACK>(x, r, channels);
    case 11: return rotate<11, BACK>(x, r, channels);
  }
  std::vector<vec> y(dim);
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t k = 0; k < dim; ++k) {
      vec sum = {};
      for (int64_t m = 0; m < dim; ++m) sum += x[m * channels + c] * r[BACK ? m * dim + k : k * dim + m];
      y[k] = sum;
    }
    for (int64_t k = 0; k < dim; ++k) x[k * channels + c] = y[k];
  }
}

inner void multiply(
    vec* to, const vec* from, int64_t rows, const int32_t* places, const int32_t* starts, const int32_t* columns,
    const real* values) {
  for (int64_t row = 0; row < rows; ++row) {
    vec sum = {};
    for (int32_t k = starts[row]; k < starts[row + 1]; ++k) sum += from[columns[k]] * values[k];
    to[places[row]] = sum;
  }
}

#define ARGUMENTS \
  int64_t first, int64_t last, int64_t parts, real* const* x, const int64_t* dims, const int64_t* channels, \
  const real* const* rotations, real* blocks, int64_t elements, int64_t rows, const int32_t* places, \
  const int32_t* starts, const int32_t* columns, const real* values

template <bool BACK> void run(ARGUMENTS) {
  int64_t numbers = 0, largest = 0;
  for (int64_t p = 0; p < parts; ++p) {
    numbers += dims[p] * channels[p];
    largest = largest < dims[p] ? dims[p] : largest;
  }
  std::vector<vec> feature(numbers + LANES), block(elements + LANES), rotation(largest * largest + LANES);
  for (int64_t i = first; i < last; i += LANES) {
    const int items = last - i < LANES ? last - i : LANES;
    if (BACK) {
      gather(block.data(), blocks + i * elements, elements, items);
      multiply(feature.data(), block.data(), rows, places, starts, columns, values);
    }
    vec* at = feature.data();
    for (int64_t p = 0; p < parts; ++p) {
      const int64_t dim = dims[p], size = dim * channels[p];
      if (!BACK) gather(at, x[p] + i * size, size, items);
      if (rotations[p]) {
        gather(rotation.data(), rotations[p] + i * dim * dim, dim * dim, items);
        rotate_any<BACK>(at, rotation.data(), dim, channels[p]);
      }
      if (BACK) scatter(x[p] + i * size, at, size, items);
      at += size;
    }
    if (!BACK) {
      multiply(block.data(), feature.data(), rows, places, starts, columns, values);
      scatter(blocks + i * elements, block.data(), elements, items);
    }
  }
}

extern "C" void expand(ARGUMENTS) {
  run<false>(
      first, last, parts, x, dims, channels, rotations, blocks, elements, rows, places, starts, columns, values);
}

extern "C" void contract(ARGUMENTS) {
  run<true>(
      first, last, parts, x, dims, channels, rotations, blocks, elements, rows, places, starts, columns, values);
}
