"""Inner products of the terms a and b of a low-rank W, and their derivatives.

The *terms* of an irrep are the channels after both linear maps of `LowRankInvariants`, x = (a, b), stored as

    x[m, i, 0, t] = a        x[m, i, 1, t] = b        component m, item i, term t

and u = s sum over m of a b, added up for all irreps. The derivative of u in the direction of y is
s sum (x_a y_b + x_b y_a); its gradient is [x_b | x_a] times s and a factor of each item and term. On a CPU each is
one pass over memory in C++. Autograd does not record these functions.
"""

import ctypes

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.ops import native
from tracegrad.ops.errors import OperatorArgumentError

Terms = Float[Tensor, "_m _n 2 _terms"]  # of one irrep
TermFactors = Float[Tensor, "_n _terms"]  # one number for each item and term
OPERATIONS = 4  # for each number of the terms
FUNCTIONS = native.Function("inner", "ppppdiiiii"), native.Function("crossed", "ppppppdiiiii")
FACTORS = ("u", "derivative", "factor", "factor_x")  # names of the arguments of type `TermFactors`


def add_inner(u: TermFactors, x: Terms, scale: float) -> None:
    """Add ``scale`` times sum over m of x_a x_b to u."""
    library = _library(u, x)
    if library is None:
        for part in x:
            u.addcmul_(part[:, 0], part[:, 1], value=scale)
    else:
        _run(library.inner, x, scale, u=u, derivative=None, x=x, y=None)


def add_inner_with_derivative(
    u: TermFactors, derivative: TermFactors, x: Terms, y: Terms, scale: float
) -> None:
    """`add_inner`, and add the derivative of the sum in the direction of y to ``derivative``."""
    library = _library(u, derivative, x, y)
    if library is None:
        add_inner(u, x, scale)
        for p, q in zip(x, y, strict=True):
            derivative.addcmul_(p[:, 0], q[:, 1], value=scale).addcmul_(p[:, 1], q[:, 0], value=scale)
    else:
        _run(library.inner, x, scale, u=u, derivative=derivative, x=x, y=y)


def crossed(out: Terms, x: Terms, factor: TermFactors, scale: float) -> None:
    """Write [x_b | x_a] times ``factor`` and ``scale`` to ``out``."""
    library = _library(out, x, factor)
    if library is None:
        torch.mul(x[:, :, 1], factor * scale, out=out[:, :, 0])
        torch.mul(x[:, :, 0], factor * scale, out=out[:, :, 1])
    else:
        _run(library.crossed, x, scale, out=out, sum=None, x=x, y=None, factor=factor, factor_x=None)


def crossed_with_sum(
    out: Float[Tensor, "2 _m _n 2 _terms"],
    x: Terms,
    y: Terms,
    factor: TermFactors,
    factor_x: TermFactors,
    scale: float,
) -> None:
    """Write two crossed products.

    ``out[0]`` is `crossed` of x with ``factor``; ``out[1]`` is `crossed` of x with ``factor_x`` plus `crossed` of y
    with ``factor``.
    """
    library = _library(out, x, y, factor, factor_x)
    if library is None:
        crossed(out[0], x, factor, scale)
        crossed(out[1], x, factor_x, scale)
        out[1][:, :, 0].addcmul_(y[:, :, 1], factor, value=scale)
        out[1][:, :, 1].addcmul_(y[:, :, 0], factor, value=scale)
    else:
        native.address("out", out, (2, *x.shape), x.dtype)
        _run(library.crossed, x, scale, out=out[0], sum=out[1], x=x, y=y, factor=factor, factor_x=factor_x)


def _library(*tensors: Tensor) -> ctypes.CDLL | None:
    if not native.usable(*tensors):
        return None
    return native.library(_SOURCE.replace("REAL", native.C_TYPES[tensors[0].dtype]), *FUNCTIONS)


def _run(function, like: Tensor, scale: float, **tensors: Tensor | None) -> None:
    """Call ``function`` with terms of the shape of ``like``, and factors of its items and terms."""
    if like.ndim != 4 or like.shape[2] != 2:
        raise OperatorArgumentError(f"x: terms of shape {tuple(like.shape)}; (m, n, 2, terms) is needed")
    m, n, _, terms = like.shape
    addresses = [
        None
        if t is None
        else native.address(name, t, (n, terms) if name in FACTORS else like.shape, like.dtype)
        for name, t in tensors.items()
    ]

    def share(first: int, last: int) -> None:
        function(*addresses, scale, first, last, m, n, terms)

    native.in_threads(share, n, OPERATIONS * like.numel())


_SOURCE = """
#include <cstdint>
typedef REAL real;
#define SHAPE double scale, int64_t first, int64_t last, int64_t m, int64_t items, int64_t c
#define EACH _Pragma("omp simd") for (int64_t i = 0; i < c; ++i)

extern "C" void inner(real* U, real* DERIVATIVE, const real* X, const real* Y, SHAPE) {
  const real s = scale;
  for (int64_t n = first; n < last; ++n) {
    real* u = U + n * c;
    for (int64_t k = 0; k < m; ++k) {
      const int64_t row = (k * items + n) * 2 * c;
      const real* x = X + row;
      if (Y) {
        const real* y = Y + row;
        real* derivative = DERIVATIVE + n * c;
        EACH {
          u[i] += s * x[i] * x[c + i];
          derivative[i] += s * (x[i] * y[c + i] + x[c + i] * y[i]);
        }
      } else {
        EACH u[i] += s * x[i] * x[c + i];
      }
    }
  }
}

extern "C" void crossed(real* OUT, real* SUM, const real* X, const real* Y, const real* F, const real* F_X, SHAPE) {
  const real s = scale;
  for (int64_t k = 0; k < m; ++k) {
    for (int64_t n = first; n < last; ++n) {
      const int64_t row = (k * items + n) * 2 * c;
      const real *x = X + row, *f = F + n * c;
      real* out = OUT + row;
      if (Y) {
        const real *y = Y + row, *f_x = F_X + n * c;
        real* sum = SUM + row;
        EACH {
          const real p = s * f[i], q = s * f_x[i];
          const real x_a = x[i], x_b = x[c + i];
          out[i] = x_b * p;
          out[c + i] = x_a * p;
          sum[i] = x_b * q + y[c + i] * p;
          sum[c + i] = x_a * q + y[i] * p;
        }
      } else {
        EACH {
          const real p = s * f[i];
          out[i] = x[c + i] * p;
          out[c + i] = x[i] * p;
        }
      }
    }
  }
}
"""
