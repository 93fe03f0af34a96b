"""The forms of the operator `irreps_linear`."""

import pytest
import torch

from tests.ops.forms import (
    assert_forms_agree,
    assert_refuses_other_dtypes,
    assert_refuses_other_shapes,
    assert_registered,
)
from tracegrad.ops.errors import OperatorIndexError
from tracegrad.ops.gpu import triton
from tracegrad.ops.irreps_linear import gpu
from tracegrad.ops.irreps_linear.irreps_linear import IRREPS_LINEAR

pytestmark = pytest.mark.usefixtures("unchecked")
CHANNELS = ((4, 5), (2, 1), (3, 3))  # of x and of the result


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch):
    """The interpreter runs one program after another."""
    for name, value in (("PARTS", 3), ("ROWS", 16), ("TILE", 16)):
        monkeypatch.setattr(gpu, name, value)


def arguments(items=7, kinds=1, channels=CHANNELS):
    """Kind 1 has no items."""
    dims = (1, 3, 1)
    x = [torch.randn(items, m, c, dtype=torch.float64) for m, (c, _) in zip(dims, channels, strict=True)]
    weights = [torch.randn(c, w, dtype=torch.float64) for _ in range(kinds) for c, w in channels]
    plus = [
        torch.randn(items, m, w, dtype=torch.float64) if m > 1 else None
        for m, (_, w) in zip(dims, channels, strict=True)
    ]
    kind = torch.tensor([0, 2, 2, 0, 2, 0, 2])[:items] if kinds > 1 else None
    return x, weights, [torch.randn(channels[0][1]).double(), None, None], plus, kind, 0.7


@pytest.mark.parametrize("kinds", [1, 3])
@pytest.mark.parametrize("items", [7, 0])
def test_all_forms_agree(items, kinds):
    assert_forms_agree(IRREPS_LINEAR, arguments(items, kinds))


@pytest.mark.slow
def test_more_channels_than_a_program_takes():
    given = arguments(20, 1, ((20, 33), (1, 40), (17, 3)))
    assert_forms_agree(IRREPS_LINEAR, given)


@pytest.mark.parametrize("kinds", [1, 3])
def test_it_is_registered_as_torch_expects(kinds):
    x, weights, *others = arguments(7, kinds)
    assert_registered(IRREPS_LINEAR, ([y.requires_grad_() for y in x], weights, *others))


@pytest.mark.parametrize("kinds", [1, 3])
def test_other_shapes_and_dtypes_are_refused(kinds):
    given = arguments(7, kinds)
    # A feature to which nothing is added may have any number of components and of channels.
    assert_refuses_other_shapes(
        IRREPS_LINEAR, given, harmless=["x shorter 1", "x longer 1", "weights shorter 1", "weights longer 1"]
    )
    assert_refuses_other_dtypes(IRREPS_LINEAR, given)


@pytest.mark.parametrize("value", [-1, 3])
def test_kinds_that_do_not_exist(value):
    """An error on the CPU; on a GPU the results are NaN."""
    given = arguments(7, 3)
    given[4][1] = value
    with pytest.raises(OperatorIndexError, match=r"kind: an entry is"):
        IRREPS_LINEAR(*given)
    if triton() is not None:
        for y in IRREPS_LINEAR.forms["CUDA"][0](*given):
            assert y[1].isnan().all()
            assert y[[0, 2, 3, 4, 5, 6]].isfinite().all()
