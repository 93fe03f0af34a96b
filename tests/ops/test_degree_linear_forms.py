"""The forms of the operator `degree_linear`: values, gradients, and what they refuse."""

import pytest
import torch

from tests.ops.forms import (
    assert_forms_agree,
    assert_refuses_other_dtypes,
    assert_refuses_other_shapes,
    assert_registered,
)
from tracegrad.ops.degree_linear import DEGREE_LINEAR

pytestmark = pytest.mark.usefixtures("unchecked")


def arguments(degrees=3, items=5, c_in=3, c_out=4, *, bias=True):
    return (
        torch.randn(degrees**2, items, c_in, dtype=torch.float64),
        torch.randn(degrees, c_in, c_out, dtype=torch.float64),
        torch.randn(c_out, dtype=torch.float64) if bias else None,
        0.7,
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "sizes", [{}, {"degrees": 1, "c_in": 1}, {"items": 0}, {"items": 1, "c_in": 40, "c_out": 33}]
)
def test_all_forms_agree(sizes, bias):
    assert_forms_agree(DEGREE_LINEAR, arguments(**sizes, bias=bias))


@pytest.mark.parametrize("c_out", [4, 400])
def test_transposed_features(c_out):
    x, *others = arguments(c_out=c_out)
    assert_forms_agree(DEGREE_LINEAR, (x.mT.contiguous().mT, *others))


def test_it_is_registered_as_torch_expects():
    assert_registered(DEGREE_LINEAR, arguments())


def test_other_shapes_and_dtypes_are_refused():
    fit = arguments()
    assert_refuses_other_shapes(DEGREE_LINEAR, fit, harmless=["x longer 1", "x shorter 1"])
    assert_refuses_other_dtypes(DEGREE_LINEAR, fit)
