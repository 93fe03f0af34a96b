// silu of a LayerNorm, the transpose of its Jacobian J, and the gradient of that; see normed_silu.py.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
typedef REAL real;
#define EACH _Pragma("omp simd") for (int64_t i = 0; i < c; ++i)
#define PRAGMA(...) _Pragma(#__VA_ARGS__)
#define EACH_SUM(...) PRAGMA(omp simd reduction(+ : __VA_ARGS__)) for (int64_t i = 0; i < c; ++i)
#define SHAPE double* sums, double eps, int64_t first, int64_t last, int64_t c

static inline double logistic(double a) { return 1 / (1 + std::exp(-a)); }

// exp(y) = 2^n exp(r) with |r| <= ln(2) / 2 and a polynomial for exp(r) (Cephes), which compilers turn into vectors.
static inline float logistic(float a) {
  float y = -a;
  y = y < -87.f ? -87.f : y;
  y = y > 87.f ? 87.f : y;
  const float shift = 12582912.f;  // 1.5 * 2^23: the sum is rounded to n, which is in its last bits
  const float shifted = y * 1.44269504088896341f + shift;
  const float n = shifted - shift;
  const float r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1;
  uint32_t bits, power;
  memcpy(&bits, &p, 4);
  memcpy(&power, &shifted, 4);
  bits += power << 23;
  memcpy(&p, &bits, 4);
  return 1 / (1 + p);
}

static inline real standardise(const real* x, real* s, double eps, int64_t c) {
  real sum = 0, squares = 0;
  EACH_SUM(sum) sum += x[i];
  const real mean = sum / c;
  EACH_SUM(squares) {
    s[i] = x[i] - mean;
    squares += s[i] * s[i];
  }
  const real inverse = 1 / std::sqrt(squares / c + real(eps));
  EACH s[i] *= inverse;
  return inverse;
}

extern "C" void forward(const real* X, const real* w, const real* b, real* Y, SHAPE) {
  std::vector<real> row(c);
  real* s = row.data();
  for (int64_t n = first; n < last; ++n) {
    real* y = Y + n * c;
    standardise(X + n * c, s, eps, c);
    EACH {
      const real a = w[i] * s[i] + b[i];
      y[i] = a * logistic(a);
    }
  }
}

extern "C" void pull(const real* X, const real* w, const real* b, const real* G, real* OUT, int64_t step_g,
                     SHAPE) {
  std::vector<real> rows(2 * c);
  real *s = rows.data(), *h = s + c;
  double *of_w = sums, *of_b = sums + c;
  for (int64_t n = first; n < last; ++n) {
    const real* g = G + n * step_g;
    real* out = OUT + n * c;
    const real inverse = standardise(X + n * c, s, eps, c);
    real sum_h = 0, sum_hs = 0;
    EACH_SUM(sum_h, sum_hs) {
      const real a = w[i] * s[i] + b[i], sigma = logistic(a);
      const real q = g[i] * sigma * (1 + a * (1 - sigma));
      h[i] = q * w[i];
      sum_h += h[i];
      sum_hs += h[i] * s[i];
      of_w[i] += q * s[i];
      of_b[i] += q;
    }
    const real mean_h = sum_h / c, mean_hs = sum_hs / c;
    EACH out[i] = inverse * (h[i] - mean_h - s[i] * mean_hs);
  }
}

// Gradient of <k, J^T g>. t is the part of its derivative by s that passes through a; v is J k before w and silu' are
// applied.
extern "C" void gradient(const real* X, const real* w, const real* b, const real* G, const real* K, real* of_X,
                         real* of_G, int64_t step_g, SHAPE) {
  std::vector<real> rows(3 * c);
  real *s = rows.data(), *h = s + c, *t = h + c;
  double *of_w = sums, *of_b = sums + c;
  for (int64_t n = first; n < last; ++n) {
    const real *g = G + n * step_g, *k = K + n * c;
    real *of_x = of_X + n * c, *of_g = of_G + n * c;
    const real inverse = standardise(X + n * c, s, eps, c);
    real sum_k = 0, sum_ks = 0, sum_h = 0, sum_hs = 0, sum_hk = 0, sum_t = 0, sum_ts = 0;
    EACH_SUM(sum_k, sum_ks) {
      sum_k += k[i];
      sum_ks += k[i] * s[i];
    }
    const real mean_k = sum_k / c, mean_ks = sum_ks / c;
    EACH_SUM(sum_h, sum_hs, sum_hk) {
      const real a = w[i] * s[i] + b[i], sigma = logistic(a), slope = sigma * (1 - sigma);
      const real once = sigma + a * slope, twice = slope * (2 + a * (1 - 2 * sigma));
      const real v = inverse * (k[i] - mean_k - s[i] * mean_ks), of_a = g[i] * twice * w[i] * v;
      of_g[i] = once * w[i] * v;
      h[i] = g[i] * once * w[i];
      t[i] = of_a * w[i];
      of_w[i] += g[i] * once * v + of_a * s[i];
      of_b[i] += of_a;
      sum_h += h[i];
      sum_hs += h[i] * s[i];
      sum_hk += h[i] * k[i];
    }
    const real mean_h = sum_h / c, mean_hs = sum_hs / c;
    const real of_inverse = inverse * inverse * (sum_hk / c - mean_h * mean_k - mean_hs * mean_ks);
    EACH_SUM(sum_t, sum_ts) {
      t[i] -= inverse * (h[i] * mean_ks + k[i] * mean_hs);
      sum_t += t[i];
      sum_ts += t[i] * s[i];
    }
    const real mean_t = sum_t / c, mean_ts = sum_ts / c;
    EACH of_x[i] = inverse * (t[i] - mean_t - s[i] * mean_ts) - s[i] * of_inverse;
  }
}
