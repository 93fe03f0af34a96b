"""The forms of the operators `to_rows` and `from_rows`: values, gradients, and what they refuse."""

import pytest
import torch
from torch import Tensor

from tests.ops.forms import (
    assert_forms_agree,
    assert_refuses_other_dtypes,
    assert_refuses_other_shapes,
    assert_registered,
)
from tracegrad.ops.edge_rows.from_rows import FROM_ROWS
from tracegrad.ops.edge_rows.layout import RowFeature, RowLayout
from tracegrad.ops.edge_rows.to_rows import TO_ROWS
from tracegrad.ops.errors import OperatorArgumentError, OperatorIndexError
from tracegrad.ops.gpu import triton

pytestmark = pytest.mark.usefixtures("unchecked")
EDGES, NODES = 19, 5  # node 4 has no edges; more edges than a program of a GPU takes
# Channels of each degree: below, at and above the width of vectors of channels.
CHANNELS = {"odd": (3, 1, 7), "even": (8, 16, 4), "many": (70, 21, 17)}
CASES = pytest.mark.parametrize("channels", CHANNELS.values(), ids=CHANNELS)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def ends(edges: int = EDGES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return list(torch.randint(NODES - 1, (2, edges), generator=generator))


def gathering(channels, edges=EDGES):
    """Features of nodes with three degrees, one without |m| = 1, and of edges with degree 1."""
    c0, c1, c2 = channels
    layout = RowLayout(
        ((1, 2 * c0 + 3 * c1 + c2), (2, 3 * c1), (2, c2)),
        (
            RowFeature(((0, 0),), c0, None, (0, 1)),
            RowFeature(((0, 2 * c0), (1, 0)), c1, 0, (0, 1)),
            RowFeature(((0, 2 * c0 + 2 * c1), (1, 2 * c1)), c1),
            RowFeature(((0, 2 * c0 + 3 * c1), None, (2, 0)), c2, 1, (1,)),
        ),
    )
    features = [normal(NODES, 1, c0), normal(NODES, 3, c1), normal(edges, 3, c1), normal(NODES, 5, c2)]
    return features, [normal(edges, 3, 3), normal(edges, 5, 5)], ends(edges), edges, layout.key


def scattering(channels, edges=EDGES, *, activations=True, nodes=True):
    """Scalars with both activations, gated features of all kinds; one has no slots at all, another no gates."""
    c0, c1, c2 = channels
    at = (0,) if nodes else ()
    gate, silu, tanh = ("gate", "silu", "tanh") if activations else (None, None, None)
    gates = c1 + c2 if activations else 0
    layout = RowLayout(
        ((1, 2 * c0 + c1 + c2 + gates), (2, c1 + c2), (2, 2 * c2)),
        (
            RowFeature(((0, c0),), c0, None, at, silu, 0, 1.7),
            RowFeature(((0, 0),), c0, None, (), tanh, c0, 1.6),
            RowFeature((None,), c0, None, at, silu, 2 * c0, 1.6),
            RowFeature(
                ((0, 2 * c0), (1, 0)), c1, 0, at, gate, 3 * c0, 1.8, (0, 2 * c0 + c1) if gates else None
            ),
            RowFeature((None, (1, c1), (2, 0)), c2, 1, (), gate, 3 * c0 + c1),
            RowFeature(
                ((0, 2 * c0 + c1 + gates), None, (2, c2)),
                *(c2, None, at, gate, 3 * c0 + c1 + c2, 1.1, (0, 2 * c0 + 2 * c1) if gates else None),
            ),
        ),
    )
    rows = [normal(edges, *shape) for shape in layout.shapes]
    scales = normal(edges, layout.scales) if activations else None
    rotations = [normal(edges, 3, 3), normal(edges, 5, 5)]
    return rows, scales, rotations, ends(edges)[0] if nodes else None, NODES, layout.key


@CASES
@pytest.mark.parametrize("edges", [EDGES, 0])
def test_forms_of_to_rows_agree(channels, edges):
    assert_forms_agree(TO_ROWS, gathering(channels, edges))


@CASES
@pytest.mark.parametrize("activations", [True, False])
@pytest.mark.parametrize("nodes", [True, False])
def test_forms_of_from_rows_agree(channels, activations, nodes):
    assert_forms_agree(FROM_ROWS, scattering(channels, activations=activations, nodes=nodes))


@pytest.mark.parametrize("nodes", [True, False])
def test_forms_of_from_rows_agree_without_edges(nodes):
    assert_forms_agree(FROM_ROWS, scattering((3, 1, 7), 0, nodes=nodes))


def test_large_and_missing_numbers_reach_the_activations():
    """Far outside of the range in which exponentials are finite, and numbers that are not."""
    layout = RowLayout(((1, 1),), (RowFeature(((0, 0),), 1, None, (), "silu", 0, 1.0),))
    rows = torch.tensor(
        [-1e4, -750, -700, -30, -1e-9, 0, 1e-9, 30, 700, 750, 1e4, torch.nan], dtype=torch.float64
    )
    for dtype in (torch.float64, torch.float32):
        y = rows.to(dtype).view(-1, 1, 1)
        (made,) = FROM_ROWS([y], torch.ones_like(y[:, 0]), [], None, 0, layout.key)
        expected = torch.nn.functional.silu(y)
        torch.testing.assert_close(
            made, expected, rtol=4 * torch.finfo(dtype).eps, atol=1e-30, equal_nan=True
        )


def test_they_are_registered_as_torch_expects():
    features, *others = gathering((3, 1, 2))
    assert_registered(TO_ROWS, ([x.requires_grad_() for x in features], *others))
    rows, scales, *rest = scattering((3, 1, 2))
    assert_registered(FROM_ROWS, ([x.requires_grad_() for x in rows], scales.requires_grad_(), *rest))


def test_other_shapes_and_dtypes_are_refused():
    for operator, arguments in ((TO_ROWS, gathering((3, 2, 4))), (FROM_ROWS, scattering((3, 2, 4)))):
        assert_refuses_other_shapes(operator, arguments)
        assert_refuses_other_dtypes(operator, arguments)
    features, rotations, endpoints, edges, key = gathering((3, 2, 4))
    for wrong in (
        (features[:-1], rotations, endpoints, edges, key),
        (features, rotations[:-1], endpoints, edges, key),
        (features, rotations, endpoints[:-1], edges, key),
        (features, rotations, endpoints, edges + 1, key),
    ):
        with pytest.raises(OperatorArgumentError, match="are needed"):
            TO_ROWS(*wrong)


@pytest.mark.parametrize("value", [-1, NODES, 2**40])
def test_endpoints_that_are_no_nodes(value):
    """An error on the CPU; on a GPU NaN in the rows of the edge, which is left out of sums."""
    features, rotations, endpoints, edges, key = gathering((3, 2, 4))
    endpoints[0][2] = value
    with pytest.raises(OperatorIndexError, match="within 0"):
        TO_ROWS(features, rotations, endpoints, edges, key)
    rows, scales, turns, _, nodes, layout = scattering((3, 2, 4))
    with pytest.raises(OperatorIndexError, match="within 0"):
        FROM_ROWS(rows, scales, turns, endpoints[0], nodes, layout)
    if triton() is None:
        return
    made = TO_ROWS.forms["CUDA"][0](features, rotations, endpoints, edges, key)
    assert made[1][2].isnan().any()
    assert made[1][:2].isfinite().all()
    for x in FROM_ROWS.forms["CUDA"][0](rows, scales, turns, endpoints[0], nodes, layout):
        assert x.isfinite().all()


def test_layouts_that_do_not_fit_are_refused():
    for slots in (((2, 0), None), ((-1, 0), None), ((1, 0), None), (None, (0, 0))):
        with pytest.raises(OperatorArgumentError, match="the rows have the shapes"):
            RowLayout(((1, 4), (2, 4)), (RowFeature(slots, 2),))
    for first, owners in ((3, "no feature"), (-1, "two features"), (0, "no feature")):
        with pytest.raises(OperatorArgumentError, match=owners):
            RowLayout(((1, 3),), (RowFeature(((0, first),), 2),))
    with pytest.raises(OperatorArgumentError, match="two features"):
        RowLayout(((1, 3),), (RowFeature(((0, 0),), 2), RowFeature(((0, 1),), 2)))
    with pytest.raises(OperatorArgumentError, match="the scales"):
        RowLayout(((1, 3),), (RowFeature(((0, 0),), 3, activation="silu", scale=1),))
    with pytest.raises(OperatorArgumentError, match="for degree 0"):
        RowLayout(((1, 3), (2, 3)), (RowFeature(((0, 0), (1, 0)), 3, activation="silu"),))
    both = RowLayout(((1, 4),), (RowFeature(((0, 0),), 2, None, (0, 1)),)).key
    with pytest.raises(OperatorArgumentError, match="two endpoints"):
        FROM_ROWS([normal(6, 1, 4)], None, [], torch.zeros(6, dtype=torch.long), 2, both)
