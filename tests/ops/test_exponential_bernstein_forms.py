"""The forms of the operator `exponential_bernstein`: values, gradients, and what they refuse."""

import pytest
import torch

from tests.ops.forms import (
    assert_forms_agree,
    assert_refuses_other_dtypes,
    assert_refuses_other_shapes,
    assert_registered,
)
from tracegrad.ops.exponential_bernstein import EXPONENTIAL_BERNSTEIN, exponential_bernstein

pytestmark = pytest.mark.usefixtures("unchecked")


def arguments(n=9, count=5, alpha=-0.4):
    r = torch.linspace(0.3, 7, n, dtype=torch.float64)
    return r, torch.tensor(alpha, dtype=torch.float64), 6.0, count


@pytest.mark.parametrize("sizes", [{}, {"n": 0}, {"count": 1}, {"n": 70, "count": 16}, {"alpha": 25.0}])
def test_all_forms_agree(sizes):
    """Inside and outside the cutoff."""
    assert_forms_agree(EXPONENTIAL_BERNSTEIN, arguments(**sizes))


def test_small_distances():
    _, *others = arguments()
    assert_forms_agree(EXPONENTIAL_BERNSTEIN, (torch.logspace(-6, -1, 30, dtype=torch.float64), *others))


def test_it_is_registered_as_torch_expects():
    assert_registered(EXPONENTIAL_BERNSTEIN, arguments())


def test_second_derivatives():
    r, alpha, *others = arguments(4)
    inputs = r.requires_grad_(), alpha.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda r, alpha: exponential_bernstein(r, alpha, *others), inputs)


def test_other_shapes_and_dtypes_are_refused():
    assert_refuses_other_shapes(
        EXPONENTIAL_BERNSTEIN, arguments(), harmless=["r longer 0", "r shorter 0", "r none"]
    )
    assert_refuses_other_dtypes(EXPONENTIAL_BERNSTEIN, arguments())
