"""The forms of the operators of a low-rank W: values, gradients, and what they refuse."""

import pytest
import torch

from tests.ops.forms import (
    assert_forms_agree,
    assert_refuses_other_dtypes,
    assert_refuses_other_shapes,
    assert_registered,
)
from tracegrad.ops.gpu import triton
from tracegrad.ops.low_rank import block, gpu
from tracegrad.ops.low_rank.block import LOW_RANK_BLOCK
from tracegrad.ops.low_rank.terms import CROSSED_TERMS, INNER_TERMS

pytestmark = pytest.mark.usefixtures("unchecked")
SCALES = [0.6, 1.4]


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


def arguments(items: int = 3, width: int = 5):
    """Of `CROSSED_TERMS`, for irreps of 1 and 3 components."""
    return [normal(m, items, 2, width) for m in (1, 3)], normal(items, width), SCALES


def block_arguments(items: int = 5, *, rank: int = 1, final: bool = True, save_memory: bool = False):
    """Of a block with two channels of degree 0 and three of degree 1, and two linear maps in s_nonlin."""
    norm = [normal(2), normal(2)] if final else [None, None]
    encoder = [normal(4, 3), normal(4), normal(4), normal(4), normal(2, 4), normal(2), *norm]
    feature, weights = [normal(1, items, 2), normal(3, items, 3)], [normal(c, 6 * rank) for c in (2, 3)]
    return feature, weights, encoder, SCALES, 1e-2, rank, save_memory


@pytest.mark.parametrize(("items", "width"), [(3, 5), (1, 1), (2, 19), (0, 4)])
def test_all_forms_of_terms_agree(items, width, monkeypatch):
    monkeypatch.setattr(gpu, "BLOCK", 8)
    terms, factor, scales = arguments(items, width)
    assert_forms_agree(INNER_TERMS, (terms, scales))
    assert_forms_agree(CROSSED_TERMS, (terms, factor, scales))


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize(("items", "rank"), [(5, 1), (3, 2)])
def test_all_forms_of_the_block_agree(items, rank, final, monkeypatch):
    """In chunks of two items."""
    each = 6 * rank * 4
    monkeypatch.setattr(block, "CPU_NUMBERS", 2 * each)
    monkeypatch.setattr(block, "GPU_NUMBERS", 2 * each)
    assert_forms_agree(LOW_RANK_BLOCK, block_arguments(items, rank=rank, final=final), devices=["CPU"])


def test_a_block_without_items():
    """Then there is no chunk for a kernel."""
    feature, weights, *others = block_arguments(0)
    inputs = [x.requires_grad_() for x in (*feature, *weights)]
    made = LOW_RANK_BLOCK(feature, weights, *others)
    assert [x.shape for x in made] == [(0, 2), (1, 0, 2), (3, 0, 3)]
    for x, found in zip(inputs, torch.autograd.grad([x.sum() for x in made], inputs), strict=True):
        assert found.shape == x.shape
        assert not found.count_nonzero()


def test_the_kernels_of_a_gpu_compute_a_block(monkeypatch):
    if triton() is None:
        pytest.skip("Triton is not installed")
    monkeypatch.setattr(block, "cpu", gpu)
    fit = block_arguments(3)
    assert_forms_agree(LOW_RANK_BLOCK, fit, devices=["CPU"])


def test_derivatives_to_second_order():
    terms, factor, scales = arguments(2, 2)
    inputs = [x.requires_grad_() for x in (*terms, factor)]
    for function in (
        lambda *x: INNER_TERMS(x[:2], scales),
        lambda *x: tuple(CROSSED_TERMS(x[:2], x[2], scales)),
    ):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


def test_they_are_registered_as_torch_expects():
    terms, factor, scales = arguments(2, 3)
    assert_registered(INNER_TERMS, ([x.requires_grad_() for x in terms], scales))
    assert_registered(CROSSED_TERMS, (terms, factor.requires_grad_(), scales))
    feature, *others = block_arguments(2)
    assert_registered(LOW_RANK_BLOCK, ([f.requires_grad_() for f in feature], *others))


def test_other_shapes_and_dtypes_are_refused():
    terms, factor, scales = arguments()
    more_components = ["terms shorter 0", "terms longer 0", "terms none"]  # fit any number of terms
    assert_refuses_other_shapes(CROSSED_TERMS, (terms, factor, scales), harmless=more_components)
    assert_refuses_other_dtypes(CROSSED_TERMS, (terms, factor, scales))
    harmless = ["feature shorter 0", "feature longer 0"]
    assert_refuses_other_shapes(LOW_RANK_BLOCK, block_arguments(), harmless=harmless)
