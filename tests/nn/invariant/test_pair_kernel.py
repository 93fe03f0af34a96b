"""Products of pairs of channels: the kernel, its plain form, and a literal double loop."""

import pytest
import torch

from tracegrad.nn.invariant.pair_kernel import channel_pairs, pull_pairs
from tracegrad.ops import native

SCALES = [0.7, 1.3, 0.4]
KERNEL = pytest.mark.parametrize("kernel", ["1", "0"])


def make(layout: str) -> list[torch.Tensor]:
    """Three irreps of 1, 3 and 5 components with 5, 17 and 1 channels, in different memory layouts."""
    shapes = ((1, 5), (3, 17), (5, 1))
    if layout == "items first":
        parts = [torch.randn(4, m, c, dtype=torch.float64).transpose(0, 1) for m, c in shapes]
    elif layout == "every other channel":
        parts = [torch.randn(m, 4, 2 * c, dtype=torch.float64)[..., ::2] for m, c in shapes]
    else:
        parts = [torch.randn(m, 4, c, dtype=torch.float64) for m, c in shapes]
    return [part.detach().requires_grad_() for part in parts]


def literal(feature: list[torch.Tensor]) -> torch.Tensor:
    columns = [
        s * (f[:, :, i] * f[:, :, j]).sum(0)
        for f, s in zip(feature, SCALES, strict=True)
        for i in range(f.shape[2])
        for j in range(i, f.shape[2])
    ]
    return torch.stack(columns, dim=1)


@KERNEL
@pytest.mark.parametrize("layout", ["components first", "items first", "every other channel"])
def test_equals_a_double_loop(kernel, layout, monkeypatch):
    monkeypatch.setenv(native.SWITCH, kernel)
    feature = make(layout)
    x, expected = channel_pairs(feature, SCALES), literal(feature)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-13)
    g = torch.randn_like(x, requires_grad=True)
    v = pull_pairs(feature, SCALES, g)
    expected_v = torch.autograd.grad((expected * g).sum(), feature, create_graph=True)
    weights = [torch.randn_like(part) for part in v]
    gradients = [
        torch.autograd.grad(
            sum((a * b).sum() for a, b in zip(actual, weights, strict=True)), [g, *feature], retain_graph=True
        )
        for actual in (v, expected_v)
    ]
    for actual, reference in zip((*v, *gradients[0]), (*expected_v, *gradients[1]), strict=True):
        torch.testing.assert_close(actual, reference, rtol=0, atol=1e-12)


@KERNEL
def test_derivatives_to_second_order(kernel, monkeypatch):
    monkeypatch.setenv(native.SWITCH, kernel)
    feature = [part[:, :2, :3].detach().clone().requires_grad_() for part in make("components first")]
    g = torch.randn(2, 6 + 6 + 1, dtype=torch.float64, requires_grad=True)
    for function, inputs in (
        (lambda *f: channel_pairs(list(f), SCALES), feature),
        (lambda g, *f: tuple(pull_pairs(list(f), SCALES, g)), [g, *feature]),
    ):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


def test_threads_share_the_items(monkeypatch):
    monkeypatch.setattr(native, "SMALLEST_SHARE", 1)
    feature = make("items first")
    expected = channel_pairs(feature, SCALES), *pull_pairs(feature, SCALES, literal(feature))
    torch.set_num_threads(3)
    try:
        actual = channel_pairs(feature, SCALES), *pull_pairs(feature, SCALES, literal(feature))
    finally:
        torch.set_num_threads(1)
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)


@KERNEL
def test_no_items(kernel, monkeypatch):
    monkeypatch.setenv(native.SWITCH, kernel)
    feature = [part[:, :0] for part in make("components first")]
    x = channel_pairs(feature, SCALES)
    assert x.shape == (0, 15 + 153 + 1)
    assert [part.shape for part in pull_pairs(feature, SCALES, x)] == [part.shape for part in feature]
