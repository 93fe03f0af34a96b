"""C++ kernel of `tracegrad.metrics.functional.eigenpairs`: one matrix at a time, so that it stays in the CPU cache.

Matrix products and factorisations are those of MKL, which torch contains on x86. On other machines there is no
kernel.
"""

import ctypes
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tracegrad.numerics import native

# The last routine sets the number of threads of the calling thread. It exists only in MKL; other libraries may expect
# the lengths of strings as further arguments.
ROUTINES = ("dgemm_", "sgemm_", "dsyevd_", "dpotrf_", "spotrf_", "dtrsm_", "MKL_Set_Num_Threads_Local")
# The MKL in torch has 32-bit integers, and the largest array has 1 + 6 n + 2 n^2 numbers. A larger matrix would take
# 8 GB; the kernel does not treat it.
LARGEST = 32_000
FUNCTION = native.Function("decoupled", "ppppppp" + "iiiiiii" + "ddddd")
# Hartree. If rounding of A_qq to single precision could change an energy by this much, X A_qq is computed in double
# precision, as `eigenpairs._decoupled` always does.
ROUNDING = 1e-9


def decoupled(
    error: Float[Tensor, "batch n n"],
    energies: Float[Tensor, "batch n"],
    orbitals: Float[Tensor, "batch n n"],
    p: int,
    *,
    window: tuple[int, int],
    steps: int,
    limits: tuple[float, float, float, float],
) -> tuple[Float[Tensor, "batch p"], Float[Tensor, "batch p n"], Bool[Tensor, " batch"]] | None:
    """As `eigenpairs._decoupled`; None where no kernel can be used.

    Args:
        error, energies, orbitals: as of `eigenpairs.lowest_states`.
        p: number of the lowest states.
        window: first state that is diagonalised first, and the one behind the last.
        steps: largest number of steps of the conjugate gradients.
        limits: `CONVERGED`, `PROGRESS`, `RESIDUAL` and `MARGIN`.

    Raises:
        KernelArgumentError: shapes that do not agree.
    """
    if not native.usable(error, energies, orbitals) or error.dtype != torch.float64:
        return None
    if energies.ndim != 2 or not 0 <= window[0] < p < window[1] <= energies.shape[1]:
        raise native.KernelArgumentError(
            f"energies of shape {tuple(energies.shape)} for {p} states with the window {window}; (batch, n) with "
            "0 <= window[0] < states < window[1] <= n is needed"
        )
    batch, n = energies.shape
    routines = _routines() if n <= LARGEST else None
    library = native.library(_SOURCE, FUNCTION) if routines is not None else None
    if library is None:
        return None
    inputs = [x.contiguous() for x in (error, energies, orbitals)]
    results = (
        energies.new_empty(batch, p),
        energies.new_empty(batch, p, n),
        energies.new_empty(batch, dtype=torch.bool),
    )
    shapes = {
        "error": (batch, n, n),
        "energies": (batch, n),
        "orbitals": (batch, n, n),
        "values": (batch, p),
        "vectors": (batch, p, n),
        "sure": (batch,),
    }
    addresses = [
        native.address(name, x, shape, torch.bool if name == "sure" else torch.float64)
        for x, (name, shape) in zip((*inputs, *results), shapes.items(), strict=True)
    ]
    bounds = (*limits, ROUNDING / torch.finfo(torch.float32).eps)

    def share(first: int, last: int) -> None:
        library.decoupled(routines, *addresses, first, last, n, p, *window, steps, *bounds)

    native.in_threads(share, batch, batch * 6 * n**3)
    return results


@lru_cache(maxsize=1)
def _routines() -> ctypes.Array | None:
    """Addresses of the routines of MKL inside torch; None if they are not accessible."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        addresses = [ctypes.cast(getattr(library, name), ctypes.c_void_p) for name in ROUTINES]
    except (OSError, AttributeError):
        return None
    return (ctypes.c_void_p * len(ROUTINES))(*(address.value for address in addresses))


_SOURCE = """
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

// Fortran takes the addresses of integers; MKL reads the lower 32 bits, which come first in a 64-bit integer.
using Int = int64_t;
template <class T> using Product = void(const char*, const char*, const Int*, const Int*, const Int*, const T*,
                                        const T*, const Int*, const T*, const Int*, const T*, T*, const Int*);
template <class T> using Factor = void(const char*, const Int*, T*, const Int*, Int*);
using Solve = void(const char*, const char*, const char*, const char*, const Int*, const Int*, const double*,
                   const double*, const Int*, double*, const Int*);
