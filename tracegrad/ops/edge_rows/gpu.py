"""Triton forms of `to_rows` and `from_rows`, each one kernel for all features.

A program of `spread` takes some edges and one feature (of one endpoint), reads it from the edges or their nodes, and
writes its components to the rows. A program of `collect` takes some edges or one node, and adds up the edges of the
node in a fixed order. The sources are written out feature by feature, because sizes and places are then constants.

An endpoint that is no node gives NaN in the rows; `collect` leaves its edge out.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from tracegrad.ops.edge_rows.layout import RowFeature, RowLayout
from tracegrad.ops.gpu import kernel, next_power_of_2, segments

EDGES = 16  # of a program, or of a step of a program that takes a node
NUMBERS = 512  # components times channels that a program keeps for each edge
CHANNELS = 64  # of a program, at most
WARPS = 4


def to_rows(
    features: list[Tensor], rotations: list[Tensor], endpoints: list[Tensor], edges: int, key: str
) -> list[Tensor]:
    """The form of the operator `to_rows` for GPUs."""
    rows = RowLayout.named(key).new_rows(features[0], edges)
    _spread(key, features, rotations, endpoints, rows)
    return rows


def to_rows_gradient(
    gradients: list[Tensor],
    features: list[Tensor],
    rotations: list[Tensor],
    endpoints: list[Tensor],
    edges: int,
    key: str,
    needed: Sequence[bool],
) -> list[Tensor] | None:
    """The gradient of the operator `to_rows` for GPUs."""
    made = [x.new_empty(x.shape) for x in features]
    _collect(key, made, rotations, endpoints, gradients, None, edges)
    return [x for x, flag in zip(made, needed, strict=False) if flag]


def from_rows(
    rows: list[Tensor],
    scales: Tensor | None,
    rotations: list[Tensor],
    endpoint: Tensor | None,
    nodes: int,
    key: str,
) -> list[Tensor]:
    """The form of the operator `from_rows` for GPUs."""
    made = RowLayout.named(key).new_features(rows[0], len(rows[0]), nodes)
    _collect(key, made, rotations, [] if endpoint is None else [endpoint], rows, scales, len(rows[0]))
    return made


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
    """The gradient of the operator `from_rows` for GPUs."""
    of_rows = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in rows]
    of_scales = None if scales is None else scales.new_empty(scales.shape)
    endpoints = [] if endpoint is None else [endpoint]
    _spread(key, gradients, rotations, endpoints, of_rows, rows, scales, of_scales)
    made = [*of_rows, of_scales]
    return [x for x, flag in zip(made, needed, strict=False) if flag and x is not None]


def _spread(
    key: str,
    features: Sequence[Tensor],
    rotations: Sequence[Tensor],
    endpoints: Sequence[Tensor],
    out: list[Tensor],
    rows: Sequence[Tensor] = (),
    scales: Tensor | None = None,
    of_scales: Tensor | None = None,
) -> None:
    layout, edges = RowLayout.named(key), len(out[0])
    if not edges:
        return
    nodes = [len(x) for f, x in zip(layout.features, features, strict=True) if f.endpoints]
    source, tasks = spread_source(layout, len(rotations), len(endpoints), bool(rows))
    arguments = [*features, *rotations, *endpoints, *out, *rows, *([] if scales is None else [scales])]
    kernel(source, "spread")[(-(-edges // EDGES), tasks)](
        *(x.contiguous() for x in arguments),
        *([] if of_scales is None else [of_scales]),
        edges,
        nodes[0] if nodes else 0,
        EDGES=EDGES,
        num_warps=WARPS,
    )


def _collect(
    key: str,
    made: Sequence[Tensor],
    rotations: Sequence[Tensor],
    endpoints: Sequence[Tensor],
    rows: Sequence[Tensor],
    scales: Tensor | None,
    edges: int,
) -> None:
    layout = RowLayout.named(key)
    nodes = max((len(x) for f, x in zip(layout.features, made, strict=True) if f.endpoints), default=0)
    at_edges = any(not f.endpoints for f in layout.features)
    programs = max(nodes, -(-edges // EDGES) * at_edges)
    if not programs:
        return
    lists = [x for end in endpoints for x in segments(end, nodes)]
    source, tasks = collect_source(layout, len(rotations), len(endpoints), scales is not None)
    arguments = [*made, *rotations, *lists, *rows, *([] if scales is None else [scales])]
    kernel(source, "collect")[(programs, tasks)](
        *(x.contiguous() for x in arguments), edges, nodes, EDGES=EDGES, num_warps=WARPS
    )


@lru_cache(maxsize=256)
def spread_source(layout: RowLayout, rotations: int, endpoints: int, backward: bool) -> tuple[str, int]:
    """Source of the kernel of `to_rows`, or with ``backward`` of the gradient of `from_rows`; number of its tasks."""
    groups = range(len(layout.shapes))
    names = [
        *(f"X{k}" for k in range(len(layout.features))),
        *(f"R{k}" for k in range(rotations)),
        *(f"END{k}" for k in range(endpoints)),
        *(f"OUT{k}" for k in groups),
        *(f"ROW{k}" for k in groups if backward),
        *(["SCALE", "OF_SCALE"] if backward and layout.scaled else []),
    ]
    lines = [
        f"def spread({', '.join(names)}, edges_count, nodes_count, EDGES: tl.constexpr):",
        "    edge = (tl.program_id(0).to(tl.int64) * EDGES + tl.arange(0, EDGES))[:, None]",
        "    near = edge < edges_count",
    ]
    tasks = 0
    for number, feature in enumerate(layout.features):
        count = max(len(feature.endpoints), 1)
        lines += [
            f"    which = tl.program_id(1) - {tasks}  # of the endpoints of the feature",
            f"    if (which >= 0) & (which < {count}):",
        ]
        tasks += count
        for first, block in _blocks(feature):
            lines += [
                f"        c = tl.arange(0, {block})[None, :] + {first}",
                "        e = edge + 0 * c",
                f"        inside = near & (c < {feature.channels})",
                "        item, exists = e, inside",
            ]
            for k, end in enumerate(feature.endpoints):
                lines += [
                    f"        if which == {k}:",
                    f"            item = tl.load(END{end} + edge, mask=near, other=0).to(tl.int64) + 0 * c",
                    "            exists = inside & (item >= 0) & (item < nodes_count)",
                ]
            for m in range(feature.dim):
                at = f"X{number} + (item * {feature.dim} + {m}) * {feature.channels} + c"
                lines.append(f"        x{m} = tl.load({at}, mask=exists, other=float('nan'))")
            lines += [f"        {line}" for line in _turned(feature, back=False)]
            lines += [f"        {line}" for line in _written(layout, feature, backward)]
    return "\n".join(lines) + "\n", tasks


def _written(layout: RowLayout, feature: RowFeature, backward: bool) -> Iterator[str]:
    """The lines that write y0, y1, ... to the rows, after the gradient of the activation."""
    if backward and feature.activation:
        yield from _activation(layout, feature)
        for m, place in enumerate(feature.places()):
            made = "0.0 * c" if place is None else f"tl.load(ROW{_at(layout, place)}, mask=inside, other=0.0)"
            yield f"made{m} = {made}"
        if feature.activation == "gate":
            yield f"sum = {' + '.join(f'y{m} * made{m}' for m in range(feature.dim))}"
            yield from (f"y{m} = y{m} * (gate * scale)" for m in range(feature.dim))
            yield f"of_scale = sum * gate * {feature.norm!r}"
            if feature.gate is not None:
                place = (feature.gate[0], 0, feature.gate[1])
                yield f"tl.store(OUT{_at(layout, place)}, sum * scale * gate * (1 - gate), mask=inside)"
        elif feature.activation == "silu":
            yield "s = 1 / (1 + tl.exp(-made0))"
            yield f"of_scale = y0 * made0 * s * {feature.norm!r}"
            yield "y0 = y0 * s * (1 + made0 * (1 - s)) * scale"
        else:
            yield "s = 2 / (1 + tl.exp(-2 * made0)) - 1"
            yield f"of_scale = y0 * s * {feature.norm!r}"
            yield "y0 = y0 * (1 - s * s) * scale"
        yield f"tl.store(OF_SCALE + e * {layout.scales} + {feature.scale} + c, of_scale, mask=inside)"
    for m, place in enumerate(feature.places()):
        if place is not None:
            shift = f" + which * {feature.channels}" if len(feature.endpoints) > 1 else ""
            yield f"tl.store(OUT{_at(layout, place)}{shift}, y{m}, mask=inside)"


@lru_cache(maxsize=256)
def collect_source(layout: RowLayout, rotations: int, endpoints: int, scaled: bool) -> tuple[str, int]:
    """Source of the kernel of `from_rows` and of the gradient of `to_rows`, and the number of its tasks."""
    names = [
        *(f"X{k}" for k in range(len(layout.features))),
        *(f"R{k}" for k in range(rotations)),
        *(f"{name}{k}" for k in range(endpoints) for name in ("ORDER", "STARTS")),
        *(f"ROW{k}" for k in range(len(layout.shapes))),
        *(["SCALE"] if scaled else []),
    ]
    lines = [
        f"def collect({', '.join(names)}, edges_count, nodes_count, EDGES: tl.constexpr):",
        "    program = tl.program_id(0).to(tl.int64)",
    ]
    for number, feature in enumerate(layout.features):
        lines.append(f"    if tl.program_id(1) == {number}:")
        for first, block in _blocks(feature):
            lines.append(f"        c = tl.arange(0, {block})[None, :] + {first}")
            body = _at_nodes if feature.endpoints else _at_edges
            lines += [f"        {line}" for line in body(layout, number, feature, block)]
    return "\n".join(lines) + "\n", len(layout.features)


def _at_edges(layout: RowLayout, number: int, feature: RowFeature, block: int) -> Iterator[str]:
    yield "edge = (program * EDGES + tl.arange(0, EDGES))[:, None]"
    yield "near = edge < edges_count"
    yield f"inside, e = near & (c < {feature.channels}), edge + 0 * c"
    yield from _read(layout, feature)
    yield from _turned(feature, back=True)
    for m in range(feature.dim):
        at = f"X{number} + (e * {feature.dim} + {m}) * {feature.channels} + c"
        yield f"tl.store({at}, x{m}, mask=inside)"


def _at_nodes(layout: RowLayout, number: int, feature: RowFeature, block: int) -> Iterator[str]:
    yield "if program < nodes_count:"
    for m in range(feature.dim):
        yield f"    sum{m} = tl.zeros((EDGES, {block}), X{number}.dtype.element_ty)"
    first, *others = feature.endpoints
    yield f"    for which in range({len(feature.endpoints)}):"
    yield f"        begin, end = tl.load(STARTS{first} + program), tl.load(STARTS{first} + program + 1)"
    for k, other in enumerate(others, 1):
        yield f"        if which == {k}:"
        yield f"            begin, end = tl.load(STARTS{other} + program), tl.load(STARTS{other} + program + 1)"
    yield "        for start in range(begin, end, EDGES):"
    yield "            place = (start + tl.arange(0, EDGES))[:, None]"
    yield "            near = place < end"
    yield f"            edge = tl.load(ORDER{first} + place, mask=near, other=0)"
    for k, other in enumerate(others, 1):
        yield f"            if which == {k}:"
        yield f"                edge = tl.load(ORDER{other} + place, mask=near, other=0)"
    yield f"            inside, e = near & (c < {feature.channels}), edge + 0 * c"
    yield from (f"            {line}" for line in _read(layout, feature))
    yield from (f"            {line}" for line in _turned(feature, back=True))
    yield from (f"            sum{m} += x{m}" for m in range(feature.dim))
    for m in range(feature.dim):
        at = f"X{number} + (program * {feature.dim} + {m}) * {feature.channels} + c"
        yield f"    tl.store({at}, tl.sum(sum{m}, 0)[None, :], mask=c < {feature.channels})"


def _read(layout: RowLayout, feature: RowFeature) -> Iterator[str]:
    """The lines that read y0, y1, ... from the rows and activate them."""
    shift = f" + which * {feature.channels}" if len(feature.endpoints) > 1 else ""
    for m, place in enumerate(feature.places()):
        value = "0.0 * c"
        if place is not None:
            value = f"tl.load(ROW{_at(layout, place)}{shift}, mask=inside, other=0.0)"
        yield f"y{m} = {value}"
    if not feature.activation:
        return
    yield from _activation(layout, feature)
    if feature.activation == "gate":
        yield from (f"y{m} = y{m} * (gate * scale)" for m in range(feature.dim))
    elif feature.activation == "silu":
        yield "y0 = y0 / (1 + tl.exp(-y0)) * scale"
    else:
        yield "y0 = (2 / (1 + tl.exp(-2 * y0)) - 1) * scale"


def _activation(layout: RowLayout, feature: RowFeature) -> Iterator[str]:
    """The lines that read the scale and the gate."""
    at = f"SCALE + e * {layout.scales} + {feature.scale} + c"
    yield f"scale = tl.load({at}, mask=inside, other=0.0) * {feature.norm!r}"
    if feature.activation == "gate":
        value = "0.0 * c"
        if feature.gate is not None:
            place = (feature.gate[0], 0, feature.gate[1])
            value = f"tl.load(ROW{_at(layout, place)}, mask=inside, other=0.0)"
        yield f"gate = 1 / (1 + tl.exp(-({value})))"


def _turned(feature: RowFeature, *, back: bool) -> Iterator[str]:
    """The lines that turn x0, x1, ... into y0, y1, ..., or back."""
    dim, (old, new) = feature.dim, ("y", "x") if back else ("x", "y")
    if feature.rotation is None:
        yield from (f"{new}{m} = {old}{m}" for m in range(dim))
        return
    for m in range(dim):
        for k in range(dim):
            at = f"R{feature.rotation} + edge * {dim * dim} + {m * dim + k if back else k * dim + m}"
            product = f"tl.load({at}, mask=near, other=0.0) * {old}{k}"
            yield f"{new}{m} = {product}" if k == 0 else f"{new}{m} += {product}"


def _at(layout: RowLayout, place: tuple[int, int, int]) -> str:
    """Number of the tensor of rows, and address of the numbers of edges e and channels c in it."""
    row, at, first = place
    count, columns = layout.shapes[row]
    return f"{row} + e * {count * columns} + {at * columns + first} + c"


def _blocks(feature: RowFeature) -> Iterator[tuple[int, int]]:
    """First channel and number of channels of the blocks in which a program takes the channels of a feature."""
    block = min(CHANNELS, next_power_of_2(feature.channels))
    while block > 1 and block * feature.dim > NUMBERS:
        block //= 2
    for first in range(0, feature.channels, block):
        yield first, block
