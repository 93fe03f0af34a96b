"""C++ of `item_first.graph_norm`: features minus the mean of their graph, in two passes over memory, and back.

The first pass sums the channels of each item, rotates the sums into the global frame and adds them up graph by graph.
The second rotates the means back, subtracts them, multiplies by the weights and adds ``plus``. The gradient is
computed in the same way, with sums that are weighted by channel in place of the means.
"""

import ctypes
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracegrad.ops import native
from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.plain_gradients import plain_gradients

FUNCTIONS = tuple(
    native.Function(name, "iiiiiii" + "ppp" + "p" * count)
    for name, count in (("sums", 2), ("centre", 4), ("gradients", 6))
)
ITEMS = 256  # items are summed in chunks of this size, so that results do not depend on the number of threads


def centred(
    x: Float[Tensor, "n m c"],
    weight: Float[Tensor, " c"],
    plus: Float[Tensor, "n m c"] | None,
    rotation: Float[Tensor, "n m m"] | None,
    batch: Int[Tensor, " n"],
    counts: Float[Tensor, " graphs"],
    plain: Callable[..., Float[Tensor, "n m c"]],
) -> Float[Tensor, "n m c"]:
    """(x - mean) weight + plus, by the kernel where it can be used and otherwise by ``plain``.

    Args:
        x: features.
        weight: of each channel.
        plus: added at the end; None adds nothing.
        rotation: from the frames of the features to the global frame, if they differ.
        batch: graph of each item.
        counts: number of items of each graph.
        plain: the same in torch, a function of (x, weight, plus).

    Raises:
        OperatorArgumentError: tensors whose shapes do not fit.
        OperatorIndexError: an item of a graph that does not exist.
    """
    tensors = [y for y in (x, weight, plus, rotation, counts) if y is not None]
    library = None
    if native.usable(*tensors) and not (rotation is not None and rotation.requires_grad):
        library = native.library(_SOURCE.replace("REAL", native.C_TYPES[x.dtype]), *FUNCTIONS)
    if library is None:
        return plain(x, weight, plus)
    if x.ndim != 3 or counts.ndim != 1:
        raise OperatorArgumentError(
            f"features of shape {tuple(x.shape)} and counts {tuple(counts.shape)}; (n, m, c) and (graphs,) are needed"
        )
    rotation = None if rotation is None else rotation.contiguous()
    call = _GraphNormCall(library, rotation, native.index("batch", batch, len(counts)), counts, plain)
    return _Centred.apply(call, *(None if y is None else y.contiguous() for y in (x, weight, plus)))