using Eigen = void(const char*, const char*, const Int*, double*, const Int*, double*, double*, const Int*, Int*,
                   const Int*, Int*);

struct Library {
  Product<double>* dgemm; Product<float>* sgemm; Eigen* dsyevd; Factor<double>* dpotrf; Factor<float>* spotrf;
  Solve* dtrsm; int (*threads)(int);
};

// c (m x n) = alpha a b + beta c of row-major matrices; ta, tb: a or b is transposed.
template <class T>
static void multiply(Product<T>* gemm, bool ta, bool tb, Int m, Int n, Int k, T alpha, const T* a, Int lda,
                     const T* b, Int ldb, T beta, T* c, Int ldc) {
  if (m && n) gemm(tb ? "T" : "N", ta ? "T" : "N", &n, &m, &k, &alpha, b, &ldb, a, &lda, &beta, c, &ldc);
}

struct Limits { double converged, progress, residual, margin, rounding; };

// Memory of one thread, which is reused by its next call with the same sizes.
struct Matrices {
  const Library lib;
  const Limits limits;
  const Int n, p, q, start, end, w, steps;
  double size_of_e = 0;
  std::vector<double> s, left, rows, levels, frontier, of_p, image, residual, xd, coupled, gram, ritz, thin, work;
  std::vector<float> e, of_q, image_of_q, pp, pq, qq, lq, weight, x, x_image, r, direction, moved, other, inner, root;
  std::vector<Int> iwork;

  Matrices(const Library& lib, const Limits& limits, Int n, Int p, Int start, Int end, Int steps)
      : lib(lib), limits(limits), n(n), p(p), q(n - p), start(start), end(end), w(end - start), steps(steps),
        s(n * n), left(end * n), rows(w * w), levels(n), frontier(n * w), of_p(p * n), image(p * n),
        residual(p * n), xd(p * q), coupled(p * q), gram(p * p), ritz(p * p), thin(p * n), e(n * n), of_q(n * q),
        image_of_q(n * q), pp(p * p), pq(p * q), qq(q * q), lq(q), weight(p * q), x(p * q), x_image(p * q), r(p * q),
        direction(p * q), moved(p * q), other(p * q), inner(p * p), root(q) {
    const Int most = std::max(p, w);
    work.resize(1 + 6 * most + 2 * most * most);
    iwork.resize(3 + 5 * most);
  }

  bool fits(const Limits& other, Int n_, Int p_, Int start_, Int end_, Int steps_) const {
    return !std::memcmp(&limits, &other, sizeof limits) && n == n_ && p == p_ && start == start_ && end == end_ &&
           steps == steps_;
  }

  // Eigenvectors replace the symmetric matrix, as rows.
  bool diagonalise(Int size, double* matrix, double* values) {
    Int info = 0, lwork = work.size(), liwork = iwork.size();
    lib.dsyevd("V", "U", &size, matrix, &size, values, work.data(), &lwork, iwork.data(), &liwork, &info);
    return info == 0;
  }

  void symmetric_part(const double* d) {
    constexpr Int tile = 16;
    double mirrored[tile][tile], square = 0;
    for (Int below = 0; below < n; below += tile)
      for (Int right = 0; right < n; right += tile) {
        const Int height = std::min(tile, n - below), width = std::min(tile, n - right);
        for (Int j = 0; j < width; ++j)
          for (Int i = 0; i < height; ++i) mirrored[i][j] = d[(right + j) * n + below + i];
        for (Int i = 0; i < height; ++i) {
          const Int at = (below + i) * n + right;
          #pragma omp simd reduction(+ : square)
          for (Int j = 0; j < width; ++j) {
            const double mean = 0.5 * (d[at + j] + mirrored[i][j]);
            s[at + j] = mean;
            e[at + j] = float(mean);
            square += mean * mean;
          }
        }
      }
    size_of_e = std::sqrt(square);
  }

