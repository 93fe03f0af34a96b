"""The kernels of Clebsch-Gordan products against their plain forms in torch."""

import logging

import pytest
import torch

from tracegrad.nn.component_first.tensor_product import ChannelwiseProduct, FilterProduct
from tracegrad.ops import native

DST = torch.tensor([0, 0, 1, 2, 2, 4, 4])
SRC = torch.tensor([1, 3, 0, 2, 4, 3, 3])
ROWS = torch.tensor([0, 1, 0, 2, 1, 2, 2])


@pytest.fixture(autouse=True)
def _compiler():
    """Skip these tests where there is no compiler: they would compare the plain form with itself."""
    if native.library("int one() { return 1; }") is None:
        pytest.skip("no C++ compiler")


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def cases(channels: int, dtype: torch.dtype = torch.float64):
    """(function, inputs that have gradients) for every way to use a product."""
    pairs, messages, first = ChannelwiseProduct(3), FilterProduct(3, 3), FilterProduct(0, 2)
    x = normal(16, 5, channels, dtype=dtype)
    other = normal(16, 5, channels, dtype=dtype)
    y = torch.randn(16, 7, dtype=dtype)
    by_pair, by_edge = (normal(n, pairs.n_paths, channels, dtype=dtype) for n in (3, 7))
    shared = normal(1, pairs.n_paths, channels, dtype=dtype)
    radial, per_atom = (normal(n, messages.n_paths, channels, dtype=dtype) for n in (3, 5))
    scalars, start = normal(1, 5, channels, dtype=dtype), normal(7, first.n_paths, channels, dtype=dtype)
    everywhere = torch.zeros(5, dtype=torch.long)
    edges = torch.stack([DST, SRC])
    yield (lambda a, b, w: pairs(a, b, [(w, everywhere)])), [x, other, shared]
    yield (
        lambda a, b, v, w: pairs(a, b, [(v, ROWS), (w, None)], (SRC, DST)),
        [x, other, by_pair, by_edge],
    )
    yield (lambda a, w: pairs(a, a, [(w, None)], (SRC, DST))), [x, by_edge]
    yield (lambda a, v, w: messages(a, y, [(v, ROWS), (w, DST)], edges)), [x, radial, per_atom]
    yield (lambda a, w: first(a, y[:9], [(w, None)], edges)), [scalars, start]


def run(call, inputs, weights=None):
    out = call(*inputs)
    if weights is None:
        weights = torch.randn_like(out)
    return out, torch.autograd.grad((out * weights).sum(), inputs), weights