class _GraphNormCall:
    """What `centred` passes to its kernels besides the tensors that have gradients."""

    def __init__(
        self,
        library: ctypes.CDLL,
        rotation: Tensor | None,
        batch: native.Index,
        counts: Tensor,
        plain: Callable[..., Tensor],
    ):
        self.library, self.counts, self.plain = library, counts, plain
        self._rotation, self._batch = rotation, batch

    def means(self, x: Tensor, weight: Tensor) -> Float[Tensor, "graphs m"]:
        """Mean over the items of each graph and over the channels times their weights, in the global frame."""
        chunks = -(-len(x) // ITEMS)
        sums = x.new_zeros(chunks, len(self.counts), x.shape[1])
        self.run("sums", x, chunks, weight=weight, sums=sums)
        # The mean of a graph without items is never used.
        return sums.sum(0) / (self.counts.clamp_min(1) * x.shape[2])[:, None]

    def run(self, name: str, x: Tensor, chunks: int, **tensors: Tensor | None) -> None:
        """Call a function of the library; threads share the chunks of items."""
        (n, m, c), graphs = x.shape, len(self.counts)
        shapes = {
            **dict.fromkeys(("x", "plus", "out", "gradient", "of_x"), (n, m, c)),
            **dict.fromkeys(("means", "of_means"), (graphs, m)),
            "rotation": (n, m, m),
            "weight": (c,),
            "sums": (chunks, graphs, m),
            "of_weight": (chunks, c),
        }
        features, rotation, *rest = (
            None if y is None else native.address(of, y, shapes[of], x.dtype)
            for of, y in {"x": x, "rotation": self._rotation, **tensors}.items()
        )
        sizes = (ITEMS, graphs, n, m, c, features, rotation, self._batch.address("batch", n, graphs))
        function = getattr(self.library, name)

        def share(first: int, last: int) -> None:
            function(first, last, *sizes, *rest)

        native.in_threads(share, chunks, 5 * x.numel())


class _Centred(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call: _GraphNormCall, x: Tensor, weight: Tensor, plus: Tensor | None) -> Tensor:
        means = call.means(x, torch.ones_like(weight))
        ctx.call = call
        ctx.save_for_backward(x, weight, means)
        out = torch.empty_like(x)
        call.run("centre", x, -(-len(x) // ITEMS), means=means, weight=weight, plus=plus, out=out)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        call: _GraphNormCall = ctx.call
        x, weight, means = ctx.saved_tensors
        of_plus = gradient if ctx.needs_input_grad[3] else None
        if torch.is_grad_enabled() or not native.enabled(gradient):
            of_inputs = plain_gradients(
                lambda x, weight: call.plain(x, weight, None),
                [x, weight],
                [gradient],
                ctx.needs_input_grad[1:3],
            )
            return None, *of_inputs, of_plus
        gradient = native.dense(gradient)
        of_means = call.means(gradient, weight)
        of_x = torch.empty_like(x)
        chunks = -(-len(x) // ITEMS)
        of_weight = x.new_zeros(chunks, len(weight))
        tensors = {"gradient": gradient, "means": means, "of_means": of_means, "weight": weight}
        call.run("gradients", x, chunks, **tensors, of_x=of_x, of_weight=of_weight)
        return None, of_x, of_weight.sum(0), of_plus


# r[k * M + m] is the matrix element between component m in the frame of an item and component k in the global frame.
# simdlen(8): with wider vectors, features of 8 channels would be left to scalar code.
_SOURCE = """
#include <cstdint>
#include <vector>
typedef REAL real;
#define SHAPE \\
  int64_t first, int64_t last, int64_t together, int64_t graphs, int64_t n, int64_t M, int64_t C, const real* x, \\
  const real* rotations, const int64_t* batch
#define ITEMS_OF(chunk) \\
  for (int64_t i = chunk * together; i < ((chunk + 1) * together < n ? (chunk + 1) * together : n); ++i)

// Rotates a vector from the global frame to that of an item; copies it if both are the same.
static inline void turned_back(real* to, const real* from, const real* rotation, int64_t M) {
  for (int64_t m = 0; m < M; ++m) to[m] = rotation ? 0 : from[m];
  if (rotation)
    for (int64_t k = 0; k < M; ++k)
      for (int64_t m = 0; m < M; ++m) to[m] += rotation[k * M + m] * from[k];
}

extern "C" void sums(SHAPE, const real* weight, real* sums) {
  std::vector<real> found(M);
  for (int64_t chunk = first; chunk < last; ++chunk) ITEMS_OF(chunk) {
    real* sum = sums + (chunk * graphs + batch[i]) * M;
    for (int64_t m = 0; m < M; ++m) {
      const real* from = x + (i * M + m) * C;
      real total = 0;
      #pragma omp simd simdlen(8) reduction(+ : total)
      for (int64_t c = 0; c < C; ++c) total += from[c] * weight[c];
      found[m] = total;
    }
    for (int64_t k = 0; k < M; ++k) {
      real total = rotations ? 0 : found[k];
      if (rotations)
        for (int64_t m = 0; m < M; ++m) total += rotations[(i * M + k) * M + m] * found[m];
      sum[k] += total;
    }
  }
}

extern "C" void centre(SHAPE, const real* means, const real* weight, const real* plus, real* out) {
  std::vector<real> middle(M);
  for (int64_t chunk = first; chunk < last; ++chunk) ITEMS_OF(chunk) {
    turned_back(middle.data(), means + batch[i] * M, rotations ? rotations + i * M * M : nullptr, M);
    for (int64_t m = 0; m < M; ++m) {
      const int64_t at = (i * M + m) * C;
      const real shift = middle[m];
      if (plus) {
        #pragma omp simd simdlen(8)
        for (int64_t c = 0; c < C; ++c) out[at + c] = (x[at + c] - shift) * weight[c] + plus[at + c];
      } else {
        #pragma omp simd simdlen(8)
        for (int64_t c = 0; c < C; ++c) out[at + c] = (x[at + c] - shift) * weight[c];
      }
    }
  }
}

extern "C" void gradients(
    SHAPE, const real* gradient, const real* means, const real* of_means, const real* weight, real* of_x,
    real* of_weight) {
  std::vector<real> middle(M), shift(M);
  for (int64_t chunk = first; chunk < last; ++chunk) ITEMS_OF(chunk) {
    const real* rotation = rotations ? rotations + i * M * M : nullptr;
    turned_back(middle.data(), means + batch[i] * M, rotation, M);
    turned_back(shift.data(), of_means + batch[i] * M, rotation, M);
    real* sum = of_weight + chunk * C;
    for (int64_t m = 0; m < M; ++m) {
      const int64_t at = (i * M + m) * C;
      const real mean = middle[m], of_mean = shift[m];
      #pragma omp simd simdlen(8)
      for (int64_t c = 0; c < C; ++c) {
        const real g = gradient[at + c];
        of_x[at + c] = g * weight[c] - of_mean;
        sum[c] += g * (x[at + c] - mean);
      }
    }
  }
}
"""
