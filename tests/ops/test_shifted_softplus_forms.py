"""The forms of the operator `shifted_softplus`."""

import pytest
import torch

from tests.ops.forms import assert_forms_agree, assert_registered
from tracegrad.ops.shifted_softplus import SHIFTED_SOFTPLUS, shifted_softplus

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.parametrize("shape", [(5, 7), (0, 3), (1,), (40, 20)])
def test_all_forms_agree(shape):
    assert_forms_agree(SHIFTED_SOFTPLUS, (torch.randn(shape, dtype=torch.float64), 0.7, 1.3))


def test_large_numbers_and_transposed_ones():
    x = torch.linspace(-800, 800, 60, dtype=torch.float64).view(6, 10).T
    assert_forms_agree(SHIFTED_SOFTPLUS, (x, 0.5, 1.0))


def test_it_is_registered_as_torch_expects():
    assert_registered(SHIFTED_SOFTPLUS, (torch.randn(3, 2, dtype=torch.float64), 0.7, 1.3))


def test_second_derivatives():
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: shifted_softplus(x, 0.7, 1.3), x)
