// Exponential Bernstein polynomials b[i][v] = f_cut(r) binom(K-1, v) exp(-d)^(K-1-v) (1 - exp(-d))^v with d = decay r,
// f_cut(r) = exp(-r^2 / (c^2 - r^2)) inside the cutoff c, 0 outside. Distances first .. last - 1.
#include <cmath>
#include <cstdint>
typedef REAL real;
#define SHAPE const real* log_binomial, double a, double c, int64_t count, int64_t first, int64_t last

struct Point {
  real decay, log_rest, log_cut, cutoff_slope;
  bool inside;
  Point(real r, real a, real c) : decay(a * r), inside(r < c) {
    if (!inside) return;
    log_rest = std::log(-std::expm1(-decay));
    const real gap = (c - r) * (c + r);
    log_cut = -r * r / gap;
    cutoff_slope = -2 * r * c * c / (gap * gap);
  }
  real value(real log_binomial, int64_t count, int64_t v) const {
    return std::exp(log_cut) * std::exp(log_binomial - (count - 1 - v) * decay + v * log_rest);
  }
};

extern "C" void forward(const real* r, real* b, SHAPE) {
  for (int64_t i = first; i < last; ++i) {
    const Point p(r[i], a, c);
    for (int64_t v = 0; v < count; ++v) b[i * count + v] = p.inside ? p.value(log_binomial[v], count, v) : 0;
  }
}

// Gradients of the distances, and of the decay, one for each distance.
extern "C" void backward(const real* g, const real* r, real* of_r, real* of_a, SHAPE) {
  for (int64_t i = first; i < last; ++i) {
    of_r[i] = of_a[i] = 0;
    const Point p(r[i], a, c);
    if (!p.inside) continue;
    const real slope = 1 / std::expm1(p.decay);
    real of_decay = 0, of_cut = 0;
    for (int64_t v = 0; v < count; ++v) {
      const real part = g[i * count + v] * p.value(log_binomial[v], count, v);
      of_cut += part;
      of_decay += part * (v * slope - (count - 1 - v));
    }
    of_r[i] = of_decay * a + of_cut * p.cutoff_slope;
    of_a[i] = of_decay * r[i];
  }
}
