"""The forms of the operator `pair_invariants`: values, gradients, and what they refuse."""

import pytest
import torch

from tests.ops.forms import (
    assert_forms_agree,
    assert_refuses_other_shapes,
    assert_registered,
)
from tracegrad.ops.errors import OperatorIndexError
from tracegrad.ops.gpu import triton
from tracegrad.ops.pair_invariants import PAIR_INVARIANTS, pair_invariants

pytestmark = pytest.mark.usefixtures("unchecked")
DST, SRC, OTHER = (torch.tensor(x) for x in ([0, 3, 0, 1, 1], [1, 0, 1, 1, 0], [1, 1, 0, 3, 3]))


def arguments(degrees=3, channels=5, pairs=5):
    x = torch.randn(degrees**2, 4, channels, dtype=torch.float64)
    return x, DST[:pairs], SRC[:pairs], OTHER[:pairs]


@pytest.mark.parametrize("sizes", [{}, {"degrees": 1}, {"channels": 1}, {"degrees": 5, "channels": 37}])
def test_all_forms_agree(sizes):
    """With repeated pairs, an item paired with itself, and an item (2) without pairs."""
    assert_forms_agree(PAIR_INVARIANTS, arguments(**sizes))


def test_no_pairs():
    assert_forms_agree(PAIR_INVARIANTS, arguments(pairs=0))


def test_indices_of_int32_and_transposed_features():
    x, *indices = arguments()
    assert_forms_agree(PAIR_INVARIANTS, (x.mT.contiguous().mT, *(index.int() for index in indices)))


def test_it_is_registered_as_torch_expects():
    assert_registered(PAIR_INVARIANTS, arguments())


def test_second_derivatives():
    x, *indices = arguments(2, 2)
    assert torch.autograd.gradgradcheck(lambda x: pair_invariants(x, *indices), x.requires_grad_())


def test_other_shapes_and_dtypes_are_refused():
    fit = arguments()
    assert_refuses_other_shapes(PAIR_INVARIANTS, fit, harmless=["x longer 1", "x longer 2", "x shorter 2"])
    with pytest.raises(ValueError, match="whole numbers"):
        PAIR_INVARIANTS(fit[0], fit[1].double(), *fit[2:])


@pytest.mark.parametrize("place", [1, 2, 3])
@pytest.mark.parametrize("value", [-1, 4, 2**40])
def test_indices_out_of_range(place, value):
    """An error on the CPU; on a GPU NaN in what would need the missing item."""
    fit = list(arguments())
    fit[place] = fit[place].clone()
    fit[place][1] = value
    with pytest.raises(OperatorIndexError, match="within 0"):
        PAIR_INVARIANTS(*fit)
    if triton() is None:
        return
    form, gradient = PAIR_INVARIANTS.forms["CUDA"]
    made = form(*fit)
    assert made[1].isnan().any()
    assert made[[0, 2, 3, 4]].isfinite().all()
    gradient([torch.randn(5, 20, dtype=torch.float64)], *fit, [True, False, False, False])
