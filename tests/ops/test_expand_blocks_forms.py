"""The forms of the operator `expand_blocks`: values, gradients, and what they refuse."""

import pytest
import torch

from tests.ops.forms import (
    assert_forms_agree,
    assert_refuses_other_dtypes,
    assert_refuses_other_shapes,
    assert_registered,
)
from tracegrad.ops.errors import OperatorIndexError
from tracegrad.ops.expansion.expand import EXPAND_BLOCKS, expand_blocks
from tracegrad.ops.expansion.shells import ExpansionShells
from tracegrad.ops.gpu import triton

pytestmark = pytest.mark.usefixtures("unchecked")
KIND = torch.tensor([2, 0, 0, 3, 0])  # no item of kind 1, several of kind 0


def arguments(lmax=2, channels=5, shells=(0, 0, 1), items=5, kinds=4):
    tables = ExpansionShells(lmax, channels, shells)
    key = tables.key
    x, weights, bias = (
        torch.randn(*shape, dtype=torch.float64)
        for shape in (
            ((lmax + 1) ** 2, items, channels),
            (kinds, channels * tables.mixtures),
            (kinds, tables.multiplicities[0]),
        )
    )
    return x, weights, bias, KIND[:items], key


@pytest.mark.parametrize(
    "sizes", [{}, {"channels": 1}, {"items": 0}, {"lmax": 3, "shells": (1,)}, {"lmax": 4, "shells": (0, 2)}]
)
def test_all_forms_agree(sizes):
    """Also for degrees to which no pair of shells couples, which get no gradient."""
    assert_forms_agree(EXPAND_BLOCKS, arguments(**sizes))


def test_more_items_of_a_kind_than_a_step_takes():
    _, weights, bias, _, key = arguments(1, 2, (0, 1), 1)
    kind = torch.zeros(70, dtype=torch.int32)
    kind[3] = 1
    assert_forms_agree(EXPAND_BLOCKS, (torch.randn(4, 70, 2, dtype=torch.float64), weights, bias, kind, key))


def test_it_is_registered_as_torch_expects():
    assert_registered(EXPAND_BLOCKS, arguments())


def test_second_derivatives():
    *inputs, kind, key = arguments(1, 2, (0, 1))
    for x in inputs:
        x.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda *inputs: expand_blocks(*inputs, kind, key), inputs)


def test_other_shapes_and_dtypes_are_refused():
    fit = arguments()
    assert_refuses_other_shapes(EXPAND_BLOCKS, fit)
    assert_refuses_other_dtypes(EXPAND_BLOCKS, fit)


@pytest.mark.parametrize("value", [-1, 4, 2**40])
def test_kinds_out_of_range(value):
    """An error on the CPU; on a GPU NaN in the block of the item."""
    fit = list(arguments())
    fit[3] = fit[3].clone()
    fit[3][1] = value
    with pytest.raises(OperatorIndexError, match="within 0"):
        EXPAND_BLOCKS(*fit)
    if triton() is None:
        return
    form, gradient = EXPAND_BLOCKS.forms["CUDA"]
    made = form(*fit)
    assert made[1].isnan().all()
    assert made[[0, 2, 3, 4]].isfinite().all()
    (of_x,) = gradient([torch.randn(5, 5, 5, dtype=torch.float64)], *fit, [True, False, False, False])
    assert of_x[:, 1].isnan().all()
    assert of_x[:, [0, 2, 3, 4]].isfinite().all()
