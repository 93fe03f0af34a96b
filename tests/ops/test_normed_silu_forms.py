"""The forms of the operators `normed_silu` and `pulled_silu`: values, gradients, and what they refuse."""

import pytest
import torch

from tests.ops.forms import (
    assert_forms_agree,
    assert_refuses_other_dtypes,
    assert_refuses_other_shapes,
    assert_registered,
)
from tracegrad.ops.normed_silu import gpu
from tracegrad.ops.normed_silu.normed_silu import NORMED_SILU, PULLED_SILU

pytestmark = pytest.mark.usefixtures("unchecked")
EPS = 1e-3


def arguments(rows: int = 5, channels: int = 7, *, g: bool = True):
    """Of `PULLED_SILU`; those of `NORMED_SILU` have no g."""
    shapes = ((rows, channels), (channels,), (channels,), (rows, channels))
    x, weight, bias, given = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    return x, weight, bias, given if g else None, EPS


def without_g(x, weight, bias, _, eps):
    return x, weight, bias, eps


@pytest.mark.parametrize(("rows", "channels"), [(1, 2), (5, 7), (3, 300), (0, 4)])
def test_all_forms_agree(rows, channels, monkeypatch):
    """Also with more rows than programs on a GPU."""
    monkeypatch.setattr(gpu, "PROGRAMS", 2)
    fit = arguments(rows, channels)
    assert_forms_agree(NORMED_SILU, without_g(*fit), atol=1e-11)
    assert_forms_agree(PULLED_SILU, fit, atol=1e-11)


def test_without_g_it_is_one():
    x, weight, bias, _, eps = arguments()
    assert_forms_agree(PULLED_SILU, (x, weight, bias, None, eps))
    pulled = [PULLED_SILU(x, weight, bias, g, eps) for g in (None, torch.ones_like(x))]
    assert torch.equal(*pulled)


def test_strided_arguments():
    x, weight, bias, g, eps = arguments(6)
    strided = (x.T.contiguous().T, weight.expand(2, 7).T[:, 0], bias, g[::2].repeat_interleave(2, 0), eps)
    assert_forms_agree(PULLED_SILU, strided)
    assert_forms_agree(NORMED_SILU, without_g(*strided))


def test_they_are_registered_as_torch_expects():
    fit = [x.requires_grad_() if isinstance(x, torch.Tensor) else x for x in arguments()]
    assert_registered(NORMED_SILU, without_g(*fit))
    assert_registered(PULLED_SILU, fit)


def test_other_shapes_and_dtypes_are_refused():
    fit = arguments()
    for operator, given in ((NORMED_SILU, without_g(*fit)), (PULLED_SILU, fit)):
        # The plain form alone has a row of x for each row of g.
        assert_refuses_other_shapes(
            operator, given, harmless=["x none", "x shorter 0", "x longer 0"][: 3 * (len(given) == 4)]
        )
        assert_refuses_other_dtypes(operator, given)
