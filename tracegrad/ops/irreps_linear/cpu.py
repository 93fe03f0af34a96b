"""Form of the linear maps for CPUs: one matrix product of the library for each irrep and kind."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from tracegrad.ops import native
from tracegrad.ops.gpu import segments
from tracegrad.ops.optional_tensors import OptionalTensor


def irreps_linear(
    x: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[OptionalTensor],
    plus: Sequence[OptionalTensor],
    kind: OptionalTensor,
    scale: float,
) -> list[Tensor]:
    """The form of the operator `irreps_linear` for CPUs."""
    kinds = _Kinds(len(x[0]), kind, len(weights) // len(x))
    out = []
    for k, (part, bias, other) in enumerate(zip(x, biases, plus, strict=True)):
        n, m, channels = part.shape
        alpha = scale / math.sqrt(max(channels, 1))
        width = weights[k].shape[1]
        rows = kinds.sorted(part).view(n * m, channels)
        base = bias if other is None else other.reshape(n * m, width)
        if kind is None and base is not None:
            out.append(torch.addmm(base, rows, weights[k], alpha=alpha).view(n, m, width))
            if bias is not None and other is not None:
                out[-1] += bias
            continue
        y = part.new_empty(n * m, width)
        for at, weight in zip(kinds.rows(m), weights[k :: len(x)], strict=True):
            torch.addmm(y[at], rows[at], weight, beta=0, alpha=alpha, out=y[at])
        y = kinds.back(y.view(n, m, width))
        if bias is not None:
            y += bias
        if other is not None:
            y += other
        out.append(y)
    return out


def irreps_linear_gradient(
    gradients: Sequence[Tensor],
    x: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[OptionalTensor],
    plus: Sequence[OptionalTensor],
    kind: OptionalTensor,
    scale: float,
    needed: Sequence[bool],
) -> list[Tensor]:
    """The gradient of the operator `irreps_linear` for CPUs."""
    kinds, count, total = _Kinds(len(x[0]), kind, len(weights) // len(x)), len(x), len(x) + len(weights)
    made: list[Tensor | None] = [None] * (total + count)
    for k, (part, gradient, bias) in enumerate(zip(x, gradients, biases, strict=True)):
        n, m, channels = part.shape
        alpha = scale / math.sqrt(max(channels, 1))
        of_kinds = range(count + k, total, count)
        g = kinds.sorted(native.dense(gradient)).view(n * m, weights[k].shape[1])
        if needed[k]:
            of_x = part.new_empty(n * m, channels)
            for at, i in zip(kinds.rows(m), of_kinds, strict=True):
                torch.addmm(of_x[at], g[at], weights[i - count].T, beta=0, alpha=alpha, out=of_x[at])
            made[k] = kinds.back(of_x.view(n, m, channels))
        if any(needed[i] for i in of_kinds):
            rows = kinds.sorted(part).view(n * m, channels)
            for at, i in zip(kinds.rows(m), of_kinds, strict=True):
                of_weight = made[i] = torch.empty_like(weights[i - count])
                torch.addmm(of_weight, rows[at].T, g[at], beta=0, alpha=alpha, out=of_weight)
        if bias is not None and needed[total + k]:
            made[total + k] = g.sum(0)
    return [y for y, flag in zip(made, needed, strict=False) if flag and y is not None]


class _Kinds:
    """The items sorted by kind."""

    def __init__(self, items: int, kind: OptionalTensor, count: int):
        self._order: OptionalTensor = None
        self._bounds = [0, items]
        if kind is not None:
            native.index("kind", kind, count)
            self._order, starts = segments(kind, count)
            self._bounds = starts.tolist()

    def sorted(self, x: Tensor) -> Tensor:
        """The items in their order by kind."""
        return x.contiguous() if self._order is None else x.index_select(0, self._order)

    def back(self, x: Tensor) -> Tensor:
        """The inverse of `sorted`."""
        return x if self._order is None else torch.empty_like(x).index_copy_(0, self._order, x)

    def rows(self, m: int) -> Iterator[slice]:
        """The rows of each kind in a matrix that has m rows for each item."""
        for first, last in pairwise(self._bounds):
            yield slice(first * m, last * m)
