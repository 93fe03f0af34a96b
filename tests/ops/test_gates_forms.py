"""The forms of the operator `gates`."""

import pytest
import torch

from tests.ops.forms import (
    assert_forms_agree,
    assert_refuses_other_dtypes,
    assert_refuses_other_shapes,
    assert_registered,
)
from tracegrad.ops.gates import gpu
from tracegrad.ops.gates.gates import GATES

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch):
    """The interpreter runs one program after another."""
    monkeypatch.setattr(gpu, "CHANNELS", 4)


def arguments(items=5):
    """The gates belong to two irreps that are not adjacent; tanh gets columns of a wider tensor."""
    x = [
        torch.randn(items, 3, dtype=torch.float64),
        torch.randn(items, 9, dtype=torch.float64)[:, 2:4],
        torch.randn(items, 7, dtype=torch.float64),
    ]
    scale = torch.randn(items, 12, dtype=torch.float64)
    return x, scale, [2, 3, 2, 5], [2, 0, 1, 2], "silu tanh sigmoid", [1.5, 0.7, 1.8]


@pytest.mark.parametrize("items", [5, 20, 0])
def test_all_forms_agree(items):
    assert_forms_agree(GATES, arguments(items))


def test_it_is_registered_as_torch_expects():
    x, scale, *others = arguments()
    assert_registered(GATES, ([y.requires_grad_() for y in x], scale.requires_grad_(), *others))


def test_other_shapes_and_dtypes_are_refused():
    assert_refuses_other_shapes(GATES, arguments())
    assert_refuses_other_dtypes(GATES, arguments())
