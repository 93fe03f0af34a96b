"""Spherical harmonics against e3nn's, and the forms of their operator."""

import pytest
import torch
from e3nn import o3

from tests.ops.forms import assert_forms_agree, assert_refuses_other_shapes, assert_registered
from tracegrad.ops.spherical_harmonics import SPHERICAL_HARMONICS, spherical_harmonics

pytestmark = pytest.mark.usefixtures("unchecked")


def vectors(n=9):
    x = torch.randn(n, 3, dtype=torch.float64)
    x[:2] *= 1e3
    return x


def of_e3nn(x, lmax):
    """With e3nn's polar axis y this gives the usual order of m."""
    return o3.spherical_harmonics(list(range(lmax + 1)), x[:, [1, 2, 0]], True, normalization="component").T


@pytest.mark.parametrize("lmax", range(1, 9))
def test_equals_e3nn_with_derivatives(lmax):
    x = torch.cat([vectors(), torch.eye(3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)])
    x.requires_grad_()
    weights = torch.randn((lmax + 1) ** 2, len(x), dtype=torch.float64)
    values, gradients = [], []
    for function in (spherical_harmonics, of_e3nn):
        y = function(x, lmax)
        values.append(y)
        gradients.append(torch.autograd.grad((y * weights).sum(), x)[0])
    torch.testing.assert_close(*values, rtol=0, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("lmax", [0, 1, 2, 4])
@pytest.mark.parametrize("n", [0, 1, 150])
def test_all_forms_agree(lmax, n):
    assert_forms_agree(SPHERICAL_HARMONICS, (vectors(n), lmax))


def test_the_zero_vector():
    x = torch.zeros(2, 3, dtype=torch.float64)
    form, gradient = SPHERICAL_HARMONICS.forms["CPU"]
    assert torch.equal(form(x, 3), SPHERICAL_HARMONICS.plain(x, 3))
    g = [torch.randn(16, 2, dtype=torch.float64)]
    expected = SPHERICAL_HARMONICS.plain_gradient(g, x, 3, [True])[0]
    torch.testing.assert_close(gradient(g, x, 3, [True])[0], expected)


def test_it_is_registered_as_torch_expects():
    assert_registered(SPHERICAL_HARMONICS, (vectors(), 2))


def test_second_derivatives():
    x = vectors(3).div(300).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: spherical_harmonics(x, 3), x)


def test_other_shapes_are_refused():
    assert_refuses_other_shapes(
        SPHERICAL_HARMONICS,
        (vectors(), 2),
        harmless=["vectors longer 0", "vectors shorter 0", "vectors none"],
    )