@pytest.mark.parametrize("channels", [1, 8, 19])
@pytest.mark.parametrize("case", range(5))
def test_equals_the_plain_form(case, channels, monkeypatch):
    call, inputs = list(cases(channels))[case]
    before = native.used()
    out, gradients, weights = run(call, inputs)
    assert native.used() == before + 2  # forward and backward went through the kernel
    monkeypatch.setenv(native.SWITCH, "0")
    expected, expected_gradients, _ = run(call, inputs, weights)
    assert native.used() == before + 2
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    for actual, reference in zip(gradients, expected_gradients, strict=True):
        assert reference.abs().max() > 1e-3
        torch.testing.assert_close(actual, reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", range(5))
def test_single_precision(case, monkeypatch):
    call, inputs = list(cases(20, torch.float32))[case]
    out, gradients, weights = run(call, inputs)
    monkeypatch.setenv(native.SWITCH, "0")
    expected, expected_gradients, _ = run(call, inputs, weights)
    assert out.dtype == torch.float32
    for actual, reference in zip((out, *gradients), (expected, *expected_gradients), strict=True):
        torch.testing.assert_close(
            actual, reference, rtol=0, atol=3e-6 * float(reference.detach().abs().max())
        )


@pytest.mark.parametrize("case", range(5))
def test_first_and_second_derivatives(case):
    call, inputs = list(cases(2))[case]
    small = [x[..., :1].detach().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(call, small, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, small, fast_mode=True)


@pytest.mark.parametrize("case", range(5))
def test_gradients_with_a_graph_are_the_same(case):
    """Also where one tensor is both inputs and must get the sum of both gradients."""
    call, inputs = list(cases(3))[case]
    inputs = [x * 1 for x in inputs]  # not leaves, as in a network
    total = call(*inputs).sin().sum()
    plain, recorded = (
        torch.autograd.grad(total, inputs, create_graph=graph, retain_graph=True) for graph in (False, True)
    )
    for a, b in zip(plain, recorded, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_transformations_take_the_plain_form():
    linear = ChannelwiseProduct(2)
    x, w = normal(9, 4, 3), normal(4, linear.n_paths, 3)

    def total(x: torch.Tensor) -> torch.Tensor:
        return linear(x, x, [(w, None)]).sin().sum()

    (expected,) = torch.autograd.grad(total(x), x)
    torch.testing.assert_close(torch.func.grad(total)(x), expected)
    hessian = torch.autograd.functional.hessian(total, x, vectorize=True)
    again = torch.autograd.functional.hessian(total, x)
    torch.testing.assert_close(hessian, again, rtol=0, atol=1e-12)


def test_indices_of_another_type_or_layout():
    product = ChannelwiseProduct(2)
    x, w = normal(9, 5, 3), normal(7, product.n_paths, 3)
    expected = product(x, x, [(w, None)], (SRC, DST))
    strided = torch.stack([SRC, DST], dim=1).T
    for ends in ((SRC.int(), DST.int()), (strided[0], strided[1])):
        assert torch.equal(product(x, x, [(w, None)], ends), expected)


@pytest.mark.usefixtures("unchecked")
def test_shapes_and_indices_that_do_not_fit_are_refused():
    product = ChannelwiseProduct(2)
    x, w = normal(9, 5, 3), normal(7, product.n_paths, 3)
    far = SRC.clone()
    far[3] = 600
    with pytest.raises(IndexError, match=r"within 0 \.\. 4"):
        product(x, x, [(w, None)], (far, DST))
    for b, weights in (
        (normal(9, 5, 8), w),
        (normal(4, 5, 3), w),
        (x, w[:1]),
        (x, w[:, :2]),
        (x, w[..., :2]),
    ):
        with pytest.raises(ValueError, match=r"instead of|without an index"):
            product(x, b, [(weights, None)], (SRC, DST))


def test_threads_share_the_channels(monkeypatch):
    monkeypatch.setattr(native, "SMALLEST_SHARE", 1)
    call, inputs = list(cases(37))[1]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        out, gradients, weights = run(call, inputs)
        torch.set_num_threads(3)
        again, gradients_again, _ = run(call, inputs, weights)
    finally:
        torch.set_num_threads(before)
    for one, other in zip((out, *gradients), (again, *gradients_again), strict=True):
        assert torch.equal(one, other)


def test_harmonics_that_need_a_gradient_have_one():
    product = FilterProduct(2, 2)
    x, y, w = normal(9, 5, 3), normal(9, 7), normal(7, product.n_paths, 3)
    edges = torch.stack([DST, SRC])
    assert torch.autograd.gradcheck(
        lambda x, y, w: product(x, y, [(w, None)], edges), (x, y, w), fast_mode=True
    )


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("compiler", "message"),
    [("/nowhere/c++", "/nowhere/c++"), ("false", "returned non-zero exit status"), ("", "no C++ compiler")],
)
def test_without_a_compiler_the_plain_form_is_used_with_one_warning(
    compiler, message, monkeypatch, caplog, tmp_path
):
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if not compiler:
        monkeypatch.setenv("PATH", str(tmp_path))
    for call, inputs in cases(4):
        with caplog.at_level(logging.WARNING):
            assert call(*inputs).isfinite().all()
    assert len(caplog.records) == 1
    assert message in caplog.text
    assert "several times slower" in caplog.text
