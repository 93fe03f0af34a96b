// Features of one irrep with COMPONENTS components: to rows and from rows, each in one pass over memory.
//
// `spread` reads the feature of an edge (or of its node, through an index), turns it into the frame of the edge and
// writes each component to its place in the rows; with an activation it computes the gradient of `collect` instead,
// from the gradient of the feature. `collect` reads the components from the rows, activates them, turns them back and
// adds up the edges of each node in their order, so that sums do not depend on the number of threads.
//
// All numbers of one component and edge are contiguous along the c channels, and those of an item x[m, c] as well.
// r[k * M + m] is the matrix element between component m in the frame of the edge and component k in the frame of
// the feature.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

typedef REAL real;
constexpr int M = COMPONENTS;
typedef real wide __attribute__((vector_size(64)));
typedef real half __attribute__((vector_size(32)));
template <class V> constexpr int lanes = sizeof(V) / sizeof(real);
#define ALL _Pragma("GCC unroll 32") for (int m = 0; m < M; ++m)
#define inner static inline __attribute__((always_inline))

enum Activation : int64_t { NONE, GATE, SILU, TANH };

// Where one feature stands for edge 0, and the strides from edge to edge; `of_` marks gradients.
struct Places {
  real *rows[M], *of_rows[M];  // null for a component without a place
  int64_t row_strides[M];
  real *gate, *of_gate;  // null if the gates are zero
  int64_t gate_stride;
  real *scale, *of_scale;
  int64_t scale_stride;
  double norm;
};

// e^x = 2^n e^r with |r| <= log(2) / 2: a Taylor polynomial, and n added to the exponent. There are no branches, so
// that compilers turn it into vector instructions.
inner real exponential(real x) {
  constexpr bool single = sizeof(real) == 4;
  typedef std::conditional_t<single, uint32_t, uint64_t> bits;
  constexpr int mantissa = single ? 23 : 52, terms = single ? 7 : 13;
  constexpr real limit = single ? 87 : 708, shift = real(3) * (bits(1) << (mantissa - 1));
  constexpr real high = single ? 0.693359375 : 0.693147180369123816490;  // log(2) = high + low
  constexpr real low = single ? -2.12194440e-4 : 1.90821492927058770002e-10;
  x = x < -limit ? -limit : x;
  x = x > limit ? limit : x;
  const real rounded = x * real(1.44269504088896340736) + shift;  // n in the lowest bits of the mantissa
  const real n = rounded - shift, r = (x - n * high) - n * low;
  real sum = 1;
  _Pragma("GCC unroll 16") for (int k = terms; k > 0; --k) sum = 1 + sum * r * (real(1) / k);
  bits b;
  memcpy(&b, &rounded, sizeof b);
  b = (b << mantissa) + (bits(single ? 127 : 1023) << mantissa);
  real power;
  memcpy(&power, &b, sizeof b);
  return sum * power;
}

template <class V> inner V sigmoid(V x) {
  real y[lanes<V>];
  memcpy(y, &x, sizeof x);
  _Pragma("omp simd") for (int k = 0; k < lanes<V>; ++k) y[k] = 1 / (1 + exponential(-y[k]));
  memcpy(&x, y, sizeof x);
  return x;
}

template <class V> inner V tangent(V x) {
  real y[lanes<V>];
  memcpy(y, &x, sizeof x);
  for (int k = 0; k < lanes<V>; ++k) y[k] = std::tanh(y[k]);
  memcpy(&x, y, sizeof x);
  return x;
}

template <class V> inner V load(const real* from) {
  V v;
  memcpy(&v, from, sizeof(V));
  return v;
}

template <class V> inner void store(real* to, V v) { memcpy(to, &v, sizeof(V)); }

template <class V> inner V gate_of(const Places& p, int64_t e, int64_t at) {
  return sigmoid(p.gate ? load<V>(p.gate + e * p.gate_stride + at) : V{});
}

