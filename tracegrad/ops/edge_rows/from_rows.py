"""The operator that gates the numbers in rows and makes features of edges, or sums at nodes, from them.

With y_e the components of a feature in the rows, s_e its scales, n a constant, R_e the rotation from the frame of
edge e to that of the feature, and g_e the gates,

    z_e = R_e y_e                             no activation
    z_e = R_e y_e sigmoid(g_e) n s_e          "gate"
    z_e = silu(y_e) n s_e, tanh(y_e) n s_e    "silu", "tanh"

is a feature of the edge, or x[node] = sum over the edges e that end there of z_e one of the nodes.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import silu

from tracegrad.numerics.precision import full_precision
from tracegrad.ops.edge_rows import cpu, gpu
from tracegrad.ops.edge_rows.layout import RowFeature, RowLayout
from tracegrad.ops.edge_rows.to_rows import check_edges, check_tensors
from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.operator import Operator


@full_precision
def from_rows(
    key: str,
    rows: Sequence[Float[Tensor, "edges _p _columns"]],
    scales: Float[Tensor, "edges k"] | None = None,
    rotations: Sequence[Float[Tensor, "edges _m _m"]] = (),
    endpoint: Int[Tensor, " edges"] | None = None,
    nodes: int = 0,
) -> list[Float[Tensor, "_ _m _c"]]:
    """Features from rows.

    Args:
        key: of the `RowLayout`.
        rows: one tensor for each |m|.
        scales: of the features with an activation.
        rotations: matrices from the frames of the edges to those of the features, see `RowFeature.rotation`.
        endpoint: the node of each edge at which features of nodes are summed.
        nodes: number of nodes.

    Raises:
        OperatorArgumentError: tensors of other shapes.
        OperatorIndexError: on a CPU, an endpoint that is no node; on a GPU it is left out.
    """
    return FROM_ROWS(list(rows), scales, list(rotations), endpoint, nodes, key)


def _plain(
    rows: list[Tensor],
    scales: Tensor | None,
    rotations: list[Tensor],
    endpoint: Tensor | None,
    nodes: int,
    key: str,
) -> list[Tensor]:
    features = []
    for feature in RowLayout.named(key).features:
        zero = rows[0].new_zeros(len(rows[0]), 1, feature.channels)
        components = [
            zero
            if place is None
            else _columns(rows, feature, (place[0], place[2]))[:, place[1] : place[1] + 1]
            for place in feature.places()
        ]
        x = torch.cat(components, dim=1)
        if scales is not None and feature.activation:
            scale = scales[:, None, feature.scale : feature.scale + feature.channels] * feature.norm
            if feature.activation == "gate":
                gate = zero if feature.gate is None else _columns(rows, feature, feature.gate)
                x = x * (torch.sigmoid(gate) * scale)
            else:
                x = (silu(x) if feature.activation == "silu" else torch.tanh(x)) * scale
        if feature.rotation is not None:
            x = rotations[feature.rotation] @ x
        if feature.endpoints and endpoint is not None:
            x = x.new_zeros(nodes, *x.shape[1:]).index_add(0, endpoint, x)
        features.append(x)
    return features


def _columns(rows: list[Tensor], feature: RowFeature, slot: tuple[int, int]) -> Tensor:
    row, first = slot
    return rows[row][:, :, first : first + feature.channels]


def _outputs(
    rows: list[Tensor],
    scales: Tensor | None,
    rotations: list[Tensor],
    endpoint: Tensor | None,
    nodes: int,
    key: str,
) -> list[Tensor]:
    return RowLayout.named(key).new_features(rows[0], rows[0].shape[0], nodes)


def _check(
    rows: list[Tensor],
    scales: Tensor | None,
    rotations: list[Tensor],
    endpoint: Tensor | None,
    nodes: int,
    key: str,
) -> None:
    layout = RowLayout.named(key)
    if any(len(f.endpoints) > 1 for f in layout.features):
        raise OperatorArgumentError(
            "a feature made from rows has two endpoints; edges are summed at one endpoint, give one or none"
        )
    edges, dtype = len(rows[0]) if rows[0].ndim else 0, rows[0].dtype
    check_tensors("rows", rows, [(edges, *shape) for shape in layout.shapes], dtype)
    check_tensors(
        "scales", [] if scales is None else [scales], [(edges, layout.scales)] * bool(layout.scaled), dtype
    )
    check_edges(layout, rotations, [] if endpoint is None else [endpoint], edges, dtype)


FROM_ROWS = Operator(
    "from_rows",
    "Tensor[] rows, Tensor? scales, Tensor[] rotations, Tensor? endpoint, SymInt nodes, str key",
    _plain,
    _outputs,
    check=_check,
    without_gradient=("rotations",),
    results=None,
)
FROM_ROWS.register("CPU", cpu.from_rows, cpu.from_rows_gradient)
FROM_ROWS.register("CUDA", gpu.from_rows, gpu.from_rows_gradient)
