"""Features of edges by |m|, as `tracegrad.nn.item_first.edge_product` multiplies them, and their way there and back.

*Rows* are tensors [edges, 1, columns] for components 0 and [edges, 2, columns] for the components -m and m of
several irreps side by side, in the frames of the edges. `to_rows` fills them with features [items, 2l + 1, channels]
of edges or of the nodes at their ends; `from_rows` is its adjoint with a factor for each edge and channel: it makes
features of edges, or sums of them at nodes, in the global frame. On CPUs both are kernels
(`tracegrad.nn.item_first.edge_rows_kernel`).
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
from tracegrad.numerics import native
from tracegrad.numerics.plain_gradients import plain_gradients
from tracegrad.numerics.precision import full_precision

Column = tuple[int, int]  # which of the rows, and its first column there


class Ends:
    """The node at one end of each edge, and the edges of each node.

    Args:
        index: node of each edge.
        nodes: how many there are.

    Raises:
        KernelIndexError: a node that does not exist.
    """

    def __init__(self, index: Int[Tensor, " edges"], nodes: int):
        self.nodes, self.edges = nodes, len(index)
        self._index = native.index("ends of the edges", index, nodes)
        counts = torch.bincount(self.index, minlength=nodes)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self._order = native.Index(torch.argsort(self.index, stable=True), self.edges)
        self._starts = native.Index(starts, self.edges + 1)

    @property
    def index(self) -> Int[Tensor, " edges"]:
        """Node of each edge."""
        return self._index.values

    def node_of_edges(self) -> int:
        """Address of ``index``."""
        return self._index.address("ends of the edges", self.edges, self.nodes)

    def edges_of_nodes(self) -> tuple[int, int]:
        """Addresses of the edges, node after node, and of the first ones of each node and the count of all."""
        return (
            self._order.address("edges of the nodes", self.edges, self.edges),
            self._starts.address("first edges of the nodes", self.nodes + 1, self.edges + 1),
        )


@dataclass(frozen=True)
class Turn:
    """One feature of one irrep and its place in the rows.

    Args:
        columns: of the components |m| = 0 .. l; None where there are none, in rows made of features left out, in
            features made of rows zero.
        rotation: from the frames of the edges to that of the feature, if they differ.
        ends: none for a feature of edges. In rows, the channels of the nodes at all these ends stand side by side;
            features made of rows are summed at the nodes of one.
        factor: first column of the factors of the channels, if there are any.
    """

    columns: tuple[Column | None, ...]
    rotation: Float[Tensor, "edges m m"] | None = None
    ends: tuple[Ends, ...] = ()
    factor: int | None = None

    @property
    def degree(self) -> int:
        return len(self.columns) - 1


@full_precision
def to_rows(
    turns: Sequence[Turn],
    features: Sequence[Float[Tensor, "_ _m _c"]],
    shapes: Sequence[tuple[int, int]],
    edges: int,
) -> list[Float[Tensor, "edges _p _c"]]:
    """Rows of the given shapes (1 or 2, columns), which the features have to fill."""
    kernels = _kernels(turns, features)
    _check_columns(turns, [x.shape[2] for x in features], shapes, None)
    if kernels is None:
        return _plain_to_rows(turns, features, len(shapes))
    return list(
        _ToRows.apply(
            _Call(_whole(turns), kernels, edges, features[0].dtype),
            tuple(shapes),
            *map(_by_channel, features),
        )
    )


@full_precision
def from_rows(
    turns: Sequence[Turn],
    rows: Sequence[Float[Tensor, "edges _p _c"]],
    channels: Sequence[int],
    factor: Float[Tensor, "edges _k"] | None = None,
) -> list[Float[Tensor, "_ _m _c"]]:
    """The feature of each turn, which has the given number of channels."""
    kernels = _kernels(turns, rows if factor is None else [*rows, factor])
    if any(len(turn.ends) > 1 for turn in turns):
        raise native.KernelArgumentError("sums at both ends of the edges; they are made at one of them")
    scaled = turns if factor is not None else [replace(turn, factor=None) for turn in turns]
    _check_columns(
        scaled,
        channels,
        [(x.shape[1], x.shape[2]) for x in rows],
        None if factor is None else factor.shape[1],
    )
    if kernels is None:
        return _plain_from_rows(turns, rows, channels, factor)
    if factor is not None and factor.stride(1) != 1:
        factor = factor.contiguous()
    call = _Call(_whole(scaled), kernels, len(rows[0]), rows[0].dtype)
    return list(_FromRows.apply(call, tuple(channels), factor, *map(_by_channel, rows)))


def _check_columns(
    turns: Sequence[Turn], channels: Sequence[int], shapes: Sequence[tuple[int, int]], factors: int | None
) -> None:
    """Raise `KernelArgumentError` unless all columns exist, in the rows and in the factors, and none stands twice."""
    places = [
        (turn.columns, width * max(len(turn.ends), 1), turn.factor)
        for turn, width in zip(turns, channels, strict=True)
    ]
    _check_places(tuple(places), tuple((int(p), int(columns)) for p, columns in shapes), factors)


@lru_cache(maxsize=1024)
def _check_places(
    places: tuple[tuple[tuple[Column | None, ...], int, int | None], ...],
    shapes: tuple[tuple[int, int], ...],
    factors: int | None,
) -> None:
    taken: dict[int, list[tuple[int, int]]] = {}  # row, or -1 for the factors: first columns and ends
    for columns, width, factor in places:
        for m, column in enumerate(columns):
            if column is None:
                continue
            row, first = column
            fits = 0 <= row < len(shapes) and 0 <= first <= shapes[row][1] - width
            if not fits or shapes[row][0] != (2 if m else 1):
                raise native.KernelArgumentError(
                    f"{width} channels of |m| = {m} from column {first} of row {row} on; the rows have the "
                    f"shapes {list(shapes)}"
                )
            taken.setdefault(row, []).append((first, first + width))
        if factor is not None:
            if factors is None or not 0 <= factor <= factors - width:
                raise native.KernelArgumentError(
                    f"factors {factor} to {factor + width}; there are {factors or 0}"
                )
            taken.setdefault(-1, []).append((factor, factor + width))
    for row, found in taken.items():
        for (_, end), (start, _) in pairwise(sorted(found)):
            if start < end:
                name = "the factors" if row < 0 else f"row {row}"
                raise native.KernelArgumentError(
                    f"column {start} of {name} belongs to two features; it may to one"
                )


def _plain_to_rows(turns: Sequence[Turn], features: Sequence[Tensor], count: int) -> list[Tensor]:
    pieces: list[dict[int, Tensor]] = [{} for _ in range(count)]  # first column -> components
    for turn, feature in zip(turns, features, strict=True):
        x = feature
        if turn.ends:
            x = torch.cat([x.index_select(0, end.index) for end in turn.ends], dim=2)
        if turn.rotation is not None:
            x = turn.rotation.transpose(1, 2) @ x
        for m, column in enumerate(turn.columns):
            if column is not None:
                middle = turn.degree
                part = x[:, middle - m : middle + m + 1 : 2 * m] if m else x[:, middle : middle + 1]
                pieces[column[0]][column[1]] = part
    return [torch.cat([found[at] for at in sorted(found)], dim=2) for found in pieces]


def _plain_from_rows(
    turns: Sequence[Turn], rows: Sequence[Tensor], channels: Sequence[int], factor: Tensor | None
) -> list[Tensor]:
    features = []
    for turn, width in zip(turns, channels, strict=True):
        zero = rows[0].new_zeros(1, 1, width).expand(len(rows[0]), 1, width)
        components: dict[int, Tensor] = {}
        for m, column in enumerate(turn.columns):
            found = [zero] * 2
            if column is not None:
                at, first = column
                found = list(rows[at][:, :, first : first + width].split(1, dim=1))
            components |= {-m: found[0], m: found[-1]}
        x = torch.cat([components[m] for m in range(-turn.degree, turn.degree + 1)], dim=1)
        if factor is not None and turn.factor is not None:
            x = x * factor[:, None, turn.factor : turn.factor + width]
        if turn.rotation is not None:
            x = turn.rotation @ x
        for end in turn.ends:
            x = x.new_zeros(end.nodes, *x.shape[1:]).index_add(0, end.index, x)
        features.append(x)
    return features


def _kernels(turns: Sequence[Turn], tensors: Sequence[Tensor]) -> dict[int, ctypes.CDLL] | None:
    """The kernels of all degrees, or None for the plain form."""
    rotations = [turn.rotation for turn in turns if turn.rotation is not None]
    if not native.usable(*tensors, *rotations) or any(r.requires_grad for r in rotations):
        return None
    found = {turn.degree: kernel.library(turn.degree, tensors[0].dtype) for turn in turns}
    kernels = {degree: library for degree, library in found.items() if library is not None}
    return kernels if len(kernels) == len(found) else None


def _by_channel(x: Tensor) -> Tensor:
    """With the numbers of neighbouring channels side by side, as the kernels read them."""
    x = x.resolve_neg()
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def _whole(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """With contiguous rotations."""
    return tuple(
        turn if turn.rotation is None else replace(turn, rotation=turn.rotation.contiguous())
        for turn in turns
    )


@dataclass(frozen=True)
class _Row:
    address: int
    strides: tuple[int, ...]
    bytes: int  # of a number


@dataclass(frozen=True)
class _Call:
    turns: tuple[Turn, ...]
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
        """Features to rows."""
        places, made = self._rows(out), self._rows(rows)
        for turn, feature in zip(self.turns, features, strict=True):
            scaled: dict[str, Any] = {}
            if turn.factor is not None:
                scaled = {
                    "factor": self._factor(factor, turn.factor),
                    "made": _places(turn, made, 0),
                    "of_factor": self._factor(of_factor, turn.factor),
                }
            place, rotation = self._feature(turn, feature), self._rotation(turn)
            for k, end in enumerate(turn.ends or (None,)):
                kernel.spread(
                    self.kernels[turn.degree],
                    place,
                    rotation,
                    None if end is None else end.node_of_edges(),
                    _places(turn, places, k * feature.shape[2]),
                    self.edges,
                    **scaled,
                )

    def collect(
        self, rows: Sequence[Tensor], features: Sequence[Tensor], factor: Tensor | None = None
    ) -> None:
        """Rows to features."""
        places = self._rows(rows)
        for turn, feature in zip(self.turns, features, strict=True):
            place, rotation = self._feature(turn, feature), self._rotation(turn)
            for k, end in enumerate(turn.ends or (None,)):
                kernel.collect(
                    self.kernels[turn.degree],
                    place,
                    rotation,
                    (None, None) if end is None else end.edges_of_nodes(),
                    _places(turn, places, k * feature.shape[2]),
                    self.edges,
                    (None, 0) if turn.factor is None else self._factor(factor, turn.factor),
                    add=k > 0,
                )

    def new_rows(
        self, shapes: Sequence[tuple[int, int]], channels: Sequence[int], like: Tensor
    ) -> list[Tensor]:
        """Room for rows, zero where no feature writes."""
        filled = [0] * len(shapes)
        for turn, width in zip(self.turns, channels, strict=True):
            for column in turn.columns:
                if column is not None:
                    filled[column[0]] += width * max(len(turn.ends), 1)
        return [
            like.new_empty(self.edges, *shape) if count == shape[1] else like.new_zeros(self.edges, *shape)
            for shape, count in zip(shapes, filled, strict=True)
        ]

    def _rows(self, rows: Sequence[Tensor]) -> list[_Row]:
        """Where the numbers of the first edge start, and the strides."""
        return [
            _Row(
                native.address(
                    f"row {k}", x, (self.edges, *x.shape[1:2], x.shape[-1]), self.dtype, strided=True
                ),
                x.stride(),
                x.element_size(),
            )
            for k, x in enumerate(rows)
        ]

    def _feature(self, turn: Turn, x: Tensor) -> kernel.Feature:
        for end in turn.ends:
            if end.edges != self.edges or end.nodes != turn.ends[0].nodes:
                raise native.KernelArgumentError(
                    f"ends of {end.edges} edges at {end.nodes} nodes; there are {self.edges} edges, "
                    f"and {turn.ends[0].nodes} nodes at the first ends"
                )
        items = turn.ends[0].nodes if turn.ends else self.edges
        shape = (items, 2 * turn.degree + 1, x.shape[-1])
        place = native.address(f"feature of degree {turn.degree}", x, shape, self.dtype, strided=True)
        return kernel.Feature((place, x.stride(0)), x.stride(1), items, x.shape[2])

    def _rotation(self, turn: Turn) -> int | None:
        if turn.rotation is None:
            return None
        shape = (self.edges, *[2 * turn.degree + 1] * 2)
        return native.address(f"rotation of degree {turn.degree}", turn.rotation, shape, self.dtype)

    def _factor(self, factor: Tensor | None, first: int) -> kernel.Place:
        """Where the factors of the first edge start, from one of them on."""
        if factor is None:
            raise native.KernelArgumentError("no factors; give them")
        shape = (self.edges, factor.shape[-1])
        place = native.address("factors", factor, shape, self.dtype, strided=True)
        return place + first * factor.element_size(), factor.stride(0)


class _ToRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, call: _Call, shapes: tuple[tuple[int, int], ...], *features: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.call, ctx.count = call, len(shapes)
        ctx.sizes = [x.shape for x in features]
        rows = call.new_rows(shapes, [x.shape[2] for x in features], features[0])
        call.spread(features, rows)
        return tuple(rows)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        if torch.is_grad_enabled() or not native.wanted(*gradients):
            # Rows are linear in the features: any serve.
            features = [gradients[0].new_zeros(size) for size in ctx.sizes]
            found = plain_gradients(
                lambda *x: _plain_to_rows(call.turns, x, ctx.count),
                features,
                gradients,
                ctx.needs_input_grad[2:],
            )
            return None, None, *found
        of_features = [gradients[0].new_empty(size) for size in ctx.sizes]
        call.collect([_by_channel(g) for g in gradients], of_features)
        return None, None, *of_features


class _FromRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, call: _Call, channels: tuple[int, ...], factor: Tensor | None, *rows: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.call, ctx.channels = call, channels
        ctx.save_for_backward(factor, *rows)
        features = []
        for turn, width in zip(call.turns, channels, strict=True):
            items = turn.ends[0].nodes if turn.ends else call.edges
            features.append(rows[0].new_empty(items, 2 * turn.degree + 1, width))
        call.collect(rows, features, factor)
        return tuple(features)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        factor, *rows = ctx.saved_tensors
        if torch.is_grad_enabled() or not native.wanted(*gradients):
            inputs = (factor, *rows)
            found = plain_gradients(
                lambda factor, *x: _plain_from_rows(call.turns, x, ctx.channels, factor),
                inputs,
                gradients,
                ctx.needs_input_grad[2:],
            )
            return None, None, *found
        of_rows = call.new_rows([(x.shape[1], x.shape[2]) for x in rows], ctx.channels, rows[0])
        of_factor = None if factor is None else torch.zeros_like(factor)
        call.spread([_by_channel(g) for g in gradients], of_rows, factor, rows, of_factor)
        return None, None, of_factor, *of_rows


def _places(turn: Turn, rows: Sequence[_Row], shift: int) -> list[kernel.Place]:
    """Where the components -l .. l of the first edge stand, their columns moved to the right."""
    places: list[kernel.Place] = [(None, 0)] * (2 * turn.degree + 1)
    for m, column in enumerate(turn.columns):
        if column is None:
            continue
        x = rows[column[0]]
        for row, component in enumerate((-m, m) if m else (0,)):
            offset = row * x.strides[1] + column[1] + shift
            places[turn.degree + component] = (x.address + offset * x.bytes, x.strides[0])
    return places