  bool transform(const double* energies, const double* orbitals) {
    multiply(lib.dgemm, true, false, end, n, n, 1.0, orbitals, n, s.data(), n, 0.0, left.data(), n);
    double* image_of_window = &left[start * n];
    multiply(lib.dgemm, false, false, w, w, n, 1.0, image_of_window, n, orbitals + start, n, 0.0, rows.data(), w);
    for (Int k = 0; k < w; ++k) rows[k * w + k] += energies[start + k];
    std::copy_n(energies, n, levels.data());
    if (!diagonalise(w, rows.data(), &levels[start])) return false;
    multiply(lib.dgemm, false, true, n, w, w, 1.0, orbitals + start, n, rows.data(), w, 0.0, frontier.data(), w);

    const Int turned = p - start;
    multiply(lib.dgemm, false, false, turned, n, w, 1.0, rows.data(), w, image_of_window, n, 0.0, thin.data(), n);
    std::copy_n(thin.data(), turned * n, image_of_window);
    multiply(lib.dgemm, false, false, p, n, n, 1.0, left.data(), n, orbitals, n, 0.0, of_p.data(), n);
    multiply(lib.dgemm, false, true, p, w, w, 1.0, &of_p[start], n, rows.data(), w, 0.0, thin.data(), w);
    for (Int i = 0; i < p; ++i) {
      if (i < start) std::copy_n(&thin[i * w], w, &of_p[i * n + start]);
      else std::fill_n(&of_p[i * n + start], w, 0.0);
      of_p[i * n + i] += levels[i];
      std::copy_n(&of_p[i * n], p, &pp[i * p]);
      std::copy_n(&of_p[i * n + p], q, &pq[i * q]);
    }

    for (Int i = 0; i < n; ++i) {
      std::copy_n(&frontier[i * w + turned], end - p, &of_q[i * q]);
      std::copy_n(&orbitals[i * n + end], n - end, &of_q[i * q + end - p]);
    }
    multiply(lib.sgemm, false, false, n, q, n, 1.f, e.data(), n, of_q.data(), q, 0.f, image_of_q.data(), q);
    multiply(lib.sgemm, true, false, q, q, n, 1.f, of_q.data(), q, image_of_q.data(), q, 0.f, qq.data(), q);
    for (Int k = 0; k < end - p; ++k) std::fill_n(&qq[k * q], end - p, 0.f);
    std::copy_n(&levels[p], q, lq.data());
    return true;
  }

  bool conjugate_gradients() {
    const Int size = p * q;
    for (Int i = 0; i < p; ++i)
      for (Int k = 0; k < q; ++k) weight[i * q + k] = 1 / (lq[k] + qq[k * q + k] - pp[i * p + i]);
    std::fill(x.begin(), x.end(), 0.f);
    std::fill(x_image.begin(), x_image.end(), 0.f);
    inner = pp;
    r = pq;
    float slope = 0, square = 0;
    #pragma omp simd reduction(+ : slope, square)
    for (Int i = 0; i < size; ++i) {
      direction[i] = -r[i] * weight[i];
      slope -= r[i] * direction[i];
      square += r[i] * r[i];
    }
    double norm = std::sqrt(double(square)), allowed = 2 * norm;
    bool running = norm > limits.converged;
    for (Int step = 0; step < steps && running; ++step) {
      for (Int i = 0; i < p; ++i)
        for (Int k = 0; k < q; ++k) moved[i * q + k] = direction[i * q + k] * lq[k];
      multiply(lib.sgemm, false, false, p, q, q, 1.f, direction.data(), q, qq.data(), q, 1.f, moved.data(), q);
      other = moved;
      multiply(lib.sgemm, false, false, p, q, p, -1.f, inner.data(), p, direction.data(), q, 1.f, other.data(), q);
      float bend = 0;
      #pragma omp simd reduction(+ : bend)
      for (Int i = 0; i < size; ++i) bend += direction[i] * other[i];
      const float length = slope / bend;
      #pragma omp simd
      for (Int i = 0; i < size; ++i) {
        x[i] += length * direction[i];
        x_image[i] += length * moved[i];
        r[i] = pq[i] + x_image[i];
      }
      inner = pp;
      multiply(lib.sgemm, false, true, p, p, q, 1.f, x.data(), q, pq.data(), q, 1.f, inner.data(), p);
      multiply(lib.sgemm, false, false, p, q, p, -1.f, inner.data(), p, x.data(), q, 1.f, r.data(), q);
      const float before = slope;
      slope = square = 0;
      #pragma omp simd reduction(+ : slope, square)
      for (Int i = 0; i < size; ++i) {
        slope += r[i] * r[i] * weight[i];
        square += r[i] * r[i];
      }
      const float kept = slope / before;
      #pragma omp simd
      for (Int i = 0; i < size; ++i) direction[i] = kept * direction[i] - r[i] * weight[i];
      norm = std::sqrt(double(square));
      allowed *= limits.progress;
      running = norm > limits.converged && norm < allowed;
    }
    return norm < 10 * limits.converged;
  }

