"""C++ form of the graph norm: passes over the items for sums, for squares of scalars, and for the result."""

import ctypes
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tracegrad.ops import native
from tracegrad.ops.graph_norm.eps import EPS
from tracegrad.ops.optional_tensors import OptionalTensor, contiguous

ITEMS = 256  # items are summed in chunks of this size, so that results do not depend on the number of threads
SHARED = "iiiiiii" + "ppp" + "ppp"
FUNCTIONS = (
    native.Function("sums", SHARED + "ppp"),
    native.Function("squares", SHARED + "pppp"),
    native.Function("averages", "iiiippppp"),
    native.Function("normalise", SHARED + "ppd" + "ppp"),
    native.Function("gradients", SHARED + "ppd" + "pppi" + "ppp"),
    native.Function("collect", "iipipp"),
)


def graph_norm(
    x: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[OptionalTensor],
    plus: Sequence[OptionalTensor],
    rotations: Sequence[OptionalTensor],
    batch: Tensor,
    counts: Tensor,
) -> list[Tensor] | None:
    """The form of the operator `graph_norm` for CPUs."""
    library = native.file_library("graph_norm.cpp", x[0].dtype, *FUNCTIONS)
    if library is None:
        return None
    call = _GraphNorm(library, x, weights, rotations, batch, counts)
    means, _ = call.averages("sums", None)
    variances, _ = call.averages("squares", None, means)
    out = [torch.empty_like(part) for part in call.x]
    biases, plus = contiguous(biases), contiguous(plus)
    added = map(native.pointers, (biases, plus, out))
    call.run("normalise", *_pointers(means, variances), EPS, *added)
    return out


def graph_norm_gradient(
    gradients: Sequence[Tensor],
    x: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[OptionalTensor],
    plus: Sequence[OptionalTensor],
    rotations: Sequence[OptionalTensor],
    batch: Tensor,
    counts: Tensor,
    needed: Sequence[bool],
) -> list[Tensor] | None:
    """The gradient of the operator `graph_norm` for CPUs."""
    library = native.file_library("graph_norm.cpp", x[0].dtype, *FUNCTIONS)
    if library is None:
        return None
    call = _GraphNorm(library, x, weights, rotations, batch, counts)
    of_out = [native.dense(g) for g in gradients]
    means, of_means = call.averages("sums", of_out)
    variances, products = call.averages("squares", of_out, means)
    of_x = [torch.empty_like(part) for part in call.x]
    partial = means.new_zeros(2, call.chunks, sum(map(len, weights)))
    statistics = (*_pointers(means, variances), EPS, native.pointers(of_out), *_pointers(of_means, products))
    call.run("gradients", *statistics, partial.shape[2], native.pointers(of_x), *_pointers(*partial))
    of_weights = [torch.empty_like(w) for w in weights]
    of_biases = [None if b is None else torch.empty_like(b) for b in biases]
    sizes = (call.chunks, len(x), call.channels, partial.shape[2])
    library.collect(*sizes, native.pointer(partial[0]), native.pointers(of_weights))
    library.collect(*sizes, native.pointer(partial[1]), native.pointers(of_biases))
    made_all = (*of_x, *of_weights, *of_biases)
    return [y for y, flag in zip(made_all, needed, strict=False) if flag and y is not None]


class _GraphNorm:
    """The arguments that all functions of the library have."""

    def __init__(
        self,
        library: ctypes.CDLL,
        x: Sequence[Tensor],
        weights: Sequence[Tensor],
        rotations: Sequence[OptionalTensor],
        batch: Tensor,
        counts: Tensor,
    ):
        self.library = library
        self.x = [part.contiguous() for part in x]
        self.counts = counts.contiguous()
        self._kept = contiguous(weights), contiguous(rotations), native.index("batch", batch, len(counts))
        n, count = len(batch), len(x)
        self.chunks, self.rows = -(-n // ITEMS), sum(part.shape[1] for part in x)
        self.dims, self.channels = ((ctypes.c_int64 * count)(*(part.shape[k] for part in x)) for k in (1, 2))
        sizes = (ITEMS, n, len(counts), self.rows, count, self.dims, self.channels)
        of_weights, of_rotations, graph = self._kept
        arrays = map(native.pointers, (self.x, of_weights, of_rotations))
        self._arguments = (*sizes, graph.data_ptr(), *arrays)
        self._operations = 5 * sum(part.numel() for part in x)

    def run(self, name: str, *arguments: object) -> None:
        """Call a function of the library; threads share the chunks of items."""
        function: Callable[..., None] = getattr(self.library, name)

        def share(first: int, last: int) -> None:
            function(first, last, *self._arguments, *arguments)

        native.in_threads(share, self.chunks, self._operations)

    def averages(
        self, name: str, gradients: Sequence[Tensor] | None, *means: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The averages [graph, row] of what ``sums`` or ``squares`` add up; the second ones are of gradients."""
        graphs, count = len(self.counts), 1 if gradients is None else 2
        sums = self.counts.new_zeros(count, self.chunks, graphs, self.rows)
        given = None if gradients is None else native.pointers(gradients)
        self.run(name, given, *_pointers(*means, sums[0], sums[count - 1]))
        made = sums.new_empty(count, graphs, self.rows)
        sizes = (self.chunks, graphs, self.rows, len(self.x), self.dims, self.channels)
        for of_chunks, to in zip(sums, made, strict=True):
            self.library.averages(*sizes, *_pointers(self.counts, of_chunks, to))
        return made[0], made[count - 1]


def _pointers(*tensors: Tensor) -> tuple[int | None, ...]:
    return tuple(map(native.pointer, tensors))
