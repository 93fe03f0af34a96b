"""The forms of the operator `block_errors`: values, gradients, and what they refuse."""

import pytest
import torch

from tests.ops.forms import (
    assert_forms_agree,
    assert_refuses_other_dtypes,
    assert_refuses_other_shapes,
    assert_registered,
)
from tracegrad.ops import native
from tracegrad.ops.block_errors.block_errors import BLOCK_ERRORS
from tracegrad.ops.errors import OperatorIndexError
from tracegrad.ops.gpu import triton

pytestmark = pytest.mark.usefixtures("unchecked")
ENDS = torch.tensor([[0, 1, 2, 2, 1, 0, 3], [1, 0, 0, 2, 1, 0, 3]])
SAMPLE = torch.tensor([0, 0, 2, 0])  # sample 1 has no blocks
WEIGHTS = pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 0.0), (0.0, 2.0)])


def arguments(parts=1, weights=(1.0, 1.0), *, row=5, column=5, n=7):
    blocks, labels = torch.randn(2, n, row, column, parts, dtype=torch.float64)
    labels[:, 0] = blocks[:, 0]  # where |d| has no derivative
    rows = (torch.rand(4, row) < 0.7).double()
    columns = (torch.rand(4, column) < 0.7).double()
    return blocks, labels, rows, columns, ENDS[:, :n], SAMPLE, 3, *weights


@WEIGHTS
@pytest.mark.parametrize("parts", [1, 2])
def test_all_forms_agree(parts, weights):
    assert_forms_agree(BLOCK_ERRORS, arguments(parts, weights))


@pytest.mark.parametrize(("row", "column"), [(1, 1), (6, 3), (35, 34)])
def test_other_sizes(row, column):
    """The largest has more elements than a program takes at once."""
    assert_forms_agree(BLOCK_ERRORS, arguments(row=row, column=column), atol=1e-11)


def test_no_blocks():
    empty = arguments(n=0)
    assert_forms_agree(BLOCK_ERRORS, empty)
    assert [x.tolist() for x in BLOCK_ERRORS(*empty)] == [[0, 0, 0]] * 2


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("parts", [1, 2])
def test_equals_a_loop(parts, threads, monkeypatch):
    monkeypatch.setattr(native, "SMALLEST_SHARE", 1)
    torch.set_num_threads(threads)
    blocks, labels, rows, columns, ends, sample, *_ = fit = arguments(parts)
    expected = torch.zeros(2, 3, dtype=torch.float64)
    for block, label, dst, src in zip(blocks, labels, *ends.tolist(), strict=True):
        for i in rows[dst].nonzero().flatten().tolist():
            for j in columns[src].nonzero().flatten().tolist():
                d = complex(*(block[i, j] - label[i, j]).tolist())
                expected[:, sample[dst]] += torch.tensor([abs(d) ** 2 + abs(d), 1.0], dtype=torch.float64)
    torch.testing.assert_close(torch.stack(BLOCK_ERRORS(*fit)), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("parts", [1, 2])
def test_second_derivatives(parts):
    blocks, labels, rows, columns, *others = arguments(parts, row=2, column=2)
    blocks, labels = (torch.randn_like(x, requires_grad=True) for x in (blocks, labels))

    def errors(blocks, labels):
        return BLOCK_ERRORS(blocks, labels, rows, columns, *others)[0]

    assert torch.autograd.gradcheck(errors, (blocks, labels))
    assert torch.autograd.gradgradcheck(errors, (blocks, labels))


@pytest.mark.parametrize("parts", [1, 2])
def test_it_is_registered_as_torch_expects(parts):
    assert_registered(BLOCK_ERRORS, arguments(parts))


def test_other_shapes_and_dtypes_are_refused():
    assert_refuses_other_shapes(BLOCK_ERRORS, arguments())
    assert_refuses_other_dtypes(BLOCK_ERRORS, arguments())


@pytest.mark.parametrize(("place", "limit"), [(4, 4), (5, 3)])
@pytest.mark.parametrize("value", [-1, None, 2**40])
def test_indices_out_of_range(place, limit, value):
    """An error on the CPU; on a GPU NaN in what would need the missing item."""
    fit = list(arguments())
    fit[place] = fit[place].clone()
    fit[place].view(-1)[0] = limit if value is None else value
    with pytest.raises(OperatorIndexError, match="within 0"):
        BLOCK_ERRORS(*fit)
    if triton() is None:
        return
    form, gradient = BLOCK_ERRORS.forms["CUDA"]
    assert form(*fit)[0][0].isnan()
    made = gradient([torch.ones(3, dtype=torch.float64)] * 2, *fit, [True, True] + [False] * 4)
    assert all(x[0].isnan().all() for x in made)
    assert all(x[2].isfinite().all() for x in made)


@pytest.mark.parametrize("device", ["plain", "CPU", "CUDA"])
def test_differences_whose_squares_overflow(device):
    """The derivative of |d| is its sign at any size, so that a diverging run still has gradients."""
    if device == "CUDA" and triton() is None:
        return
    blocks = torch.tensor([[[[1e30], [-1e30]], [[1e-30], [torch.nan]]]])
    ends, none, one = torch.zeros(2, 1, dtype=torch.long), torch.zeros(1, 2, 2, 1), torch.ones(1, 2)
    fit = (blocks, none, one, one, ends, ends[0], 1, 0.0, 1.0)
    form, gradient = (
        (BLOCK_ERRORS.plain, BLOCK_ERRORS.plain_gradient) if device == "plain" else BLOCK_ERRORS.forms[device]
    )
    assert form(*fit)[0].isnan().all()
    (of_blocks,) = gradient([torch.ones(1)] * 2, *fit, [True] + [False] * 5)
    assert of_blocks.flatten()[:3].tolist() == [1, -1, 1]
