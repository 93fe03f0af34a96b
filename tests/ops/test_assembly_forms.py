"""The forms of the operator `assemble`, and what they refuse."""

import pytest
import torch

from tests.ops.forms import assert_refuses_other_dtypes, assert_refuses_other_shapes, close, needs_compiler
from tracegrad.ops.assembly.assembly import ASSEMBLE
from tracegrad.ops.errors import OperatorIndexError
from tracegrad.ops.gpu import triton

pytestmark = pytest.mark.usefixtures("unchecked")
ATOMS = torch.tensor([[0, 0, 1, 2, 2], [1, 1, 0, 0, 0]])
SLOTS = torch.tensor([[2, 0, 1, 1, 2], [0, 2, 2, 1, 0]])
SPANS = torch.tensor([[0, 3, 0], [4, 2, 6]])  # a single atom between both


def arguments(*, subtract=False, dtype=torch.float64):
    triangles = list(torch.randn(2, 15, dtype=torch.float64)) if subtract else []
    on_site, pairs = (torch.randn(count, 3, 3, dtype=torch.float64).to(dtype) for count in (6, 8))
    return on_site, pairs, ATOMS, SLOTS, SPANS, triangles


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("subtract", [False, True])
def test_all_forms_agree_with_loops(subtract, dtype):
    needs_compiler()
    on_site, pairs, *_, triangles = fit = arguments(subtract=subtract, dtype=dtype)
    expected = torch.empty(2, 5, 5, dtype=torch.float64 if subtract else dtype)
    for m, (first, atoms, edge) in enumerate(SPANS.tolist()):
        for i in range(5):
            for j in range(5):
                a, b = int(ATOMS[m, i]), int(ATOMS[m, j])
                block = on_site[first + a] if a == b else pairs[edge + b * (atoms - 1) + a - (a > b)]
                expected[m, i, j] = block[SLOTS[m, i], SLOTS[m, j]]
                if subtract:
                    low, high = sorted((i, j))
                    expected[m, i, j] -= triangles[m][high * (high + 1) // 2 + low]
    for form in (
        ASSEMBLE.plain,
        ASSEMBLE,
        *(ASSEMBLE.forms[k][0] for k in ("CPU", "CUDA") if k == "CPU" or triton()),
    ):
        close([form(*fit)], [expected], 0)


def test_gradients_are_those_of_the_plain_form():
    on_site, pairs, *others = arguments(subtract=True)
    blocks = on_site.requires_grad_(), pairs.requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: ASSEMBLE(*x, *others), blocks)


def test_no_molecules():
    on_site, pairs, *_ = arguments()
    empty = torch.zeros(0, 5, dtype=torch.long)
    for form in (ASSEMBLE, ASSEMBLE.plain, ASSEMBLE.forms["CUDA"][0]):
        assert form(on_site, pairs, empty, empty, torch.zeros(0, 3, dtype=torch.long), []).shape == (
            0,
            5,
            5,
        )


@pytest.mark.parametrize("subtract", [False, True])
def test_it_is_registered_as_torch_expects(subtract):
    torch.library.opcheck(ASSEMBLE.forward, arguments(subtract=subtract))


def test_other_shapes_and_dtypes_are_refused():
    fit = arguments(subtract=True)
    assert_refuses_other_shapes(ASSEMBLE, fit, harmless=["on_site longer 0", "pairs longer 0"])
    assert_refuses_other_dtypes(ASSEMBLE, fit)


@pytest.mark.parametrize(("place", "at"), [(2, (1, 0)), (3, (1, 0)), (4, (1, 0)), (4, (1, 1)), (4, (1, 2))])
@pytest.mark.parametrize("value", [-1, 7, 2**40, -(2**63)])
def test_indices_out_of_range(place, at, value):
    """An error on the CPU; on a GPU NaN in what would need the missing item."""
    fit = list(arguments())
    fit[place] = fit[place].clone()
    fit[place][at] = value
    with pytest.raises(OperatorIndexError):
        ASSEMBLE(*fit)
    if triton() is not None and at != (1, 1):  # another number of atoms may fit
        made = ASSEMBLE.forms["CUDA"][0](*fit)
        assert made[1].isnan().any()
        assert made[0].isfinite().all()