template <class V, bool TURNED, int ACTIVATION>
inner void spread_at(const real* x, int64_t c, const real* r, const Places& p, int64_t e, int64_t at) {
  V y[M];
  if (TURNED) {
    ALL y[m] = V{};
    _Pragma("GCC unroll 32") for (int k = 0; k < M; ++k) {
      const V v = load<V>(x + k * c + at);
      ALL y[m] += v * r[k * M + m];
    }
  } else {
    ALL y[m] = load<V>(x + m * c + at);
  }
  if (ACTIVATION == GATE) {
    const V gate = gate_of<V>(p, e, at), scale = load<V>(p.scale + e * p.scale_stride + at) * real(p.norm);
    V sum = {};
    ALL {
      if (p.rows[m]) sum += y[m] * load<V>(p.rows[m] + e * p.row_strides[m] + at);
      y[m] *= gate * scale;
    }
    store<V>(p.of_scale + e * p.scale_stride + at, sum * gate * real(p.norm));
    if (p.gate) store<V>(p.of_gate + e * p.gate_stride + at, sum * scale * gate * (1 - gate));
  } else if (ACTIVATION != NONE) {
    const V from = p.rows[0] ? load<V>(p.rows[0] + e * p.row_strides[0] + at) : V{};
    const V s = ACTIVATION == SILU ? sigmoid(from) : tangent(from);
    const V value = ACTIVATION == SILU ? from * s : s;
    const V slope = ACTIVATION == SILU ? s * (1 + from * (1 - s)) : 1 - s * s;
    store<V>(p.of_scale + e * p.scale_stride + at, y[0] * value * real(p.norm));
    y[0] *= slope * load<V>(p.scale + e * p.scale_stride + at) * real(p.norm);
  }
  ALL if (p.of_rows[m]) store<V>(p.of_rows[m] + e * p.row_strides[m] + at, y[m]);
}

template <class V, bool TURNED, int ACTIVATION>
inner void collect_at(V* x, const real* r, const Places& p, int64_t e, int64_t at) {
  V y[M];
  ALL y[m] = p.rows[m] ? load<V>(p.rows[m] + e * p.row_strides[m] + at) : V{};
  if (ACTIVATION != NONE) {
    const V scale = load<V>(p.scale + e * p.scale_stride + at) * real(p.norm);
    if (ACTIVATION == GATE) {
      const V factor = gate_of<V>(p, e, at) * scale;
      ALL y[m] *= factor;
    } else {
      y[0] = (ACTIVATION == SILU ? y[0] * sigmoid(y[0]) : tangent(y[0])) * scale;
    }
  }
  if (TURNED) {
    _Pragma("GCC unroll 32") for (int k = 0; k < M; ++k) {
      V sum = x[k];
      ALL sum += y[m] * r[k * M + m];
      x[k] = sum;
    }
  } else {
    ALL x[m] += y[m];
  }
}

// Runs the statements for vectors V of channels: the widest first, single numbers for the remainder.
#define WITH(V, TYPE, ...) for (; at + lanes<TYPE> <= c; at += lanes<TYPE>) { typedef TYPE V; __VA_ARGS__ }
#define VECTORS(...) \
  int64_t at = 0; WITH(V, wide, __VA_ARGS__) WITH(V, half, __VA_ARGS__) WITH(V, real, __VA_ARGS__)

template <bool TURNED, int ACTIVATION>
void spread_all(
    int64_t first, int64_t last, int64_t c, const real* X, const int64_t* index, const real* R, const Places& p) {
  for (int64_t e = first; e < last; ++e) {
    const real *x = X + (index ? index[e] : e) * M * c, *r = R + e * M * M;
    VECTORS((spread_at<V, TURNED, ACTIVATION>(x, c, r, p, e, at));)
  }
}

template <bool TURNED, int ACTIVATION>
void collect_all(
    int64_t first, int64_t last, int64_t c, bool add, real* X, const int64_t* order, const int64_t* starts,
    const real* R, const Places& p) {
  for (int64_t i = first; i < last; ++i) {
    real* x = X + i * M * c;
    const int64_t begin = starts ? starts[i] : i, end = starts ? starts[i + 1] : i + 1;
    VECTORS(
      V sum[M];
      ALL sum[m] = add ? load<V>(x + m * c + at) : V{};
      for (int64_t k = begin; k < end; ++k) {
        const int64_t e = order ? order[k] : k;
        collect_at<V, TURNED, ACTIVATION>(sum, R + e * M * M, p, e, at);
      }
      ALL store<V>(x + m * c + at, sum[m]);)
  }
}

// Only a gate can follow a rotation, and only scalars have other activations.
#define CHOOSE(FUNCTION) \
  (R ? (activation == GATE ? FUNCTION<true, GATE> : FUNCTION<true, NONE>) \
     : activation == GATE ? FUNCTION<false, GATE> \
     : M == 1 && activation == SILU ? FUNCTION<false, M == 1 ? SILU : NONE> \
     : M == 1 && activation == TANH ? FUNCTION<false, M == 1 ? TANH : NONE> \
                                    : FUNCTION<false, NONE>)

extern "C" void spread(
    int64_t first, int64_t last, int64_t c, int64_t activation, const real* X, const int64_t* index, const real* R,
    const Places* places) {
  CHOOSE(spread_all)(first, last, c, X, index, R, *places);
}

extern "C" void collect(
    int64_t first, int64_t last, int64_t c, int64_t activation, int64_t add, real* X, const int64_t* order,
    const int64_t* starts, const real* R, const Places* places) {
  CHOOSE(collect_all)(first, last, c, add, X, order, starts, R, *places);
}
