"""C++ of pairs of channels; the source is csrc/channel_pairs.cpp."""

import ctypes
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tracegrad.ops import native
from tracegrad.ops.channel_pairs.layout import pair_counts, results_like, with_adjacent_channels

FUNCTIONS = native.Function("mixed", "pppdiiiiiiiiii"), native.Function("pull", "pppdiiiiiiiiii")


def channel_pairs(feature: Sequence[Tensor], scales: Sequence[float]) -> Tensor | None:
    """The form of the operator `channel_pairs` for CPUs."""
    return _mixed(feature, feature, [s / 2 for s in scales])


def channel_pairs_gradient(
    gradients: Sequence[Tensor], feature: Sequence[Tensor], scales: Sequence[float], needed: Sequence[bool]
) -> list[Tensor] | None:
    """The gradient of the operator `channel_pairs` for CPUs."""
    results = [f.new_empty(f.shape) if flag else None for f, flag in zip(feature, needed, strict=True)]
    return _pull(feature, gradients[0], scales, results)


def pulled_pairs(feature: Sequence[Tensor], g: Tensor, scales: Sequence[float]) -> list[Tensor] | None:
    """The form of the operator `pulled_pairs` for CPUs."""
    return _pull(feature, g, scales, results_like(feature))


def pulled_pairs_gradient(
    gradients: Sequence[Tensor],
    feature: Sequence[Tensor],
    g: Tensor,
    scales: Sequence[float],
    needed: Sequence[bool],
) -> list[Tensor] | None:
    """The gradient of the operator `pulled_pairs` for CPUs."""
    results = [f.new_empty(f.shape) if flag else None for f, flag in zip(feature, needed, strict=False)]
    of_feature = _pull(gradients, g, scales, results)
    if of_feature is None or not needed[-1]:
        return of_feature
    of_g = _mixed(gradients, feature, scales)
    return None if of_g is None else [*of_feature, of_g]


def _library(dtype: torch.dtype) -> ctypes.CDLL | None:
    return native.file_library("channel_pairs.cpp", dtype, *FUNCTIONS)


def _mixed(a: Sequence[Tensor], b: Sequence[Tensor], scales: Sequence[float]) -> Tensor | None:
    """Mixed products s (<a_i, b_j> + <a_j, b_i>) of all irreps."""
    library = _library(a[0].dtype)
    if library is None:
        return None
    counts = pair_counts(a)
    out = a[0].new_empty(a[0].shape[1], sum(counts))
    first, second = with_adjacent_channels(a), with_adjacent_channels(b)
    for k, (x, y, s) in enumerate(zip(first, second, scales, strict=True)):
        _run(library.mixed, s, out, sum(counts[:k]), x, y)
    return out


def _pull(
    feature: Sequence[Tensor], g: Tensor, scales: Sequence[float], results: Sequence[Tensor | None]
) -> list[Tensor] | None:
    """v = s S f of the irreps that have a place for the result."""
    library = _library(g.dtype)
    if library is None:
        return None
    counts, g = pair_counts(feature), native.dense(g)
    for k, (f, s, v) in enumerate(zip(with_adjacent_channels(feature), scales, results, strict=True)):
        if v is not None:
            _run(library.pull, s, g, sum(counts[:k]), f, v)
    return [v for v in results if v is not None]


def _run(
    function: Callable[..., None], scale: float, table: Tensor, start: int, x: Tensor, y: Tensor
) -> None:
    """Call ``function`` for one irrep, whose pairs are the columns of ``table`` from ``start`` on."""
    m, n, channels = x.shape
    addresses = list(map(native.pointer, (table, x, y)))
    sizes = (table.shape[1], start, m, channels, *x.stride()[:2], *y.stride()[:2])

    def share(first: int, last: int) -> None:
        function(*addresses, scale, first, last, *sizes)

    native.in_threads(share, n, n * m * channels**2)
