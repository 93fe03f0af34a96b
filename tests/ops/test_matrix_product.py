"""Products by oneDNN against the plain form, to second order, and the conditions under which each is used."""

import pytest
import torch

from tests.ops.forms import assert_refuses_other_dtypes, assert_refuses_other_shapes
from tracegrad.ops import matrix_product, native
from tracegrad.ops.matrix_product import LINEAR, linear, product


class Calls:
    """Counts the products that oneDNN computes."""

    def __init__(self):
        self.count, self.asked = 0, matrix_product._by_onednn

    def _by_onednn(self, *arguments):
        chosen = self.asked(*arguments)
        self.count += chosen
        return chosen

    def __enter__(self):
        matrix_product._by_onednn = self._by_onednn
        return self

    def __exit__(self, *_):
        matrix_product._by_onednn = self.asked


@pytest.fixture
def always(monkeypatch):
    """Use oneDNN for products of any size."""
    monkeypatch.setattr(matrix_product, "SMALLEST", 1)
    monkeypatch.setattr(matrix_product, "FEWEST_FOR_COPY", 0)


def layouts(*shape: int) -> list[torch.Tensor]:
    """The same numbers in row-major and column-major order, and with gaps."""
    x = torch.randn(shape)
    gaps = torch.randn(shape[0], 2 * shape[1])[:, ::2].copy_(x)
    return [x, x.T.contiguous().T, gaps]


@pytest.mark.parametrize("bias", [False, True])
def test_equals_double_precision_in_every_layout(always, bias):
    b = torch.randn(7) if bias else None
    for x in layouts(11, 5):
        for weight, count in zip(
            layouts(7, 5), (1, 1, 0), strict=True
        ):  # with gaps oneDNN would take very long
            with Calls() as calls:
                actual = linear(x, weight, b)
            assert calls.count == count
            expected = x.double() @ weight.double().T + (0 if b is None else b.double())
            torch.testing.assert_close(actual.double(), expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("shape", [(30, 4, 6), (30, 6, 4)])
def test_gradients_to_second_order(always, shape):
    n, c_in, c_out = shape
    drawn = [torch.randn(size) for size in ((n, c_in), (c_out, c_in), (c_out,), (n, c_out))]
    results = []
    for dtype in (torch.float32, torch.float64):
        *inputs, seed = (x.to(dtype).requires_grad_() for x in drawn)
        with Calls() as calls:
            out = linear(*inputs)
            first = torch.autograd.grad(out, inputs, seed, create_graph=True)
            plain = torch.autograd.grad(out, inputs, seed, retain_graph=True)
            second = torch.autograd.grad(sum(x.square().sum() for x in first), [*inputs[:2], seed])
        assert (calls.count > 0) is (dtype == torch.float32)
        results.append([out, *first, *plain, *second])
    for actual, expected in zip(*results, strict=True):
        expected = expected.detach()
        torch.testing.assert_close(
            actual.double(), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item()
        )


def test_double_precision_passes_the_checks_of_torch():
    x, weight = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (4, 2))
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(linear, (x, weight, bias))
    assert torch.autograd.gradgradcheck(linear, (x, weight, bias))
    assert torch.autograd.gradgradcheck(product, (x, weight.T))


def test_small_products_and_those_switched_off_are_plain(monkeypatch):
    x, weight = torch.randn(600, 300), torch.randn(400, 300)
    for count, switch in ((1, "1"), (0, "0")):
        monkeypatch.setenv(native.SWITCH, switch)
        with Calls() as calls:
            linear(x, weight)
            linear(x[:200], weight)
        assert calls.count == count
    assert torch.equal(linear(x, weight), torch.nn.functional.linear(x, weight))


def test_autocast_rounds_as_in_the_plain_form(always):
    x, weight = torch.randn(4, 3), torch.randn(5, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = linear(x, weight)
        assert torch.equal(actual, torch.nn.functional.linear(x, weight))
    assert actual.dtype == torch.bfloat16


def test_per_sample_gradients(always):
    x, weight = torch.randn(4, 3), torch.randn(5, 3, requires_grad=True)
    out = linear(x, weight)
    seeds = torch.eye(20).view(20, 4, 5)
    (actual,) = torch.autograd.grad(out, weight, seeds, is_grads_batched=True)
    torch.testing.assert_close(actual, torch.einsum("sno,ni->soi", seeds, x))


def test_no_rows(always):
    x, weight = torch.randn(0, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    out = linear(x, weight)
    assert out.shape == (0, 5)
    of_x, of_weight = torch.autograd.grad(out.sum(), (x, weight))
    assert of_x.shape == (0, 3)
    assert torch.equal(of_weight, torch.zeros(5, 3))


def test_layouts_that_onednn_does_not_take(always):
    x, weight = torch.randn(6, 5), torch.randn(7, 5)
    biases = [torch.randn(1).expand(7), torch.randn(14)[::2]]
    weights = [torch.randn(14, 9)[::2, :5], torch.randn(7, 1).expand(7, 5)]
    for w, b in [*((weight, b) for b in biases), *((w, None) for w in weights)]:
        assert torch.equal(linear(x, w, b), torch.nn.functional.linear(x, w, b))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_registered_as_torch_expects(always, bias):
    torch.library.opcheck(
        LINEAR.forward, (torch.randn(4, 3), torch.randn(5, 3), torch.randn(5) if bias else None)
    )


@pytest.mark.usefixtures("unchecked")
def test_other_shapes_and_dtypes_are_refused(always):
    fit = torch.randn(4, 3), torch.randn(5, 3), torch.randn(5)
    rows = [f"x {change}" for change in ("none", "shorter 0", "longer 0")]
    assert_refuses_other_shapes(LINEAR, fit, harmless=rows)
    assert_refuses_other_dtypes(LINEAR, [x.double() for x in fit])
