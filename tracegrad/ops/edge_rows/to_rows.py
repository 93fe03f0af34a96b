"""The operator that fills rows with features of edges and nodes.

With R_e the rotation from the frame of edge e to that of the feature x,

    y_e = R_e^T x[node at the endpoint of e]

fills the rows; for a feature of edges it is x_e. With two endpoints the channels of both nodes stand side by side:
channel c of endpoint k in column first + k C + c.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracegrad.numerics.precision import full_precision
from tracegrad.ops.edge_rows import cpu, gpu
from tracegrad.ops.edge_rows.layout import RowLayout
from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.operator import Operator


@full_precision
def to_rows(
    key: str,
    features: Sequence[Float[Tensor, "_ _m _c"]],
    rotations: Sequence[Float[Tensor, "edges _m _m"]],
    endpoints: Sequence[Int[Tensor, " edges"]],
    edges: int,
) -> list[Float[Tensor, "edges _p _columns"]]:
    """Rearrange features into rows.

    Args:
        key: of the `RowLayout`.
        features: of edges or nodes, [items, 2l + 1, channels].
        rotations: matrices from the frames of the edges to those of the features, see `RowFeature.rotation`.
        endpoints: nodes at the ends of the edges, see `RowFeature.endpoints`.
        edges: number of edges.

    Raises:
        OperatorArgumentError: tensors of other shapes.
        OperatorIndexError: on a CPU, an endpoint that is no node; on a GPU the rows are NaN then.
    """
    return TO_ROWS(list(features), list(rotations), list(endpoints), edges, key)


def _plain(
    features: list[Tensor], rotations: list[Tensor], endpoints: list[Tensor], edges: int, key: str
) -> list[Tensor]:
    layout = RowLayout.named(key)
    parts: list[dict[int, Tensor]] = [{} for _ in layout.shapes]  # of each row: first column -> components
    for feature, x in zip(layout.features, features, strict=True):
        if feature.endpoints:
            x = torch.cat([x.index_select(0, endpoints[k]) for k in feature.endpoints], dim=2)
        if feature.rotation is not None:
            x = rotations[feature.rotation].transpose(1, 2) @ x
        middle = feature.degree
        for m, slot in enumerate(feature.slots):
            if slot is not None:
                row, first = slot
                both = x[:, middle - m : middle + m + 1 : 2 * m] if m else x[:, middle : middle + 1]
                parts[row][first] = both
    return [torch.cat([columns[first] for first in sorted(columns)], dim=2) for columns in parts]


def _outputs(
    features: list[Tensor], rotations: list[Tensor], endpoints: list[Tensor], edges: int, key: str
) -> list[Tensor]:
    return RowLayout.named(key).new_rows(features[0], edges)


def _check(
    features: list[Tensor], rotations: list[Tensor], endpoints: list[Tensor], edges: int, key: str
) -> None:
    layout = RowLayout.named(key)
    at_nodes = [x for f, x in zip(layout.features, features, strict=False) if f.endpoints and x.ndim]
    nodes = len(at_nodes[0]) if at_nodes else 0
    expected = [(nodes if f.endpoints else edges, f.dim, f.channels) for f in layout.features]
    check_tensors("features", features, expected, features[0].dtype)
    check_edges(layout, rotations, endpoints, edges, features[0].dtype)


def check_tensors(
    name: str, tensors: Sequence[Tensor], shapes: Sequence[tuple[int, ...]], dtype: torch.dtype
) -> None:
    """Raise `OperatorArgumentError` unless the tensors have these shapes and this dtype."""
    found = [tuple(x.shape) for x in tensors]
    if found != list(shapes) or any(x.dtype != dtype for x in tensors):
        raise OperatorArgumentError(
            f"{name} of the shapes {found}, {', '.join(sorted({str(x.dtype) for x in tensors}))}; "
            f"the shapes {list(shapes)}, {dtype} are needed"
        )


def check_edges(
    layout: RowLayout,
    rotations: Sequence[Tensor],
    endpoints: Sequence[Tensor],
    edges: int,
    dtype: torch.dtype,
) -> None:
    """Raise `OperatorArgumentError` unless rotations and endpoints are as many as the layout needs, and fit."""
    used = layout.rotations
    check_tensors(
        "rotations",
        [x for k, x in enumerate(rotations) if k in used],
        [(edges, used[k], used[k]) for k in sorted(used)],
        dtype,
    )
    count = 1 + max((k for f in layout.features for k in f.endpoints), default=-1)
    if len(endpoints) < count or any(x.shape != (edges,) or x.is_floating_point() for x in endpoints):
        shapes = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in endpoints)
        raise OperatorArgumentError(
            f"endpoints of the shapes [{shapes}]; {count} of {edges} whole numbers are needed"
        )


TO_ROWS = Operator(
    "to_rows",
    "Tensor[] features, Tensor[] rotations, Tensor[] endpoints, SymInt edges, str key",
    _plain,
    _outputs,
    check=_check,
    without_gradient=("rotations",),
    results=None,
    linear=("features",),
)
TO_ROWS.register("CPU", cpu.to_rows, cpu.to_rows_gradient)
TO_ROWS.register("CUDA", gpu.to_rows, gpu.to_rows_gradient)
