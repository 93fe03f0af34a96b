"""The forms of the operator `couple`: values, gradients, and what they refuse."""

import pytest
import torch

from tests.ops.forms import (
    assert_forms_agree,
    assert_refuses_other_dtypes,
    assert_refuses_other_shapes,
    assert_registered,
)
from tracegrad.ops.coupling.couple import COUPLE
from tracegrad.ops.coupling.paths import CouplingPaths
from tracegrad.ops.errors import OperatorIndexError
from tracegrad.ops.gpu import segments, triton

pytestmark = pytest.mark.usefixtures("unchecked")
TRIPLES = (((0, 1, 1), 0.3), ((1, 1, 0), 0.5), ((1, 1, 1), -0.2), ((1, 0, 1), 0.7))
OUT, FIRST, SECOND, ROWS = (
    torch.tensor(x) for x in ([0, 3, 0, 2, 0], [1, 0, 2, 1, 1], [1, 1, 0, 0, 1], [0, 1, 0, 0, 1])
)


def arguments(*, shared=False, second=True, indexed=True, channels=5):
    key = CouplingPaths(TRIPLES, (1, 1, 1), shared=shared).key
    n, paths = len(OUT), len(TRIPLES)
    a = torch.randn(4, 3 if indexed else n, channels, dtype=torch.float64)
    b = torch.randn(4, 2 if indexed else n, *([] if shared else [channels]), dtype=torch.float64)
    w1 = torch.randn(2 if indexed else n, paths, channels, dtype=torch.float64)
    w2 = torch.randn(n, paths, channels, dtype=torch.float64) if second else None
    indices = (FIRST, SECOND, OUT, ROWS, None) if indexed else (None,) * 5
    return a, b, w1, w2, *indices, 4 if indexed else n, key


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("second", [True, False])
@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_all_forms_agree(shared, indexed, second, channels):
    """Items 1 of the output gets nothing; others get several products."""
    assert_forms_agree(COUPLE, arguments(shared=shared, indexed=indexed, second=second, channels=channels))


def test_more_channels_than_a_program_takes():
    assert_forms_agree(COUPLE, arguments(shared=True, channels=70, second=False))


@pytest.mark.parametrize("shared", [True, False])
def test_nothing_to_couple(shared):
    a, b, w1, w2, *_, key = arguments(shared=shared)
    none = torch.zeros(0, dtype=torch.long)
    empty = (a, b, w1, w2[:0], none, none, none, none, None, 4, key)
    assert_forms_agree(COUPLE, empty)
    assert not COUPLE(*empty).any()


@pytest.mark.parametrize("shared", [True, False])
def test_it_is_registered_as_torch_expects(shared):
    assert_registered(COUPLE, arguments(shared=shared))


def test_other_shapes_and_dtypes_are_refused():
    fit = arguments()
    # Items to which no index refers do no harm.
    assert_refuses_other_shapes(COUPLE, fit, harmless=["a longer 1", "b longer 1", "w1 longer 0"])
    assert_refuses_other_dtypes(COUPLE, fit)


@pytest.mark.parametrize("place", [4, 5, 6, 7])
@pytest.mark.parametrize("value", [-1, 4, 2**40])
def test_indices_out_of_range(place, value):
    """An error on the CPU; on a GPU NaN in what would need the missing item."""
    fit = list(arguments())
    fit[place] = fit[place].clone()
    fit[place][1] = value
    with pytest.raises(OperatorIndexError, match="within 0"):
        COUPLE(*fit)
    if triton() is None:
        return
    form, gradient = COUPLE.forms["CUDA"]
    if place != 6:
        assert form(*fit)[:, 3].isnan().all()
        assert form(*fit)[:, [0, 1, 2]].isfinite().all()
    made = gradient([torch.randn(4, 4, 5, dtype=torch.float64)], *fit, [True] * 4 + [False] * 5)
    assert made[3][1].isnan().all()


def test_segments_are_kept_with_their_index():
    index = torch.tensor([2, 0, 2, 1, 9])
    order, starts = segments(index, 4)
    assert order.tolist() == [1, 3, 0, 2, 4]
    assert starts.tolist() == [0, 1, 2, 4, 4]
    assert segments(index, 4)[0] is order
    index[0] = 0
    assert segments(index, 4)[1].tolist() == [0, 2, 3, 4, 4]


def test_gradients_of_views_and_signs_reach_kernels_as_they_are():
    """Expanded, transposed and negated gradients of an operator whose kernel needs contiguous ones."""
    fit = [
        x.requires_grad_() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        for x in arguments()
    ]
    out = COUPLE(*fit)
    parts = torch.randn(*out.shape, 2, dtype=torch.float64)
    negated = torch.view_as_complex(parts).conj().imag
    assert negated.is_neg()
    for gradient in (
        out.new_ones(1, 1, 1).expand(out.shape),
        torch.randn(*out.shape[::-1], dtype=torch.float64).permute(2, 1, 0),
        negated,
    ):
        actual = torch.autograd.grad(out, fit[:4], gradient, retain_graph=True)
        plain = gradient.resolve_neg().contiguous().clone()
        for a, b in zip(actual, torch.autograd.grad(out, fit[:4], plain, retain_graph=True), strict=True):
            assert torch.equal(a, b)


def test_inputs_of_any_strides():
    fit = list(arguments())
    for k in range(4):
        fit[k] = fit[k].transpose(0, 1).contiguous().transpose(0, 1)
    assert_forms_agree(COUPLE, fit)


def test_an_index_that_was_overwritten_is_refused():
    fit = list(arguments())
    fit[0].requires_grad_()
    out = COUPLE(*fit)
    fit[4].add_(0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
