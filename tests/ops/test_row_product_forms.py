"""The forms of the operator `row_product`: values, gradients, and what they refuse."""

import pytest
import torch

from tests.ops.forms import (
    assert_refuses_other_dtypes,
    assert_refuses_other_shapes,
    assert_registered,
    close,
    needed_gradients,
)
from tracegrad.ops.errors import OperatorIndexError
from tracegrad.ops.gpu import triton
from tracegrad.ops.row_product.row_product import ROW_PRODUCT

pytestmark = pytest.mark.usefixtures("unchecked")


def arguments(on_site, sizes=((1, 5, 3), (2, 4, 7)), dtype=torch.float64):
    """Sizes: rows of an edge, and shape of the matrix, of each of the rows."""
    rows = [torch.randn(len(on_site), p, u, dtype=dtype) for p, u, _ in sizes]
    matrices = torch.randn(2 * sum(u * w for _, u, w in sizes), dtype=dtype)
    return rows, matrices, torch.tensor(on_site, dtype=torch.long), [w for *_, w in sizes]


CASES = {
    "some on-site": [0, 1, 0, 0, 1],
    "none": [0] * 5,
    "all": [1] * 5,
    "no edges": [],
    "several blocks": [int(k % 7 == 3) for k in range(90)],
}


@pytest.mark.parametrize("device", ["CPU", "CUDA"])
@pytest.mark.parametrize("case", CASES)
def test_all_forms_agree(case, device):
    if device == "CUDA" and triton() is None:
        pytest.skip("no Triton")
    inputs = arguments(
        CASES[case], ((1, 5, 3), (2, 70, 66)) if case == "several blocks" else ((1, 5, 3), (2, 4, 7))
    )
    form, gradient = ROW_PRODUCT.forms[device]
    expected = ROW_PRODUCT.plain(*inputs)
    close(form(*inputs), expected, 1e-12)
    gradients = [torch.randn_like(y) for y in expected]
    for needed in list(needed_gradients(ROW_PRODUCT, inputs))[:3]:
        reference = ROW_PRODUCT.plain_gradient(gradients, *inputs, needed)
        close(gradient(gradients, *inputs, needed), reference, 1e-12)


def test_single_precision():
    inputs = arguments(CASES["several blocks"], ((1, 70, 40), (2, 33, 20)), torch.float32)
    expected = ROW_PRODUCT.plain(*inputs)
    for device in ("CPU", "CUDA") if triton() else ("CPU",):
        close(ROW_PRODUCT.forms[device][0](*inputs), expected, 1e-4)


def test_it_is_registered_as_torch_expects():
    rows, matrices, *rest = arguments(CASES["some on-site"])
    assert_registered(ROW_PRODUCT, ([x.requires_grad_() for x in rows], matrices.requires_grad_(), *rest))


def test_first_and_second_derivatives():
    rows, matrices, *rest = arguments([0, 1, 0], ((1, 2, 1), (2, 1, 2)))
    inputs = [x.requires_grad_() for x in (matrices, *rows)]

    def run(matrices, *rows):
        return tuple(ROW_PRODUCT(list(rows), matrices, *rest))

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


def test_other_shapes_and_dtypes_are_refused():
    fit = arguments(CASES["some on-site"])
    assert_refuses_other_shapes(ROW_PRODUCT, fit, harmless=["rows longer 1", "rows shorter 1"])
    assert_refuses_other_dtypes(ROW_PRODUCT, fit)


@pytest.mark.parametrize("value", [-1, 2])
def test_edges_of_no_kind(value):
    rows, matrices, on_site, columns = arguments(CASES["some on-site"])
    on_site[3] = value
    with pytest.raises(OperatorIndexError, match="within 0"):
        ROW_PRODUCT(rows, matrices, on_site, columns)
    if triton() is None:
        return
    for y in ROW_PRODUCT.forms["CUDA"][0](rows, matrices, on_site, columns):
        assert y[3].isnan().all()
        assert y[:3].isfinite().all()
