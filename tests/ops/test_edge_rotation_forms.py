"""The forms of the operator `edge_rotation`."""

import pytest
import torch
from e3nn.o3 import Irrep

from tests.ops.forms import (
    assert_forms_agree,
    assert_refuses_other_shapes,
    assert_registered,
)
from tracegrad.ops.edge_rotation.edge_rotation import EDGE_ROTATION
from tracegrad.ops.errors import OperatorArgumentError

pytestmark = pytest.mark.usefixtures("unchecked")


def arguments(irrep="1e", edges=5):
    """Edges of any direction, along an axis or almost, and without a direction."""
    vectors = torch.randn(5, 3, dtype=torch.float64)
    vectors[1:4] = torch.tensor([[0, 0, 0], [0, 0, -2.0], [1e-170, -2e-170, 3]], dtype=torch.float64)
    ir = Irrep(irrep)
    return vectors[:edges], ir.l, ir.p


@pytest.mark.parametrize(("irrep", "edges"), [("1o", 5), ("1e", 5), ("3o", 5), ("3e", 4), ("2e", 0)])
def test_all_forms_agree(irrep, edges):
    assert_forms_agree(EDGE_ROTATION, arguments(irrep, edges))


def test_it_is_registered_as_torch_expects():
    vectors, degree, parity = arguments()
    assert_registered(EDGE_ROTATION, (vectors.requires_grad_(), degree, parity))


def test_other_shapes_are_refused():
    harmless = ["vectors none", "vectors shorter 0", "vectors longer 0"]
    assert_refuses_other_shapes(EDGE_ROTATION, arguments(), harmless=harmless)


@pytest.mark.parametrize(("degree", "parity"), [(-1, 1), (1, 0)])
def test_irreps_that_do_not_exist_are_refused(degree, parity):
    with pytest.raises(OperatorArgumentError, match="edge rotations"):
        EDGE_ROTATION(torch.randn(2, 3), degree, parity)
