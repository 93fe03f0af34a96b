"""C++ forms of `to_rows` and `from_rows`: two kernels, `spread` and `collect` (``csrc/edge_rows.cpp``).

The gradient of `to_rows` is `collect` for both endpoints, that of `from_rows` is `spread`.
"""

import ctypes
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from tracegrad.ops import native
from tracegrad.ops.edge_rows.layout import ACTIVATIONS, RowFeature, RowLayout
from tracegrad.ops.gpu import segments

FUNCTIONS = native.Function("spread", "iiiipppp"), native.Function("collect", "iiiiippppp")
ENDS = "endpoints of the edges"


def to_rows(
    features: list[Tensor], rotations: list[Tensor], endpoints: list[Tensor], edges: int, key: str
) -> list[Tensor] | None:
    """The form of the operator `to_rows` for CPUs."""
    rows = RowLayout.named(key).new_rows(features[0], edges)
    done = _spread(key, features, rotations, endpoints, _Memory(key, None, rows))
    return rows if done else None


def to_rows_gradient(
    gradients: list[Tensor],
    features: list[Tensor],
    rotations: list[Tensor],
    endpoints: list[Tensor],
    edges: int,
    key: str,
    needed: Sequence[bool],
) -> list[Tensor] | None:
    """The gradient of the operator `to_rows` for CPUs."""
    made = [x.new_empty(x.shape) for x in features]
    memory = _Memory(key, [g.contiguous() for g in gradients], None)
    if not _collect(key, made, rotations, endpoints, memory):
        return None
    return [x for x, flag in zip(made, needed, strict=False) if flag]


def from_rows(
    rows: list[Tensor],
    scales: Tensor | None,
    rotations: list[Tensor],
    endpoint: Tensor | None,
    nodes: int,
    key: str,
) -> list[Tensor] | None:
    """The form of the operator `from_rows` for CPUs."""
    made = RowLayout.named(key).new_features(rows[0], len(rows[0]), nodes)
    memory = _Memory(
        key, [x.contiguous() for x in rows], None, None if scales is None else scales.contiguous()
    )
    done = _collect(key, made, rotations, [] if endpoint is None else [endpoint], memory)
    return made if done else None


def from_rows_gradient(
    gradients: list[Tensor],
    rows: list[Tensor],
    scales: Tensor | None,
    rotations: list[Tensor],
    endpoint: Tensor | None,
    nodes: int,
    key: str,
    needed: Sequence[bool],
) -> list[Tensor] | None:
    """The gradient of the operator `from_rows` for CPUs."""
    rows, scales = [x.contiguous() for x in rows], None if scales is None else scales.contiguous()
    of_rows = [torch.empty_like(x) for x in rows]
    of_scales = None if scales is None else torch.empty_like(scales)
    memory = _Memory(key, rows, of_rows, scales, of_scales)
    if not _spread(key, gradients, rotations, [] if endpoint is None else [endpoint], memory):
        return None
    return [x for x, flag in zip([*of_rows, of_scales], needed, strict=False) if flag and x is not None]


def _spread(
    key: str, features: list[Tensor], rotations: list[Tensor], endpoints: list[Tensor], memory: "_Memory"
) -> bool:
    """Write features to rows; or, from the gradients of features, those of rows and scales."""
    nodes = _nodes(key, features)
    indices = [] if nodes is None else [native.index(ENDS, end, nodes) for end in endpoints]
    for number, (feature, x) in enumerate(zip(RowLayout.named(key).features, features, strict=True)):
        library, activation, rotation, work = _prepared(feature, x, rotations, memory.edges)
        if library is None:
            return False
        x = x.contiguous()
        for k, end in enumerate(feature.endpoints or (None,)):
            index = None if end is None else indices[end].data_ptr()
            _share(
                *(library.spread, memory.edges, work, feature.channels, activation, x.data_ptr(), index),
                *(native.pointer(rotation), memory.places(number, k)),
            )
    return True


def _collect(
    key: str, features: list[Tensor], rotations: list[Tensor], endpoints: list[Tensor], memory: "_Memory"
) -> bool:
    """Read features from rows; the edges of all endpoints are added up at nodes."""
    nodes = _nodes(key, features)
    lists: list[tuple[Tensor, Tensor]] = []
    if nodes is not None:
        for ends in endpoints:
            native.index(ENDS, ends, nodes)
            lists.append(segments(ends, nodes))
    for number, (feature, x) in enumerate(zip(RowLayout.named(key).features, features, strict=True)):
        library, activation, rotation, work = _prepared(feature, x, rotations, memory.edges)
        if library is None:
            return False
        for k, end in enumerate(feature.endpoints or (None,)):
            order, starts = (None, None) if end is None else map(native.pointer, lists[end])
            _share(
                *(library.collect, len(x), work, feature.channels, activation, int(k > 0), x.data_ptr()),
                *(order, starts, native.pointer(rotation), memory.places(number, k)),
            )
    return True


