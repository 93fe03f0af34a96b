"""C++ forms of `to_rows` and `from_rows`: two kernels, `spread` and `collect` (``csrc/edge_rows.cpp``).

The gradient of `to_rows` is `collect` for both endpoints, that of `from_rows` is `spread`.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from tracegrad.ops import native
from tracegrad.ops.edge_rows.layout import ACTIVATIONS, RowFeature, registered_layout
from tracegrad.ops.gpu import segments

FUNCTIONS = native.Function("spread", "iiiipppp"), native.Function("collect", "iiiiippppp")


def to_rows(
    features: list[Tensor], rotations: list[Tensor], endpoints: list[Tensor], edges: int, key: str
) -> list[Tensor] | None:
    """The form of the operator `to_rows` for CPUs."""
    layout = registered_layout(key)
    rows = [features[0].new_empty(edges, *shape) for shape in layout.shapes]
    done = all(
        _spread(feature, x.contiguous(), rotations, endpoints, rows)
        for feature, x in zip(layout.features, features, strict=True)
    )
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
    if any(needed[len(features) :]):  # gradients of rotations, which `covers` keeps away
        return None
    gradients = [g.contiguous() for g in gradients]
    made = []
    for feature, x, flag in zip(registered_layout(key).features, features, needed, strict=False):
        if flag:
            of_x = x.new_empty(x.shape)
            if not _collect(feature, of_x, rotations, endpoints, gradients):
                return None
            made.append(of_x)
    return made


def from_rows(
    rows: list[Tensor],
    scales: Tensor | None,
    rotations: list[Tensor],
    endpoint: Tensor | None,
    nodes: int,
    key: str,
) -> list[Tensor] | None:
    """The form of the operator `from_rows` for CPUs."""
    rows, scales = [x.contiguous() for x in rows], None if scales is None else scales.contiguous()
    endpoints = [] if endpoint is None else [endpoint]
    features = []
    for feature in registered_layout(key).features:
        x = rows[0].new_empty(nodes if feature.endpoints else len(rows[0]), feature.dim, feature.channels)
        if not _collect(feature, x, rotations, endpoints, rows, scales):
            return None
        features.append(x)
    return features


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
    if any(needed[len(rows) + 1 :]):  # gradients of rotations, which `covers` keeps away
        return None
    rows, scales = [x.contiguous() for x in rows], None if scales is None else scales.contiguous()
    endpoints = [] if endpoint is None else [endpoint]
    of_rows = [torch.empty_like(x) for x in rows]
    of_scales = None if scales is None else torch.empty_like(scales)
    for feature, g in zip(registered_layout(key).features, gradients, strict=True):
        inputs = rows, scales, of_scales
        if not _spread(feature, g.contiguous(), rotations, endpoints, of_rows, *inputs):
            return None
    made = [*of_rows, of_scales]
    return [x for x, flag in zip(made, needed, strict=False) if flag and x is not None]


def _spread(
    feature: RowFeature,
    x: Tensor,
    rotations: list[Tensor],
    endpoints: list[Tensor],
    out: list[Tensor],
    rows: list[Tensor] | None = None,
    scales: Tensor | None = None,
    of_scales: Tensor | None = None,
) -> bool:
    """Write a feature to the rows ``out``; with ``rows``, those that it was made from, its gradient."""
    library = _library(feature.dim, x.dtype)
    if library is None:
        return False
    edges = len(out[0])
    rotation = _rotation(feature, rotations)
    activation = ACTIVATIONS.index(feature.activation)
    for k, end in enumerate(feature.endpoints or (None,)):
        index = None if end is None else native.index("endpoints of the edges", endpoints[end], len(x))
        places = _places(feature, k * feature.channels, rows, out, scales, of_scales)
        rest = (
            *(feature.channels, activation, x.data_ptr()),
            *(None if index is None else index.values.data_ptr(), native.pointer(rotation)),
            ctypes.addressof(places),
        )
        native.in_threads(
            lambda first, last, rest=rest: library.spread(first, last, *rest),  # type: ignore[misc]
            edges,
            edges * feature.channels * feature.dim**2,
        )
    return True


def _collect(
    feature: RowFeature,
    x: Tensor,
    rotations: list[Tensor],
    endpoints: list[Tensor],
    rows: list[Tensor],
    scales: Tensor | None = None,
) -> bool:
    """Read a feature from the rows into ``x``; the edges of all endpoints are added up at nodes."""
    library = _library(feature.dim, x.dtype)
    if library is None:
        return False
    rotation = _rotation(feature, rotations)
    activation = ACTIVATIONS.index(feature.activation)
    for k, end in enumerate(feature.endpoints or (None,)):
        lists: tuple[int | None, int | None] = (None, None)
        if end is not None:
            native.index("endpoints of the edges", endpoints[end], len(x))
            order, starts = segments(endpoints[end], len(x))
            lists = order.data_ptr(), starts.data_ptr()
        places = _places(feature, k * feature.channels, rows, None, scales, None)
        rest = (
            *(feature.channels, activation, int(k > 0), x.data_ptr(), *lists, native.pointer(rotation)),
            ctypes.addressof(places),
        )
        native.in_threads(
            lambda first, last, rest=rest: library.collect(first, last, *rest),  # type: ignore[misc]
            len(x),
            len(rows[0]) * feature.channels * feature.dim**2,
        )
    return True


def _library(dim: int, dtype: torch.dtype) -> ctypes.CDLL | None:
    return native.file_library("edge_rows.cpp", dtype, *FUNCTIONS, COMPONENTS=dim)


def _rotation(feature: RowFeature, rotations: list[Tensor]) -> Tensor | None:
    return None if feature.rotation is None else rotations[feature.rotation].contiguous()


@lru_cache(maxsize=32)
def _places_type(dim: int) -> type[ctypes.Structure]:
    """``struct Places`` of the C++."""
    pointers, strides = ctypes.c_void_p * dim, ctypes.c_int64 * dim
    fields = [
        *(("rows", pointers), ("of_rows", pointers), ("row_strides", strides)),
        *(("gate", ctypes.c_void_p), ("of_gate", ctypes.c_void_p), ("gate_stride", ctypes.c_int64)),
        *(("scale", ctypes.c_void_p), ("of_scale", ctypes.c_void_p), ("scale_stride", ctypes.c_int64)),
        ("norm", ctypes.c_double),
    ]
    return type("Places", (ctypes.Structure,), {"_fields_": fields})


def _places(
    feature: RowFeature,
    shift: int,
    rows: list[Tensor] | None,
    of_rows: list[Tensor] | None,
    scales: Tensor | None,
    of_scales: Tensor | None,
) -> ctypes.Structure:
    """Addresses of a feature in contiguous rows, ``shift`` columns to the right of its slots, and in their gradients."""
    places = _places_type(feature.dim)()

    def address(tensors: list[Tensor] | None, row: int, at: int, column: int) -> int | None:
        if tensors is None:
            return None
        x = tensors[row]
        return x.data_ptr() + (at * x.shape[2] + column) * x.element_size()

    shapes = rows or of_rows or []
    for component, place in enumerate(feature.places()):
        if place is not None:
            row, at, first = place
            places.rows[component] = address(rows, row, at, first + shift)
            places.of_rows[component] = address(of_rows, row, at, first + shift)
            places.row_strides[component] = shapes[row].shape[1] * shapes[row].shape[2]
    if feature.activation and scales is not None:
        offset = feature.scale * scales.element_size()
        places.scale, places.scale_stride = scales.data_ptr() + offset, scales.shape[1]
        places.of_scale = None if of_scales is None else of_scales.data_ptr() + offset
        places.norm = feature.norm
        if feature.gate is not None:
            row, first = feature.gate
            places.gate, places.of_gate = address(rows, row, 0, first), address(of_rows, row, 0, first)
            places.gate_stride = shapes[row].shape[2]
    return places
