"""Inner and crossed products of terms: the kernel, its plain form, and autograd of the definition."""

import pytest
import torch

from tracegrad.nn.invariant.term_kernel import add_inner, add_inner_with_derivative, crossed, crossed_with_sum
from tracegrad.ops import native

SCALE = 0.6
KERNEL = pytest.mark.parametrize("kernel", ["1", "0"])


def make() -> tuple[torch.Tensor, ...]:
    """x and y of 4 components, 3 items and 19 terms, and two factors."""
    x, y = torch.randn(2, 4, 3, 2, 19, dtype=torch.float64)
    return x, y, *torch.randn(2, 3, 19, dtype=torch.float64)


def definition(x: torch.Tensor) -> torch.Tensor:
    return SCALE * torch.einsum("knt,knt->nt", x[:, :, 0], x[:, :, 1])


@KERNEL
def test_inner_products_and_their_derivative_are_added(kernel, monkeypatch):
    monkeypatch.setenv(native.SWITCH, kernel)
    x, y, *start = make()
    expected = torch.func.jvp(definition, (x,), (y,))
    u = start[0].clone()
    add_inner(u, x, SCALE)
    torch.testing.assert_close(u, start[0] + expected[0], rtol=0, atol=1e-13)
    actual = [part.clone() for part in start]
    add_inner_with_derivative(*actual, x, y, SCALE)
    for part, before, added in zip(actual, start, expected, strict=True):
        torch.testing.assert_close(part, before + added, rtol=0, atol=1e-13)


@KERNEL
def test_crossed_terms_are_gradients(kernel, monkeypatch):
    monkeypatch.setenv(native.SWITCH, kernel)
    x, y, factor, factor_x = make()

    def gradient(x: torch.Tensor, of_u: torch.Tensor) -> torch.Tensor:
        return torch.func.vjp(definition, x)[1](of_u)[0]

    out = torch.full_like(x, torch.nan)
    crossed(out, x, factor, SCALE)
    torch.testing.assert_close(out, gradient(x, factor), rtol=0, atol=1e-13)
    both = torch.full((2, *x.shape), torch.nan, dtype=x.dtype)
    crossed_with_sum(both, x, y, factor, factor_x, SCALE)
    expected = torch.stack([out, gradient(x, factor_x) + gradient(y, factor)])
    torch.testing.assert_close(both, expected, rtol=0, atol=1e-13)


def test_threads_share_the_items(monkeypatch):
    x, y, factor, factor_x = make()
    results = []
    monkeypatch.setattr(native, "SMALLEST_SHARE", 1)
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            both = torch.empty(2, *x.shape, dtype=x.dtype)
            crossed_with_sum(both, x, y, factor, factor_x, SCALE)
            sums = torch.zeros(2, *factor.shape, dtype=x.dtype)
            add_inner_with_derivative(*sums, x, y, SCALE)
            results.append((both, sums))
        finally:
            torch.set_num_threads(1)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