def _share(function: Callable, count: int, work: int, *arguments: Any) -> None:
    """Call a kernel for ``count`` items in threads."""
    native.in_threads(lambda first, last: function(first, last, *arguments), count, work)


def _nodes(key: str, features: list[Tensor]) -> int | None:
    """Number of nodes; None if all features are of edges."""
    layout = RowLayout.named(key)
    return next((len(x) for f, x in zip(layout.features, features, strict=True) if f.endpoints), None)


def _prepared(
    feature: RowFeature, x: Tensor, rotations: list[Tensor], edges: int
) -> tuple[ctypes.CDLL | None, int, Tensor | None, int]:
    """What both kernels need: library, number of the activation, rotations, and rough number of operations."""
    return (
        native.file_library("edge_rows.cpp", x.dtype, *FUNCTIONS, COMPONENTS=feature.dim),
        ACTIVATIONS.index(feature.activation),
        None if feature.rotation is None else rotations[feature.rotation].contiguous(),
        edges * feature.channels * feature.dim**2,
    )


@dataclass(frozen=True)
class _Plan:
    """Where one feature, of one endpoint, stands in the rows of edge 0, in bytes.

    Args:
        rows: for each component the tensor of rows and the position there; None for a component without a slot.
        gate: the same of the gates.
        strides: numbers from edge to edge, of each component and of the gates.
        scale: position in the scales.
        norm: constant factor.
    """

    rows: list[tuple[int, int] | None]
    gate: tuple[int, int] | None
    strides: list[int]
    scale: int
    norm: float


@lru_cache(maxsize=256)
def _plans(key: str, size: int) -> list[list[_Plan]]:
    """Plans of all features of a layout, for each of their endpoints; ``size`` is that of a number in bytes."""
    layout, plans = RowLayout.named(key), []
    for feature in layout.features:
        gate = feature.gate and (feature.gate[0], 0, feature.gate[1])
        plans.append(
            [
                _Plan(
                    [
                        place
                        and (place[0], (place[1] * layout.shapes[place[0]][1] + place[2] + shift) * size)
                        for place in feature.places()
                    ],
                    gate and (gate[0], gate[2] * size),
                    [
                        math.prod(layout.shapes[place[0]]) if place else 0
                        for place in (*feature.places(), gate)
                    ],
                    feature.scale * size,
                    feature.norm,
                )
                for shift in range(0, feature.width, feature.channels)
            ]
        )
    return plans


class _Memory:
    """Rows, scales and their gradients, all contiguous, as the kernels read and write them."""

    def __init__(
        self,
        key: str,
        rows: list[Tensor] | None,
        of_rows: list[Tensor] | None,
        scales: Tensor | None = None,
        of_scales: Tensor | None = None,
    ):
        (one, *_) = rows or of_rows or []
        self.edges, self._plans = len(one), _plans(key, one.element_size())
        self._tensors = rows, of_rows, scales, of_scales  # they have to exist while kernels run
        self._rows, self._of_rows = _addresses(rows), _addresses(of_rows)
        self._scale, self._of_scale = (0 if x is None else x.data_ptr() for x in (scales, of_scales))
        self._scale_stride = 0 if scales is None else scales.shape[1]

    def places(self, number: int, endpoint: int) -> bytes:
        """``struct Places`` of the C++ for a feature."""
        plan = self._plans[number][endpoint]
        *strides, gate_stride = plan.strides
        rows, of_rows = (
            [bases[at[0]] + at[1] if bases and at else 0 for at in (*plan.rows, plan.gate)]
            for bases in (self._rows, self._of_rows)
        )
        scale, of_scale = (x and x + plan.scale for x in (self._scale, self._of_scale))
        return struct.pack(
            f"{3 * len(strides) + 6}qd",
            *(*rows[:-1], *of_rows[:-1], *strides, rows[-1], of_rows[-1], gate_stride),
            *(scale, of_scale, self._scale_stride, plan.norm),
        )


def _addresses(tensors: list[Tensor] | None) -> list[int] | None:
    return None if tensors is None else [x.data_ptr() for x in tensors]
