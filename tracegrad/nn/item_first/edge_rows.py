"""Rows by |m|: the layout in which `edge_product` multiplies features of edges, with the maps to it and from it.

In the frame of its edge the tensor product with the harmonics of the edge couples a component m only to m, with one
matrix for each |m|. Features are therefore rearranged: the channels of all irreps that have the same |m| stand side
by side in one tensor of *rows*, which is multiplied at once. Rows g of one |m| have the shape

    [edges, 1, columns]     |m| = 0
    [edges, 2, columns]     |m| > 0, first -m, then +m

and hold channel c of irrep k, whose features are x_k[e, l + m, c], in the columns from ``first`` on, where
(g, first) is the `RowSlot` of irrep k and |m|:

    rows[g][e, 0, first + c] = x_k[e, l - |m|, c]
    rows[g][e, 1, first + c] = x_k[e, l + |m|, c]       |m| > 0 only

For example 0e with the channels a, b, c and 1o with the channels u, v; the index is m:

                column     0     1     2     3     4
    rows[0]   m =  0       a_0   b_0   c_0   u_0   v_0        slots of 0e: ((0, 0),)
    rows[1]   m = -1       u_-1  v_-1                         slots of 1o: ((0, 3), (1, 0))
              m = +1       u_+1  v_+1

A feature may also belong to the nodes at the endpoints of the edges and stand in another frame. With R_e the rotation
from the frame of edge e to that of the feature, and f_e an optional factor for each channel,

    to_rows      y_e = R_e^T x[node at the endpoint of e]                       fills the rows with y
    from_rows    x[node] = sum over the edges e with this endpoint f_e R_e y_e  reads y from the rows

With two endpoints the channels of both nodes stand side by side: channel c of endpoint k in column first + k C + c.
`from_rows` without a factor is the transpose of `to_rows`. On CPUs both are kernels (`edge_rows_kernel`).
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracegrad.nn.item_first import edge_rows_kernel as kernel
from tracegrad.numerics.precision import full_precision
from tracegrad.ops import native
from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.plain_gradients import plain_gradients

RowSlot = tuple[int, int]  # position among the tensors of rows, and first column there


class EdgeEndpoints:
    """The node at one endpoint of each edge, and the edges of each node.

    Args:
        index: node of each edge.
        nodes: number of nodes.

    Raises:
        OperatorIndexError: an entry of ``index`` is not within 0 .. nodes - 1.
    """

    def __init__(self, index: Int[Tensor, " edges"], nodes: int):
        self.nodes, self.edges = nodes, len(index)
        self._index = native.index("endpoints of the edges", index, nodes)
        counts = torch.bincount(self.index, minlength=nodes)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self._order = native.Index(torch.argsort(self.index, stable=True), self.edges)
        self._starts = native.Index(starts, self.edges + 1)

    @property
    def index(self) -> Int[Tensor, " edges"]:
        """Node of each edge."""
        return self._index.values

    def index_address(self) -> int:
        """Memory address of ``index``."""
        return self._index.address("endpoints of the edges", self.edges, self.nodes)

    def edge_list_addresses(self) -> tuple[int, int]:
        """Memory addresses of the edges sorted by node, and of the start of each node in this list.

        Node j has the edges ``order[starts[j] : starts[j + 1]]``; ``starts`` has nodes + 1 entries.
        """
        return (
            self._order.address("edges of the nodes", self.edges, self.edges),
            self._starts.address("first edges of the nodes", self.nodes + 1, self.edges + 1),
        )


@dataclass(frozen=True)
class IrrepPlacement:
    """Where the components of one feature of one irrep stand in the rows, and how they get there.

    Args:
        slots: slot of the components -m and m for each |m| = 0 .. l. A component without a slot (None) is left out
            by `to_rows` and is zero in the result of `from_rows`.
        rotation: matrices from the frames of the edges to the frame of the feature; None if both are the same.
        endpoints: empty for a feature of edges. For a feature of nodes, `to_rows` writes the channels of the nodes at
            all these endpoints side by side; `from_rows` sums the edges at the nodes of the only one.
        first_factor: column of the factors that belongs to the first channel; None if no factor multiplies.
    """

    slots: tuple[RowSlot | None, ...]
    rotation: Float[Tensor, "edges m m"] | None = None
    endpoints: tuple[EdgeEndpoints, ...] = ()
    first_factor: int | None = None

    @property
    def degree(self) -> int:
        return len(self.slots) - 1


@full_precision
def to_rows(
    placements: Sequence[IrrepPlacement],
    features: Sequence[Float[Tensor, "_ _m _c"]],
    shapes: Sequence[tuple[int, int]],
    edges: int,
) -> list[Float[Tensor, "edges _p _c"]]:
    """Rearrange features into rows.

    Args:
        placements: one for each feature.
        features: of edges or nodes, [items, 2l + 1, channels].
        shapes: of the rows without the edges: (1 or 2, columns). The features have to fill all columns.
        edges: number of edges.

    Raises:
        OperatorArgumentError: a slot that does not exist or belongs to two features, or tensors of other shapes.
    """
    kernels = _kernels(placements, features)
    _check_slots(placements, [x.shape[2] for x in features], shapes, None)
    if kernels is None:
        return _plain_to_rows(placements, features, len(shapes))
    return list(
        _ToRows.apply(
            _EdgeRowsCall(_contiguous_rotations(placements), kernels, edges, features[0].dtype),
            tuple(shapes),
            *map(_contiguous_channels, features),
        )
    )


@full_precision
def from_rows(
    placements: Sequence[IrrepPlacement],
    rows: Sequence[Float[Tensor, "edges _p _c"]],
    channels: Sequence[int],
    factor: Float[Tensor, "edges _k"] | None = None,
) -> list[Float[Tensor, "_ _m _c"]]:
    """Features from rows: of the edges, or their sums at the nodes.

    Args:
        placements: one for each feature, with at most one endpoint each.
        rows: one tensor for each group of components.
        channels: number of channels of each feature.
        factor: numbers that multiply the channels of each edge, see `IrrepPlacement.first_factor`.

    Raises:
        OperatorArgumentError: a slot that does not exist or belongs to two features, more than one endpoint, or
            tensors of other shapes.
    """
    kernels = _kernels(placements, rows if factor is None else [*rows, factor])
    if any(len(placement.endpoints) > 1 for placement in placements):
        raise OperatorArgumentError(
            "a feature made from rows has two endpoints; edges are summed at one endpoint, give one or none"
        )
    if factor is None:
        placements = [replace(placement, first_factor=None) for placement in placements]
    _check_slots(
        placements,
        channels,
        [(x.shape[1], x.shape[2]) for x in rows],
        None if factor is None else factor.shape[1],
    )
    if kernels is None:
        return _plain_from_rows(placements, rows, channels, factor)
    if factor is not None and factor.stride(1) != 1:
        factor = factor.contiguous()
    call = _EdgeRowsCall(_contiguous_rotations(placements), kernels, len(rows[0]), rows[0].dtype)
    return list(_FromRows.apply(call, tuple(channels), factor, *map(_contiguous_channels, rows)))


def _check_slots(
    placements: Sequence[IrrepPlacement],
    channels: Sequence[int],
    shapes: Sequence[tuple[int, int]],
    factors: int | None,
) -> None:
    """Raise `OperatorArgumentError` unless all slots and factors exist and each column belongs to one feature."""
    # Tensors cannot be keys of a cache, so only the numbers are passed on.
    slots = [
        (placement.slots, width * max(len(placement.endpoints), 1), placement.first_factor)
        for placement, width in zip(placements, channels, strict=True)
    ]
    _check_slot_numbers(tuple(slots), tuple((int(p), int(columns)) for p, columns in shapes), factors)


@lru_cache(maxsize=1024)
def _check_slot_numbers(
    placements: tuple[tuple[tuple[RowSlot | None, ...], int, int | None], ...],
    shapes: tuple[tuple[int, int], ...],
    factors: int | None,
) -> None:
    """`_check_slots` for (slots, width in columns, first factor) of each placement."""
    taken: dict[int, list[tuple[int, int]]] = {}  # rows, or -1 for the factors: intervals of columns
    for slots, width, factor in placements:
        for m, slot in enumerate(slots):
            if slot is None:
                continue
            row, first = slot
            fits = 0 <= row < len(shapes) and 0 <= first <= shapes[row][1] - width
            if not fits or shapes[row][0] != (2 if m else 1):
                raise OperatorArgumentError(
                    f"slot {slot} for {width} channels of |m| = {m} does not exist; the rows have the "
                    f"shapes {list(shapes)}"
                )
            taken.setdefault(row, []).append((first, first + width))
        if factor is not None:
            if factors is None or not 0 <= factor <= factors - width:
                raise OperatorArgumentError(
                    f"columns {factor} to {factor + width} of the factors do not exist; there are {factors or 0}"
                )
            taken.setdefault(-1, []).append((factor, factor + width))
    for row, intervals in taken.items():
        for (_, end), (start, _) in pairwise(sorted(intervals)):
            if start < end:
                name = "the factors" if row < 0 else f"row {row}"
                raise OperatorArgumentError(
                    f"column {start} of {name} belongs to two features; give each feature separate columns"
                )


def _plain_to_rows(
    placements: Sequence[IrrepPlacement], features: Sequence[Tensor], count: int
) -> list[Tensor]:
    parts: list[dict[int, Tensor]] = [{} for _ in range(count)]  # of each row: first column -> components
    for placement, feature in zip(placements, features, strict=True):
        x = feature
        if placement.endpoints:
            x = torch.cat([x.index_select(0, endpoint.index) for endpoint in placement.endpoints], dim=2)
        if placement.rotation is not None:
            x = placement.rotation.transpose(1, 2) @ x
        middle = placement.degree
        for m, slot in enumerate(placement.slots):
            if slot is not None:
                row, first = slot
                both = x[:, middle - m : middle + m + 1 : 2 * m] if m else x[:, middle : middle + 1]
                parts[row][first] = both
    return [torch.cat([columns[first] for first in sorted(columns)], dim=2) for columns in parts]


def _plain_from_rows(
    placements: Sequence[IrrepPlacement],
    rows: Sequence[Tensor],
    channels: Sequence[int],
    factor: Tensor | None,
) -> list[Tensor]:
    features = []
    for placement, width in zip(placements, channels, strict=True):
        zero = rows[0].new_zeros(1, 1, width).expand(len(rows[0]), 1, width)
        components: dict[int, Tensor] = {}
        for m, slot in enumerate(placement.slots):
            both = [zero] * 2
            if slot is not None:
                row, first = slot
                both = list(rows[row][:, :, first : first + width].split(1, dim=1))
            components |= {-m: both[0], m: both[-1]}
        x = torch.cat([components[m] for m in range(-placement.degree, placement.degree + 1)], dim=1)
        if factor is not None and placement.first_factor is not None:
            x = x * factor[:, None, placement.first_factor : placement.first_factor + width]
        if placement.rotation is not None:
            x = placement.rotation @ x
        for endpoint in placement.endpoints:
            x = x.new_zeros(endpoint.nodes, *x.shape[1:]).index_add(0, endpoint.index, x)
        features.append(x)
    return features


def _kernels(
    placements: Sequence[IrrepPlacement], tensors: Sequence[Tensor]
) -> dict[int, ctypes.CDLL] | None:
    """The kernels of all degrees; None where the plain form must be used."""
    rotations = [placement.rotation for placement in placements if placement.rotation is not None]
    if not native.usable(*tensors, *rotations) or any(r.requires_grad for r in rotations):
        return None
    degrees = {placement.degree for placement in placements}
    libraries = {degree: kernel.library(degree, tensors[0].dtype) for degree in sorted(degrees)}
    kernels = {degree: library for degree, library in libraries.items() if library is not None}
    return kernels if len(kernels) == len(libraries) else None


def _contiguous_channels(x: Tensor) -> Tensor:
    """The tensor with stride 1 along its channels, as the kernels read it."""
    x = x.resolve_neg()
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def _contiguous_rotations(placements: Sequence[IrrepPlacement]) -> tuple[IrrepPlacement, ...]:
    return tuple(
        placement
        if placement.rotation is None
        else replace(placement, rotation=placement.rotation.contiguous())
        for placement in placements
    )


@dataclass(frozen=True)
class _RowMemory:
    """Memory of one tensor of rows: address of its first number, strides in numbers, bytes of a number."""

    address: int
    strides: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class _EdgeRowsCall:
    """What `to_rows` and `from_rows` pass to their kernels besides the tensors that have gradients."""

    placements: tuple[IrrepPlacement, ...]
    kernels: dict[int, ctypes.CDLL]
    edges: int
    dtype: torch.dtype

    def spread(
        self,
        features: Sequence[Tensor],
        out: Sequence[Tensor],
        factor: Tensor | None = None,
        rows: Sequence[Tensor] = (),
        of_factor: Tensor | None = None,
    ) -> None:
        """Write features to the rows ``out``.

        With a factor this is the backward pass of `from_rows`: ``rows`` are its inputs, and ``of_factor`` receives
        the gradient of the factor.
        """
        targets, inputs = self._rows(out), self._rows(rows)
        for placement, feature in zip(self.placements, features, strict=True):
            scaled: dict[str, Any] = {}
            if placement.first_factor is not None:
                scaled = {
                    "factor": self._factor(factor, placement.first_factor),
                    "rows": _component_addresses(placement, inputs, 0),
                    "of_factor": self._factor(of_factor, placement.first_factor),
                }
            memory, rotation = self._feature(placement, feature), self._rotation(placement)
            for k, endpoint in enumerate(placement.endpoints or (None,)):
                kernel.spread(
                    self.kernels[placement.degree],
                    memory,
                    rotation,
                    None if endpoint is None else endpoint.index_address(),
                    _component_addresses(placement, targets, k * feature.shape[2]),
                    self.edges,
                    **scaled,
                )

    def collect(
        self, rows: Sequence[Tensor], features: Sequence[Tensor], factor: Tensor | None = None
    ) -> None:
        """Read rows and write the features made from them."""
        sources = self._rows(rows)
        for placement, feature in zip(self.placements, features, strict=True):
            memory, rotation = self._feature(placement, feature), self._rotation(placement)
            first = placement.first_factor
            for k, endpoint in enumerate(placement.endpoints or (None,)):
                kernel.collect(
                    self.kernels[placement.degree],
                    memory,
                    rotation,
                    (None, None) if endpoint is None else endpoint.edge_list_addresses(),
                    _component_addresses(placement, sources, k * feature.shape[2]),
                    self.edges,
                    (None, 0) if first is None else self._factor(factor, first),
                    add=k > 0,
                )

    def new_rows(
        self, shapes: Sequence[tuple[int, int]], channels: Sequence[int], like: Tensor
    ) -> list[Tensor]:
        """Memory for rows, set to zero where some columns belong to no feature."""
        filled = [0] * len(shapes)
        for placement, width in zip(self.placements, channels, strict=True):
            for slot in placement.slots:
                if slot is not None:
                    filled[slot[0]] += width * max(len(placement.endpoints), 1)
        return [
            like.new_empty(self.edges, *shape) if count == shape[1] else like.new_zeros(self.edges, *shape)
            for shape, count in zip(shapes, filled, strict=True)
        ]

    def _rows(self, rows: Sequence[Tensor]) -> list[_RowMemory]:
        return [
            _RowMemory(
                native.address(
                    f"row {k}", x, (self.edges, *x.shape[1:2], x.shape[-1]), self.dtype, strided=True
                ),
                x.stride(),
                x.element_size(),
            )
            for k, x in enumerate(rows)
        ]

    def _feature(self, placement: IrrepPlacement, x: Tensor) -> kernel.FeatureMemory:
        endpoints = placement.endpoints
        for endpoint in endpoints:
            if endpoint.edges != self.edges or endpoint.nodes != endpoints[0].nodes:
                raise OperatorArgumentError(
                    f"endpoints of {endpoint.edges} edges among {endpoint.nodes} nodes; give those of {self.edges} "
                    f"edges among {endpoints[0].nodes} nodes, as the first endpoint has"
                )
        items = endpoints[0].nodes if endpoints else self.edges
        shape = (items, 2 * placement.degree + 1, x.shape[-1])
        address = native.address(f"feature of degree {placement.degree}", x, shape, self.dtype, strided=True)
        return kernel.FeatureMemory((address, x.stride(0)), x.stride(1), items, x.shape[2])

    def _rotation(self, placement: IrrepPlacement) -> int | None:
        if placement.rotation is None:
            return None
        shape = (self.edges, *[2 * placement.degree + 1] * 2)
        return native.address(f"rotation of degree {placement.degree}", placement.rotation, shape, self.dtype)

    def _factor(self, factor: Tensor | None, first: int) -> kernel.StridedAddress:
        """Address of column ``first`` of the factors of edge 0, and the stride from edge to edge."""
        if factor is None:
            raise OperatorArgumentError("a placement has a first_factor but there are no factors; give them")
        shape = (self.edges, factor.shape[-1])
        address = native.address("factors", factor, shape, self.dtype, strided=True)
        return address + first * factor.element_size(), factor.stride(0)


class _ToRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, call: _EdgeRowsCall, shapes: tuple[tuple[int, int], ...], *features: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.call, ctx.count = call, len(shapes)
        ctx.sizes = [x.shape for x in features]
        rows = call.new_rows(shapes, [x.shape[2] for x in features], features[0])
        call.spread(features, rows)
        return tuple(rows)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        call: _EdgeRowsCall = ctx.call
        if torch.is_grad_enabled() or not native.enabled(*gradients):
            # Rows are linear in the features, so their derivative is the same at any features: zeros will do.
            features = [gradients[0].new_zeros(size) for size in ctx.sizes]
            of_inputs = plain_gradients(
                lambda *x: _plain_to_rows(call.placements, x, ctx.count),
                features,
                gradients,
                ctx.needs_input_grad[2:],
            )
            return None, None, *of_inputs
        of_features = [gradients[0].new_empty(size) for size in ctx.sizes]
        call.collect([_contiguous_channels(g) for g in gradients], of_features)
        return None, None, *of_features


class _FromRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, call: _EdgeRowsCall, channels: tuple[int, ...], factor: Tensor | None, *rows: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.call, ctx.channels = call, channels
        ctx.save_for_backward(factor, *rows)
        features = []
        for placement, width in zip(call.placements, channels, strict=True):
            items = placement.endpoints[0].nodes if placement.endpoints else call.edges
            features.append(rows[0].new_empty(items, 2 * placement.degree + 1, width))
        call.collect(rows, features, factor)
        return tuple(features)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        call: _EdgeRowsCall = ctx.call
        factor, *rows = ctx.saved_tensors
        if torch.is_grad_enabled() or not native.enabled(*gradients):
            of_inputs = plain_gradients(
                lambda factor, *x: _plain_from_rows(call.placements, x, ctx.channels, factor),
                (factor, *rows),
                gradients,
                ctx.needs_input_grad[2:],
            )
            return None, None, *of_inputs
        of_rows = call.new_rows([(x.shape[1], x.shape[2]) for x in rows], ctx.channels, rows[0])
        of_factor = None if factor is None else torch.zeros_like(factor)
        call.spread([_contiguous_channels(g) for g in gradients], of_rows, factor, rows, of_factor)
        return None, None, of_factor, *of_rows


def _component_addresses(
    placement: IrrepPlacement, rows: Sequence[_RowMemory], shift: int
) -> list[kernel.StridedAddress]:
    """Addresses of the components -l .. l of edge 0 in the rows, ``shift`` columns to the right of their slots."""
    addresses: list[kernel.StridedAddress] = [(None, 0)] * (2 * placement.degree + 1)
    for m, slot in enumerate(placement.slots):
        if slot is None:
            continue
        number, first = slot
        memory = rows[number]
        for row, component in enumerate((-m, m) if m else (0,)):
            offset = row * memory.strides[1] + first + shift
            addresses[placement.degree + component] = (
                memory.address + offset * memory.bytes,
                memory.strides[0],
            )
    return addresses
