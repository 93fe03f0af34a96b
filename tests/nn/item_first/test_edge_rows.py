from collections.abc import Callable

import pytest
import torch
from e3nn.o3 import Irrep
from torch import Tensor

from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.nn.item_first.edge_rows import EdgeEndpoints, IrrepPlacement, from_rows, to_rows
from tracegrad.ops import native

EDGES, NODES = 13, 5  # node 4 has no edges
# Channels of each degree: below, at and above the width of vectors of channels.
CHANNELS = {"odd": (3, 1, 7), "even": (8, 16, 4), "many": (37, 21, 17)}
CASES = pytest.mark.parametrize("channels", CHANNELS.values(), ids=CHANNELS)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


def make_endpoints(edges: int = EDGES) -> tuple[EdgeEndpoints, EdgeEndpoints]:
    first, second = torch.randint(NODES - 1, (2, edges), generator=torch.Generator().manual_seed(1))
    return EdgeEndpoints(first, NODES), EdgeEndpoints(second, NODES)


def rotations(edges: int = EDGES) -> dict[int, Tensor]:
    frame = EdgeFrame(torch.randn(edges, 3, dtype=torch.float64))
    return {1: frame.rotation(Irrep("1e")), 2: frame.rotation(Irrep("2e"))}


def gathering(
    channels: tuple[int, ...], edges: int = EDGES
) -> tuple[list[IrrepPlacement], list[Tensor], list[tuple[int, int]]]:
    """Features of nodes with three degrees, one without |m| = 1, and of edges with degree 1; shapes of the rows."""
    endpoints, matrices = make_endpoints(edges), rotations(edges)
    c0, c1, c2 = channels
    placements = [
        IrrepPlacement(((0, 0),), None, endpoints),
        IrrepPlacement(((0, 2 * c0), (1, 0)), matrices[1], endpoints),
        IrrepPlacement(((0, 2 * c0 + 2 * c1), (1, 2 * c1))),
        IrrepPlacement(((0, 2 * c0 + 3 * c1), None, (2, 0)), matrices[2], endpoints[:1]),
    ]
    sizes = [(NODES, 1, c0), (NODES, 3, c1), (edges, 3, c1), (NODES, 5, c2)]
    features = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]
    return placements, features, [(1, 2 * c0 + 3 * c1 + c2), (2, 3 * c1), (2, c2)]


def scattering(
    channels: tuple[int, ...], edges: int = EDGES
) -> tuple[list[IrrepPlacement], list[Tensor], Tensor]:
    """Sums at nodes with and without a factor, features of edges; one |m| and some columns are unused."""
    (first, second), matrices = make_endpoints(edges), rotations(edges)
    c0, c1, c2 = channels
    placements = [
        IrrepPlacement(((0, 1),), None, (first,)),
        IrrepPlacement(((0, 1 + c0), (1, 0)), matrices[1], (second,), 2),
        IrrepPlacement((None, (1, c1), (2, 0)), matrices[2], (), 2 + c1),
        IrrepPlacement(((0, 1 + c0 + c1), None, (2, c2)), None, (), 2 + c1 + c2),
    ]
    shapes = [(1, 1 + c0 + c1 + c2), (2, c1 + c2), (2, 2 * c2)]
    rows = [torch.randn(edges, *shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    factor = torch.randn(edges, 2 + c1 + 2 * c2, dtype=torch.float64, requires_grad=True)
    return placements, rows, factor


def results(run: Callable[[], list[Tensor]], inputs: list[Tensor]) -> list[Tensor]:
    """Values, and gradients of all inputs."""
    torch.manual_seed(3)
    values = run()
    total = sum(((x * torch.randn_like(x)).sum() for x in values), torch.zeros(()))
    return [*values, *torch.autograd.grad(total, inputs)]


def both_forms(
    run: Callable[[], list[Tensor]], inputs: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Tensor], list[Tensor]]:
    """Results of the kernels, which must have been called, and of the plain form."""
    before = native.used()
    actual = results(run, inputs)
    count = native.used()
    assert count > before
    monkeypatch.setenv(native.SWITCH, "0")
    expected = results(run, inputs)
    assert native.used() == count
    monkeypatch.delenv(native.SWITCH)
    return actual, expected


@CASES
def test_rows_equal_a_literal_loop(channels):
    placements, features, shapes = gathering(channels)
    rows = [x.detach() for x in to_rows(placements, features, shapes, EDGES)]
    assert [tuple(x.shape[1:]) for x in rows] == shapes
    for placement, feature in zip(placements, features, strict=True):
        width = feature.shape[2]
        for e in range(EDGES):
            for k, endpoint in enumerate(placement.endpoints or (None,)):
                x = feature[e if endpoint is None else int(endpoint.index[e])].detach()
                x = x if placement.rotation is None else placement.rotation[e].T @ x
                for m, slot in enumerate(placement.slots):
                    if slot is None:
                        continue
                    at = slice(slot[1] + k * width, slot[1] + (k + 1) * width)
                    expected = x[[placement.degree - m, placement.degree + m]] if m else x[[placement.degree]]
                    torch.testing.assert_close(rows[slot[0]][e, :, at], expected, rtol=0, atol=1e-13)


@CASES
def test_features_equal_a_literal_loop(channels):
    placements, rows, factor = scattering(channels)
    widths = [channels[placement.degree] for placement in placements]
    for placement, width, actual in zip(
        placements, widths, from_rows(placements, rows, widths, factor), strict=True
    ):
        expected = torch.zeros(actual.shape, dtype=torch.float64)
        for e in range(EDGES):
            x = torch.zeros(2 * placement.degree + 1, width, dtype=torch.float64)
            for m, slot in enumerate(placement.slots):
                for row in range(2 if m and slot else bool(slot)):
                    component = placement.degree + (m if row else -m)
                    x[component] = rows[slot[0]][e, row, slot[1] : slot[1] + width].detach()
            if placement.first_factor is not None:
                x = x * factor[e, placement.first_factor : placement.first_factor + width].detach()
            x = x if placement.rotation is None else placement.rotation[e] @ x
            expected[int(placement.endpoints[0].index[e]) if placement.endpoints else e] += x
        torch.testing.assert_close(actual.detach(), expected, rtol=0, atol=1e-13)


@CASES
@DTYPES
@pytest.mark.parametrize("threads", [1, 3])
def test_kernels_equal_the_plain_form_with_all_gradients(channels, dtype, threads, monkeypatch):
    monkeypatch.setattr(native, "SMALLEST_SHARE", 1)
    torch.set_num_threads(threads)
    atol = 1e-12 if dtype == torch.float64 else 1e-4

    def lowered(
        tensors: list[Tensor], placements: list[IrrepPlacement]
    ) -> tuple[list[Tensor], list[IrrepPlacement]]:
        rounded = [x.detach().to(dtype).requires_grad_() for x in tensors]
        return rounded, [
            IrrepPlacement(
                t.slots, None if t.rotation is None else t.rotation.to(dtype), t.endpoints, t.first_factor
            )
            for t in placements
        ]

    placements, features, shapes = gathering(channels)
    features, placements = lowered(features, placements)
    pairs = [both_forms(lambda: to_rows(placements, features, shapes, EDGES), features, monkeypatch)]
    scattered, rows, factor = scattering(channels)
    (*rows, factor), scattered = lowered([*rows, factor], scattered)
    widths = [channels[placement.degree] for placement in scattered]
    pairs.append(both_forms(lambda: from_rows(scattered, rows, widths, factor), [*rows, factor], monkeypatch))
    for actual, expected in pairs:
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=atol)


