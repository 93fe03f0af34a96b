"""The forms of the operators `channel_pairs` and `pulled_pairs`: values, gradients, and what they refuse."""

import pytest
import torch

from tests.ops.forms import (
    assert_forms_agree,
    assert_refuses_other_dtypes,
    assert_refuses_other_shapes,
    assert_registered,
)
from tracegrad.ops.channel_pairs import gpu
from tracegrad.ops.channel_pairs.channel_pairs import CHANNEL_PAIRS, PULLED_PAIRS
from tracegrad.ops.gpu import triton

pytestmark = pytest.mark.usefixtures("unchecked")
SCALES = [0.7, 1.3, 0.4, 0.9, 1.1]
SHAPES = ((1, 5), (3, 17), (5, 1), (3, 4), (5, 8))  # components and channels of an irrep


def arguments(layout: str = "components first", items: int = 3):
    """Irreps of 1, 3 and 5 components in different memory layouts, g, and factors."""
    if layout == "items first":
        parts = [torch.randn(items, m, c, dtype=torch.float64).transpose(0, 1) for m, c in SHAPES]
    elif layout == "every other channel":
        parts = [torch.randn(m, items, 2 * c, dtype=torch.float64)[..., ::2] for m, c in SHAPES]
    else:
        parts = [torch.randn(m, items, c, dtype=torch.float64) for m, c in SHAPES]
    return parts, torch.randn(items, 15 + 153 + 1 + 10 + 36, dtype=torch.float64), SCALES


@pytest.mark.parametrize(
    "layout",
    [
        "components first",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("items first", "every other channel")),
    ],
)
def test_all_forms_agree(layout, monkeypatch):
    """Also where an irrep needs several programs on a GPU."""
    monkeypatch.setattr(gpu, "PAIRS", 64)
    monkeypatch.setattr(gpu, "CHANNELS", 8)
    gpu.source.cache_clear()
    feature, g, scales = arguments(layout)
    assert_forms_agree(CHANNEL_PAIRS, (feature, scales))
    assert_forms_agree(PULLED_PAIRS, (feature, g, scales))
    gpu.source.cache_clear()


def test_pairs_are_those_of_a_double_loop():
    feature, _, scales = arguments()
    columns = [
        s * (f[:, :, i] * f[:, :, j]).sum(0)
        for f, s in zip(feature, scales, strict=True)
        for i in range(f.shape[2])
        for j in range(i, f.shape[2])
    ]
    expected = torch.stack(columns, dim=1)
    for form in (CHANNEL_PAIRS.plain, CHANNEL_PAIRS):
        torch.testing.assert_close(form(feature, scales), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("channels", [1, 2, 63])
def test_numbers_of_pairs_on_a_gpu(channels):
    """Which i and j belong to a pair is computed with a square root."""
    if triton() is None:
        pytest.skip("Triton is not installed")
    feature = [torch.randn(1, 1, channels, dtype=torch.float64)]
    (row,) = feature[0][0]
    i, j = torch.triu_indices(channels, channels)
    torch.testing.assert_close(gpu.channel_pairs(feature, [1.0])[0], row[i] * row[j], rtol=0, atol=1e-13)


def test_no_items():
    feature, g, scales = arguments(items=0)
    assert_forms_agree(CHANNEL_PAIRS, (feature, scales))
    assert_forms_agree(PULLED_PAIRS, (feature, g, scales))


def test_the_pulled_vector_has_the_strides_of_the_feature():
    feature, g, scales = arguments("items first")
    assert [v.stride() for v in PULLED_PAIRS(feature, g, scales)] == [f.stride() for f in feature]


def test_they_are_registered_as_torch_expects():
    feature, g, scales = arguments("items first", 2)
    leaves = [f.requires_grad_() for f in feature]
    assert_registered(CHANNEL_PAIRS, (leaves, scales))
    assert_registered(PULLED_PAIRS, (leaves, g.requires_grad_(), scales))


def test_other_shapes_and_dtypes_are_refused():
    feature, g, scales = arguments()
    more_components = ["feature shorter 0", "feature longer 0"]  # fit any number of channels
    assert_refuses_other_shapes(
        CHANNEL_PAIRS, (feature, scales), harmless=[*more_components, "feature shorter 2", "feature longer 2"]
    )
    assert_refuses_other_shapes(PULLED_PAIRS, (feature, g, scales), harmless=more_components)
    assert_refuses_other_dtypes(PULLED_PAIRS, (feature, g, scales))


def test_derivatives_to_second_order():
    feature, g, scales = arguments(items=2)
    parts = [f[:, :, :3].clone().requires_grad_() for f in feature]
    g = g[:, : 6 + 6 + 1 + 6 + 6].clone().requires_grad_()
    for function, inputs in (
        (lambda *f: CHANNEL_PAIRS(f, scales), parts),
        (lambda g, *f: tuple(PULLED_PAIRS(f, g, scales)), [g, *parts]),
    ):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)
