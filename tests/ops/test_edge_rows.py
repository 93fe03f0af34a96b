"""Rows of edges against literal loops, in every precision, and with derivatives of all orders."""

import pytest
import torch
from torch import Tensor

from tests.ops.test_edge_rows_forms import CASES, EDGES, gathering, scattering
from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.ops import native
from tracegrad.ops.edge_rows.from_rows import FROM_ROWS, from_rows
from tracegrad.ops.edge_rows.layout import RowFeature, RowLayout
from tracegrad.ops.edge_rows.to_rows import TO_ROWS, to_rows

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


@CASES
def test_rows_equal_a_literal_loop(channels):
    features, rotations, endpoints, edges, key = gathering(channels)
    rows = TO_ROWS(features, rotations, endpoints, edges, key)
    layout = RowLayout.named(key)
    assert [tuple(x.shape[1:]) for x in rows] == list(layout.shapes)
    for feature, values in zip(layout.features, features, strict=True):
        width = feature.channels
        for e in range(EDGES):
            for k, end in enumerate(feature.endpoints or (None,)):
                x = values[e if end is None else int(endpoints[end][e])]
                x = x if feature.rotation is None else rotations[feature.rotation][e].T @ x
                for m, slot in enumerate(feature.slots):
                    if slot is None:
                        continue
                    at = slice(slot[1] + k * width, slot[1] + (k + 1) * width)
                    expected = x[[feature.degree - m, feature.degree + m]] if m else x[[feature.degree]]
                    torch.testing.assert_close(rows[slot[0]][e, :, at], expected, rtol=0, atol=1e-13)


@CASES
@pytest.mark.parametrize("activations", [True, False])
def test_features_equal_a_literal_loop(channels, activations):
    rows, scales, rotations, endpoint, nodes, key = scattering(channels, activations=activations)
    made = FROM_ROWS(rows, scales, rotations, endpoint, nodes, key)
    for feature, actual in zip(RowLayout.named(key).features, made, strict=True):
        expected = torch.zeros(actual.shape, dtype=torch.float64)
        width = feature.channels
        for e in range(EDGES):
            x = torch.zeros(feature.dim, width, dtype=torch.float64)
            for m, slot in enumerate(feature.slots):
                for row in range(2 if m and slot else bool(slot)):
                    component = feature.degree + (m if row else -m)
                    x[component] = rows[slot[0]][e, row, slot[1] : slot[1] + width]
            if activations:
                gate = torch.zeros(width, dtype=torch.float64)
                if feature.gate is not None:
                    gate = rows[feature.gate[0]][e, 0, feature.gate[1] : feature.gate[1] + width]
                x = {
                    "gate": x / (1 + (-gate).exp()),
                    "silu": x / (1 + (-x).exp()),
                    "tanh": (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
                }[feature.activation]
                x = x * feature.norm * scales[e, feature.scale : feature.scale + width]
            x = x if feature.rotation is None else rotations[feature.rotation][e] @ x
            expected[int(endpoint[e]) if feature.endpoints else e] += x
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-13)


@CASES
@DTYPES
@pytest.mark.parametrize("threads", [1, 3])
def test_kernels_equal_the_plain_form_with_all_gradients(channels, dtype, threads, monkeypatch):
    monkeypatch.setattr(native, "SMALLEST_SHARE", 1)
    torch.set_num_threads(threads)
    features, turns, endpoints, edges, layout = gathering(channels)
    rows, scales, rotations, endpoint, nodes, key = scattering(channels)

    def lowered(tensors: list[Tensor]) -> list[Tensor]:
        return [x.to(dtype) for x in tensors]

    features, rows = (
        [x.requires_grad_() for x in lowered(tensors)] for tensors in (features, [*rows, scales])
    )
    turns, rotations = lowered(turns), lowered(rotations)
    weights = torch.Generator().manual_seed(3)

    def run() -> list[Tensor]:
        values = [
            *to_rows(layout, features, turns, endpoints, edges),
            *from_rows(key, rows[:-1], rows[-1], rotations, endpoint, nodes),
        ]
        weights.manual_seed(3)
        total = sum((x * torch.randn(x.shape, generator=weights).to(x)).sum() for x in values)
        return [*values, *torch.autograd.grad(total, [*features, *rows])]

    before = native.used()
    actual = run()
    count = native.used()
    assert count > before
    monkeypatch.setenv(native.SWITCH, "0")
    expected = run()
    assert native.used() == count
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 if dtype == torch.float64 else 2e-4)


def test_second_derivatives():
    features, turns, endpoints, edges, layout = gathering((2, 1, 1), 4)
    assert all(len(set(end.tolist())) < edges for end in endpoints)  # two edges end at one node
    inputs = [x.requires_grad_() for x in features]
    assert torch.autograd.gradgradcheck(lambda *x: tuple(to_rows(layout, x, turns, endpoints, edges)), inputs)
    rows, scales, rotations, endpoint, nodes, key = scattering((2, 1, 1), 4)
    inputs = [x.requires_grad_() for x in (scales, *rows)]

    def run(scales: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
        return tuple(from_rows(key, rows, scales, rotations, endpoint, nodes))

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def test_rotations_may_have_a_gradient():
    vectors = torch.randn(EDGES, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 3, 2, dtype=torch.float64)
    layout = RowLayout(((1, 4), (2, 4)), (RowFeature(((0, 0), (1, 0)), 2, 0, (0, 1)),)).key
    endpoints = list(torch.randint(5, (2, EDGES)))

    def run(vectors: Tensor) -> Tensor:
        """Numbers that do not depend on the rotation of a frame about its edge."""
        rotation = EdgeFrame(vectors).rotation(1, -1)
        axial, around = to_rows(layout, [x], [rotation], endpoints, EDGES)
        return torch.cat([axial, around.square().sum(1, keepdim=True)])

    assert torch.autograd.gradcheck(run, (vectors,))


def test_without_a_compiler_the_plain_form_is_used(monkeypatch):
    arguments = gathering((3, 1, 7))
    expected = TO_ROWS(*arguments)
    monkeypatch.setattr(native, "library", lambda *source: None)
    count = native.used()
    for a, b in zip(TO_ROWS(*arguments), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)
    assert native.used() == count


def test_features_stay_in_full_precision_under_autocast():
    features, turns, endpoints, edges, layout = gathering((3, 1, 7))
    features, turns = [x.float() for x in features], [x.float() for x in turns]
    expected = to_rows(layout, features, turns, endpoints, edges)
    with torch.autocast("cpu", torch.bfloat16):
        for a, b in zip(to_rows(layout, features, turns, endpoints, edges), expected, strict=True):
            assert torch.equal(a, b)