  // x C^T E C x <= |E| (sum_k |x_k| |C_k|)^2
  bool rounding_matters() {
    std::fill(root.begin(), root.end(), 0.f);
    for (Int i = 0; i < n; ++i) {
      #pragma omp simd
      for (Int k = 0; k < q; ++k) root[k] += of_q[i * q + k] * of_q[i * q + k];
    }
    for (Int k = 0; k < q; ++k) root[k] = std::sqrt(root[k]);
    float most = 0;
    for (Int i = 0; i < p; ++i) {
      float sum = 0;
      #pragma omp simd reduction(+ : sum)
      for (Int k = 0; k < q; ++k) sum += std::abs(x[i * q + k]) * root[k];
      most = std::max(most, sum);
    }
    return !(size_of_e * most * most < limits.rounding);
  }

  // X A_qq without the levels; the block of the window is diagonal.
  void couple(const double* orbitals) {
    if (!rounding_matters()) {
      multiply(lib.sgemm, false, false, p, q, q, 1.f, x.data(), q, qq.data(), q, 0.f, moved.data(), q);
      std::copy(moved.begin(), moved.end(), coupled.begin());
      return;
    }
    const Int turned = end - p;
    const double *f = &frontier[p - start], *c = orbitals + end;
    multiply(lib.dgemm, false, true, p, n, q - turned, 1.0, &xd[turned], q, c, n, 0.0, image.data(), n);
    multiply(lib.dgemm, false, false, p, n, n, 1.0, image.data(), n, s.data(), n, 0.0, residual.data(), n);
    multiply(lib.dgemm, false, false, p, turned, n, 1.0, residual.data(), n, f, w, 0.0, coupled.data(), q);
    multiply(lib.dgemm, false, true, p, n, turned, 1.0, xd.data(), q, f, w, 1.0, image.data(), n);
    multiply(lib.dgemm, false, false, p, n, n, 1.0, image.data(), n, s.data(), n, 0.0, residual.data(), n);
    multiply(lib.dgemm, false, false, p, q - turned, n, 1.0, residual.data(), n, c, n, 0.0, &coupled[turned], q);
  }

  bool rayleigh_ritz(const double* orbitals, double* values, double* y) {
    std::copy(x.begin(), x.end(), xd.begin());
    couple(orbitals);
    image = of_p;
    multiply(lib.dgemm, false, true, p, p, q, 1.0, xd.data(), q, &of_p[p], n, 1.0, image.data(), n);
    for (Int i = 0; i < p; ++i)
      for (Int k = 0; k < q; ++k) image[i * n + p + k] += xd[i * q + k] * levels[p + k] + coupled[i * q + k];

    std::fill(gram.begin(), gram.end(), 0.0);
    for (Int i = 0; i < p; ++i) gram[i * p + i] = 1;
    for (Int i = 0; i < p; ++i) std::copy_n(&image[i * n], p, &ritz[i * p]);
    multiply(lib.dgemm, false, true, p, p, q, 1.0, xd.data(), q, xd.data(), q, 1.0, gram.data(), p);
    multiply(lib.dgemm, false, true, p, p, q, 1.0, &image[p], n, xd.data(), q, 1.0, ritz.data(), p);
    Int info = 0;
    const double one = 1;
    lib.dpotrf("U", &p, gram.data(), &p, &info);
    if (info) return false;
    lib.dtrsm("L", "U", "T", "N", &p, &p, &one, gram.data(), &p, ritz.data(), &p);
    lib.dtrsm("R", "U", "N", "N", &p, &p, &one, gram.data(), &p, ritz.data(), &p);
    if (!diagonalise(p, ritz.data(), values)) return false;
    lib.dtrsm("L", "U", "N", "N", &p, &p, &one, gram.data(), &p, ritz.data(), &p);
    for (Int i = 0; i < p; ++i) std::copy_n(&ritz[i * p], p, y + i * n);
    multiply(lib.dgemm, false, false, p, q, p, 1.0, ritz.data(), p, xd.data(), q, 0.0, y + p, n);
    for (Int i = 0; i < p; ++i)
      for (Int j = 0; j < n; ++j) residual[i * n + j] = y[i * n + j] * values[i];
    multiply(lib.dgemm, false, false, p, n, p, 1.0, ritz.data(), p, image.data(), n, -1.0, residual.data(), n);
    double square = 0;
    #pragma omp simd reduction(+ : square)
    for (Int i = 0; i < p * n; ++i) square += residual[i] * residual[i];
    return std::sqrt(square) < limits.residual;
  }

