"""The forms of the operator `edge_matrices`: values, gradients, and what they refuse."""

import pytest
import torch
from e3nn.o3 import Irreps

from tests.ops.forms import (
    assert_forms_agree,
    assert_refuses_other_dtypes,
    assert_refuses_other_shapes,
    assert_registered,
)
from tracegrad.nn.item_first.edge_product import EdgeProduct
from tracegrad.ops.edge_matrices.edge_matrices import EDGE_MATRICES
from tracegrad.ops.edge_matrices.table import MatrixTable, Submatrix
from tracegrad.ops.errors import OperatorArgumentError

pytestmark = pytest.mark.usefixtures("unchecked")
GOOD = Submatrix(0, 0, 0, 3, 4, 0, 12, 0, 4, 2)  # two paths: 24 numbers of w1 and 8 of w2


def table(*changes):
    """A matrix with two paths, one that shares its weights, and one with a part that is zero."""
    other = Submatrix(1, 1, 0, 3, 4, 0, 12, 0, 4, 2)
    values = [torch.randn(2, dtype=torch.float64) for _ in range(2)]
    return MatrixTable(
        [(3, 4), (4, 4)],
        [(GOOD, values[0]), (other, values[1]), (Submatrix(1, 0, 0, 1, 4), values[0][:0])],
    )


def arguments(key, first=24, second=8):
    return torch.randn(first, dtype=torch.float64), torch.randn(second, dtype=torch.float64), key


def test_all_forms_agree():
    assert_forms_agree(EDGE_MATRICES, arguments(table().key))


def test_forms_agree_for_more_channels_than_a_program_takes():
    inputs = [Irreps("17x0e+2x1o+3x2e"), Irreps("17x0e+2x1o+3x2e"), Irreps("1x0o+3x1e+2x1o")]
    product = EdgeProduct(inputs, Irreps("70x0e+2x1e+2x1o+2x2e"), 4)
    assert_forms_agree(EDGE_MATRICES, arguments(product._matrices.key, len(product.w1), len(product.w2)))


def test_numbers_are_those_of_the_formula():
    key = table().key
    w1, w2, _ = arguments(key)
    made = EDGE_MATRICES(w1, w2, key)
    t = table_values(key)
    expected = sum(t[p] * w1[12 * p : 12 * p + 12].view(3, 4) * w2[4 * p : 4 * p + 4] for p in range(2))
    torch.testing.assert_close(made[:12].view(3, 4), expected)
    assert not made[12:16].any()


def table_values(key):
    from tracegrad.ops.edge_matrices.table import MatrixTable

    return MatrixTable.named(key).values(torch.empty(0, dtype=torch.float64))


def test_it_is_registered_as_torch_expects():
    w1, w2, key = arguments(table().key)
    assert_registered(EDGE_MATRICES, (w1.requires_grad_(), w2.requires_grad_(), key))


def test_other_shapes_and_dtypes_are_refused():
    fit = arguments(table().key)
    assert_refuses_other_shapes(EDGE_MATRICES, fit, harmless=["w1 longer 0", "w2 longer 0"])
    assert_refuses_other_dtypes(EDGE_MATRICES, fit)


@pytest.mark.parametrize(
    "change",
    [
        {"matrix": 1},
        {"matrix": -1},
        {"row": 1},
        {"column": -1},
        {"rows": 4},
        {"start_1": -1},
        {"stride_2": -4},
        {"paths": 3},
        {"paths": 0},
    ],
)
def test_submatrices_that_lie_outside_are_refused(change):
    with pytest.raises(OperatorArgumentError, match="must lie within matrices"):
        MatrixTable([(3, 4)], [(Submatrix(**(GOOD.__dict__ | change)), torch.randn(2))])


def test_submatrices_that_overlap_or_leave_gaps_are_refused():
    t = torch.randn(2)
    with pytest.raises(OperatorArgumentError, match="overlaps another submatrix"):
        MatrixTable([(3, 4)], [(GOOD, t), (GOOD, t)])
    with pytest.raises(OperatorArgumentError, match="belong to no submatrix"):
        MatrixTable([(3, 5)], [(GOOD, t)])
    with pytest.raises(OperatorArgumentError, match="belongs to two couplings"):
        MatrixTable([(3, 4)], [(Submatrix(**(GOOD.__dict__ | {"stride_1": 6})), t)])
