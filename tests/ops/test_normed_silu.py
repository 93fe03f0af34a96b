"""silu of a layer norm and the transpose of its Jacobian: the kernels against autograd of plain torch."""

import pytest
import torch
from torch.nn.functional import layer_norm, silu

from tracegrad.ops import native
from tracegrad.ops.normed_silu.normed_silu import normed_silu, pulled_silu

EPS = 1e-3
KERNEL = pytest.mark.parametrize("kernel", ["1", "0"])


def make(rows: int, channels: int, dtype=torch.float64) -> list[torch.Tensor]:
    shapes = ((rows, channels), (channels,), (channels,), (rows, channels), (rows, channels))
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def both(x, weight, bias, g) -> tuple[torch.Tensor, torch.Tensor]:
    return normed_silu(x, weight, bias, EPS), pulled_silu(x, weight, bias, g, EPS)


def by_autograd(x, weight, bias, g) -> tuple[torch.Tensor, torch.Tensor]:
    y = silu(layer_norm(x, weight.shape, weight, bias, EPS))
    (pulled,) = torch.autograd.grad(y, x, g, create_graph=True)
    return y, pulled


def with_gradients(function, x, weight, bias, g, k) -> list[torch.Tensor]:
    inputs = [x, weight, bias, g]
    y, pulled = function(*inputs)
    of_y = torch.autograd.grad(y, inputs[:3], k, retain_graph=True)
    return [y, pulled, *of_y, *torch.autograd.grad(pulled, inputs, k)]


@KERNEL
@pytest.mark.parametrize("channels", [2, 7, 37])
def test_equals_autograd_to_second_order(kernel, channels, monkeypatch):
    monkeypatch.setenv(native.SWITCH, kernel)
    inputs = make(5, channels)
    for actual, expected in zip(
        with_gradients(both, *inputs), with_gradients(by_autograd, *inputs), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_single_precision_is_as_close_as_plain_torch():
    inputs = make(50, 300, torch.float32)
    expected = with_gradients(by_autograd, *(x.detach().double().requires_grad_() for x in inputs))
    errors = [
        [((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(actual, expected, strict=True)]
        for actual in (with_gradients(both, *inputs), with_gradients(by_autograd, *inputs))
    ]
    for of_kernel, of_torch in zip(*errors, strict=True):
        assert of_kernel < max(2 * of_torch, 5e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sigmoid_over_its_whole_range(dtype):
    """For a row of zeros y is silu of the bias."""
    a = torch.cat([torch.linspace(-110, 110, 20_001), torch.tensor([0.0, 1e-30, -1e-30])]).to(dtype)
    x = torch.zeros(1, len(a), dtype=dtype)
    y = normed_silu(x, torch.ones_like(a), a, EPS)
    wide = a.double()
    expected = wide / (1 + torch.exp(-wide))
    scale = 1e-13 if dtype == torch.float64 else 1e-6
    assert bool(((y[0].double() - expected).abs() <= scale * expected.abs() + 1e-35).all())


def test_nan_stays_in_its_row():
    x, weight, bias, g, _ = (t.detach().float() for t in make(3, 4))
    x[1, 2] = torch.nan
    y, pulled = both(x, weight, bias, g)
    for actual in (y, pulled):
        assert torch.equal(actual.isnan().all(1), torch.tensor([False, True, False]))


@KERNEL
def test_derivatives_to_second_order(kernel, monkeypatch):
    monkeypatch.setenv(native.SWITCH, kernel)
    *inputs, _ = make(2, 3)
    assert torch.autograd.gradcheck(both, inputs)
    assert torch.autograd.gradgradcheck(both, inputs)


def test_threads_share_the_rows(monkeypatch):
    monkeypatch.setattr(native, "SMALLEST_SHARE", 1)
    inputs = make(7, 5)
    expected = with_gradients(both, *inputs)
    torch.set_num_threads(3)
    try:
        actual = with_gradients(both, *inputs)
    finally:
        torch.set_num_threads(1)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)


def test_strided_rows_and_no_rows():
    x, weight, bias, g, k = make(6, 4)
    strided = [t.detach()[::2].requires_grad_() for t in (x, g)]
    actual = with_gradients(both, strided[0], weight, bias, strided[1], k[::2])
    expected = with_gradients(by_autograd, strided[0], weight, bias, strided[1], k[::2])
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    for part in with_gradients(both, x[:0], weight, bias, g[:0], k[:0]):
        assert not part.count_nonzero()


def test_backward_inside_autocast():
    x, weight, bias, g, k = make(4, 6)
    y, pulled = both(x, weight, bias, g)
    expected = [torch.autograd.grad(out, x, k, retain_graph=True)[0] for out in (y, pulled)]
    with torch.autocast("cpu"):
        actual = [torch.autograd.grad(out, x, k)[0] for out in (y, pulled)]
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)