  // See eigenpairs._others_lie_above; the arrays of the conjugate gradients are reused.
  bool others_lie_above(float bound) {
    bool above = true;
    for (Int k = 0; k < q; ++k) {
      const float distance = lq[k] + qq[k * q + k] - bound;
      above = above && distance > 0;
      root[k] = 1 / std::sqrt(std::max(distance, 1e-30f));
    }
    std::vector<float>& b = other;
    for (Int i = 0; i < p * q; ++i) b[i] = pq[i] + 0.5f * bound * x[i];
    multiply(lib.sgemm, false, false, p, q, p, -0.5f, pp.data(), p, x.data(), q, 1.f, b.data(), q);
    float apart = 0, of_x = 0, of_b = 0;
    for (Int k = 0; k < q; ++k) {
      float sum = 0;
      #pragma omp simd reduction(+ : sum)
      for (Int l = 0; l < q; ++l) sum += qq[k * q + l] * qq[k * q + l] * root[l] * root[l];
      const float diagonal = qq[k * q + k] * root[k];
      apart += root[k] * root[k] * std::max(sum - diagonal * diagonal, 0.f);
    }
    for (Int i = 0; i < p; ++i) {
      #pragma omp simd reduction(+ : of_x, of_b)
      for (Int k = 0; k < q; ++k) {
        of_x += x[i * q + k] * x[i * q + k] * root[k] * root[k];
        of_b += b[i * q + k] * b[i * q + k] * root[k] * root[k];
      }
    }
    if (above && std::sqrt(apart) + 2 * std::sqrt(of_x) * std::sqrt(of_b) < 0.9f) return true;
    std::vector<float> rest(qq);
    multiply(lib.sgemm, true, false, q, q, p, -1.f, x.data(), q, b.data(), q, 1.f, rest.data(), q);
    multiply(lib.sgemm, true, false, q, q, p, -1.f, b.data(), q, x.data(), q, 1.f, rest.data(), q);
    for (Int k = 0; k < q; ++k) rest[k * q + k] += lq[k] - bound;
    Int info = 0;
    lib.spotrf("U", &q, rest.data(), &q, &info);
    return info == 0;
  }

  void improve(const double* values, double* y) {
    for (Int i = 0; i < p; ++i)
      for (Int k = 0; k < q; ++k)
        y[i * n + p + k] -= residual[i * n + p + k] / (levels[p + k] + qq[k * q + k] - values[i]);
    multiply(lib.dgemm, false, false, p, w, w, 1.0, y + start, n, rows.data(), w, 0.0, thin.data(), w);
    for (Int i = 0; i < p; ++i) std::copy_n(&thin[i * w], w, y + i * n + start);
  }
};

extern "C" void decoupled(void* const* routines, const double* errors, const double* energies, const double* orbitals,
                          double* values, double* vectors, bool* sure, Int first, Int last, Int n, Int p, Int start,
                          Int end, Int steps, double converged, double progress, double residual, double margin,
                          double rounding) {
  const Library lib{(Product<double>*)routines[0], (Product<float>*)routines[1], (Eigen*)routines[2],
                    (Factor<double>*)routines[3], (Factor<float>*)routines[4], (Solve*)routines[5],
                    (int (*)(int))routines[6]};
  const int threads = lib.threads(1);
  thread_local std::unique_ptr<Matrices> kept;
  const Limits limits{converged, progress, residual, margin, rounding};
  if (!kept || !kept->fits(limits, n, p, start, end, steps))
    kept = std::make_unique<Matrices>(lib, limits, n, p, start, end, steps);
  Matrices& matrices = *kept;
  for (Int b = first; b < last; ++b) {
    double *e = values + b * p, *y = vectors + b * p * n;
    matrices.symmetric_part(errors + b * n * n);
    sure[b] = matrices.transform(energies + b * n, orbitals + b * n * n) && matrices.conjugate_gradients() &&
              matrices.rayleigh_ritz(orbitals + b * n * n, e, y) && matrices.others_lie_above(e[p - 1] + margin);
    if (sure[b]) matrices.improve(e, y);
  }
  lib.threads(threads);
}
"""
