"""The forms of the operators `channel_norms` and `gated`: values, gradients, and what they refuse."""

import pytest
import torch

from tests.ops.forms import (
    assert_forms_agree,
    assert_refuses_other_dtypes,
    assert_refuses_other_shapes,
    assert_registered,
)
from tracegrad.ops.norm_gate import CHANNEL_NORMS, GATED, channel_norms

pytestmark = pytest.mark.usefixtures("unchecked")
BOTH = pytest.mark.parametrize("operator", [CHANNEL_NORMS, GATED], ids=lambda operator: operator.name)


def arguments(operator, degrees=3, items=5, channels=7):
    x = torch.randn(degrees**2, items, channels, dtype=torch.float64)
    x[1:4, -1:] = 0
    gates = torch.randn(items, degrees * channels, dtype=torch.float64)
    return (x,) if operator is CHANNEL_NORMS else (x, gates)


@BOTH
@pytest.mark.parametrize("sizes", [(3, 5, 7), (1, 2, 1), (5, 1, 3), (2, 0, 4), (2, 70, 9)])
def test_all_forms_agree(operator, sizes):
    """Also at norms that are zero, and for more numbers than one program takes."""
    assert_forms_agree(operator, arguments(operator, *sizes))


@BOTH
def test_transposed_features(operator):
    x, *others = arguments(operator)
    assert_forms_agree(operator, (x.mT.contiguous().mT, *others))


@BOTH
def test_it_is_registered_as_torch_expects(operator):
    assert_registered(operator, arguments(operator))


@BOTH
def test_other_shapes_and_dtypes_are_refused(operator):
    fit = arguments(operator)
    sizes = [f"x {kind} {dim}" for kind in ("longer", "shorter") for dim in (1, 2)]
    assert_refuses_other_shapes(operator, fit, harmless=sizes if operator is CHANNEL_NORMS else [])
    if operator is GATED:
        assert_refuses_other_dtypes(operator, fit)


def test_second_derivatives():
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(channel_norms, x)
