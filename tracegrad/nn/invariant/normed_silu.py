"""y = silu(a) with a = w s + b, where s are the standardised rows of x, and the transpose of its Jacobian J.

These are the operations of `InvariantMLP` between its matrix products: y in the forward direction, then J^T g. On a
CPU each of them, and each of their gradients, is one pass over memory in C++. With i the inverse deviation of a row,
means over its channels, and silu' the derivative of silu,

    J^T g = i (h - mean h - s mean(h s)),  h = w silu'(a) g.

The gradient of <k, J^T g> = <g, J k> with respect to x has contributions through a and s, and through i.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import layer_norm, silu

from tracegrad.ops import native
from tracegrad.ops.plain_gradients import plain_gradients

OPERATIONS = 40  # for each number in the slowest kernel, roughly
FUNCTIONS = (
    native.Function("forward", "pppp" + "pdiii"),
    native.Function("pull", "ppppp" + "pdiii"),
    native.Function("gradient", "ppppppp" + "pdiii"),
)
_NormedSiluCall = tuple[ctypes.CDLL, float]  # library of the kernels, and eps


def normed_silu(
    x: Float[Tensor, "n c"], weight: Float[Tensor, " c"], bias: Float[Tensor, " c"], eps: float
) -> tuple[Float[Tensor, "n c"], Callable[[Float[Tensor, "n c"]], Float[Tensor, "n c"]]]:
    """y, and the function g -> J^T g; both are differentiable to any order.

    Args:
        x: input; each row is standardised.
        weight, bias: w and b.
        eps: added to the variance of each row.
    """
    library = _library(x, weight, bias)
    if library is None:
        return _plain(x, weight, bias, eps), partial(_pulled, eps, x, weight, bias)
    y = _NormedSilu.apply((library, eps), x, weight, bias)
    return y, partial(_pulled, eps, x, weight, bias)


def _pulled(eps: float, x: Tensor, weight: Tensor, bias: Tensor, g: Tensor) -> Tensor:
    library = _library(x, weight, bias, g)
    if library is None:
        return _plain_pull(x, weight, bias, g, eps)
    return _Pull.apply((library, eps), x, weight, bias, g.expand_as(x))


def _plain(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return silu(layer_norm(x, weight.shape, weight, bias, eps))


def _plain_pull(x: Tensor, weight: Tensor, bias: Tensor, g: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    inverse = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    standard = centred * inverse
    a = standard * weight + bias
    sigmoid = torch.sigmoid(a)
    h = g * sigmoid * (1 + a * (1 - sigmoid)) * weight
    return inverse * (h - h.mean(-1, keepdim=True) - standard * (h * standard).mean(-1, keepdim=True))


class _NormedSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call: _NormedSiluCall, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(x, weight, bias)
        y, _, _ = _run("forward", call, (x, weight, bias), 1)
        return y

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled() or not native.enabled(g):
            plain = partial(_plain, eps=ctx.call[1])
            return None, *plain_gradients(plain, inputs, [g], ctx.needs_input_grad[1:])
        return None, *_run("pull", ctx.call, (*inputs, g), 1)


class _Pull(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call: _NormedSiluCall, x: Tensor, weight: Tensor, bias: Tensor, g: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(x, weight, bias, g)
        pulled, _, _ = _run("pull", call, (x, weight, bias, g), 1)
        return pulled

    @staticmethod
    def backward(ctx, k: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled() or not native.enabled(k):
            plain = partial(_plain_pull, eps=ctx.call[1])
            return None, *plain_gradients(plain, inputs, [k], ctx.needs_input_grad[1:])
        of_x, of_g, of_weight, of_bias = _run("gradient", ctx.call, (*inputs, k), 2)
        return None, of_x, of_weight, of_bias, of_g


def _library(*tensors: Tensor) -> ctypes.CDLL | None:
    if not native.usable(*tensors) or tensors[0].ndim != 2 or torch.is_autocast_enabled("cpu"):
        return None
    return native.library(_SOURCE.replace("REAL", native.C_TYPES[tensors[0].dtype]), *FUNCTIONS)


def _run(name: str, call: _NormedSiluCall, inputs: Sequence[Tensor], count: int) -> list[Tensor]:
    """Call the function ``name`` of the library.

    Returns:
        ``count`` tensors like x, and the gradients of w and b, which are zero for "forward".
    """
    inputs = [native.dense(x) for x in inputs]
    shape, dtype = inputs[0].shape, inputs[0].dtype
    rows, channels = shape
    results = [torch.empty_like(inputs[0]) for _ in range(count)]
    library, eps = call
    function = getattr(library, name)
    names = ("x", "weight", "bias", "g", "k")
    addresses = [
        native.address(of, x, shape[1:] if of in ("weight", "bias") else shape, dtype)
        for of, x in zip(names, inputs, strict=False)
    ] + [native.address("result", x, shape, dtype) for x in results]
    sums: dict[int, Tensor] = {}  # first row of a share -> gradients of w and b summed over the share

    def share(first: int, last: int) -> None:
        sums[first] = torch.zeros(2, channels, dtype=torch.float64)
        of_weights = native.address("sums", sums[first], (2, channels), torch.float64)
        function(*addresses, of_weights, eps, first, last, channels)

    native.in_threads(share, rows, OPERATIONS * inputs[0].numel())
    totals = torch.stack([sums[first] for first in sorted(sums)]).sum(0)
    return [*results, *totals.to(inputs[0].dtype)]


_SOURCE = """
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

extern "C" void pull(const real* X, const real* w, const real* b, const real* G, real* OUT, SHAPE) {
  std::vector<real> rows(2 * c);
  real *s = rows.data(), *h = s + c;
  double *of_w = sums, *of_b = sums + c;
  for (int64_t n = first; n < last; ++n) {
    const real* g = G + n * c;
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
                         real* of_G, SHAPE) {
  std::vector<real> rows(3 * c);
  real *s = rows.data(), *h = s + c, *t = h + c;
  double *of_w = sums, *of_b = sums + c;
  for (int64_t n = first; n < last; ++n) {
    const real *g = G + n * c, *k = K + n * c;
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
"""