def test_strides_of_views_are_respected(monkeypatch):
    """Rows and features that are slices of wider tensors, or whose channels are not contiguous."""
    placements, features, shapes = gathering((3, 5, 9))
    wide = [torch.randn(*x.shape[:2], x.shape[2] + 4, dtype=torch.float64) for x in features]
    strided = [x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in features]
    for inputs in ([x[:, :, 2:-2].requires_grad_() for x in wide], strided):
        actual, expected = both_forms(
            lambda inputs=inputs: to_rows(placements, inputs, shapes, EDGES), inputs, monkeypatch
        )
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    scattered, rows, factor = scattering((3, 5, 9))
    wide = [torch.randn(*x.shape[:2], x.shape[2] + 4, dtype=torch.float64)[:, :, 3:-1] for x in rows]
    inputs = [*(x.requires_grad_() for x in wide), factor.detach().T.contiguous().T.requires_grad_()]
    widths = [(3, 5, 9)[placement.degree] for placement in scattered]
    actual, expected = both_forms(
        lambda: from_rows(scattered, inputs[:-1], widths, inputs[-1]), inputs, monkeypatch
    )
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_second_derivatives():
    """Of a few edges, which are independent but for the sums at nodes: two of them end at one node."""
    edges, channels = 4, (2, 1, 1)
    assert all(len(set(ends.index.tolist())) < edges for ends in make_endpoints(edges))
    placements, features, shapes = gathering(channels, edges)
    assert torch.autograd.gradgradcheck(lambda *x: tuple(to_rows(placements, x, shapes, edges)), features)
    scattered, rows, factor = scattering(channels, edges)
    widths = [channels[placement.degree] for placement in scattered]
    run = lambda factor, *x: tuple(from_rows(scattered, x, widths, factor))  # noqa: E731
    assert torch.autograd.gradcheck(run, (factor, *rows))
    assert torch.autograd.gradgradcheck(run, (factor, *rows))


def test_rotations_may_have_a_gradient():
    vectors = torch.randn(EDGES, 3, dtype=torch.float64, requires_grad=True)
    endpoints = make_endpoints()
    x = torch.randn(NODES, 3, 2, dtype=torch.float64)

    def run(vectors: Tensor) -> Tensor:
        """Numbers that do not depend on the rotation of a frame about its edge."""
        placement = IrrepPlacement(((0, 0), (1, 0)), EdgeFrame(vectors).rotation(Irrep("1o")), endpoints)
        axial, around = to_rows([placement], [x], [(1, 4), (2, 4)], EDGES)
        return torch.cat([axial, around.square().sum(1, keepdim=True)])

    assert torch.autograd.gradcheck(run, (vectors,))


def test_without_a_compiler_the_plain_form_is_used(monkeypatch):
    placements, features, shapes = gathering((3, 1, 7))
    expected = to_rows(placements, features, shapes, EDGES)
    monkeypatch.setattr(native, "library", lambda *source: None)
    count = native.used()
    for a, b in zip(to_rows(placements, features, shapes, EDGES), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)
    assert native.used() == count


def test_no_edges():
    none = EdgeEndpoints(torch.zeros(0, dtype=torch.long), 3)
    (rows,) = to_rows([IrrepPlacement(((0, 0),), None, (none,))], [torch.randn(3, 1, 4)], [(1, 4)], 0)
    assert rows.shape == (0, 1, 4)
    (sums,) = from_rows([IrrepPlacement(((0, 0),), None, (none,))], [rows], [4])
    assert torch.equal(sums, torch.zeros(3, 1, 4))
