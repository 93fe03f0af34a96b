"""The forms of the operator `graph_norm`."""

import pytest
import torch

from tests.ops.forms import (
    assert_forms_agree,
    assert_refuses_other_dtypes,
    assert_refuses_other_shapes,
    assert_registered,
    close,
)
from tracegrad.ops.errors import OperatorIndexError
from tracegrad.ops.gpu import triton
from tracegrad.ops.graph_norm import gpu
from tracegrad.ops.graph_norm.graph_norm import GRAPH_NORM

pytestmark = pytest.mark.usefixtures("unchecked")
PARTS = ((1, 4), (3, 2), (1, 3), (5, 1))  # components and channels


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch):
    """The interpreter runs one program after another."""
    monkeypatch.setattr(gpu, "SHARES", 2)
    monkeypatch.setattr(gpu, "ITEMS", 4)


def arguments(batch=(0, 2, 2, 0, 2, 0, 2), graphs=3):
    """Graph 1 has no items; features with and without bias, rotation and what is added."""
    n = len(batch)
    x = [torch.randn(n, m, c, dtype=torch.float64) for m, c in PARTS]
    weights = [torch.randn(c, dtype=torch.float64) for _, c in PARTS]
    plus = [None, torch.randn_like(x[1]), torch.randn_like(x[2]), None]
    rotations = [None, torch.linalg.qr(torch.randn(n, 3, 3, dtype=torch.float64))[0], None, None]
    index = torch.tensor(batch, dtype=torch.long)
    counts = torch.bincount(index, minlength=graphs).double()
    return x, weights, [torch.randn_like(weights[0]), None, None, None], plus, rotations, index, counts


@pytest.mark.parametrize(
    "batch", [(0, 2, 2, 0, 2, 0, 2), (2,), (), (0,) * 11], ids=["several", "one", "none", "long"]
)
def test_all_forms_agree(batch):
    assert_forms_agree(GRAPH_NORM, arguments(batch))


def test_sums_of_several_chunks_of_items_agree():
    assert_forms_agree(GRAPH_NORM, arguments(tuple(k % 2 for k in range(600)), 2), devices=["CPU"])


def test_scalars_that_are_all_equal_have_finite_gradients():
    x, *others = arguments()
    assert_forms_agree(GRAPH_NORM, ([torch.ones_like(x[0]), *x[1:]], *others), atol=1e-9)


def test_it_is_registered_as_torch_expects():
    *floating, batch, counts = arguments()
    tensors = [[None if y is None else y.requires_grad_() for y in part] for part in floating[:4]]
    assert_registered(GRAPH_NORM, (*tensors, floating[4], batch, counts))


def test_gradients_that_kernels_do_not_have_are_those_of_the_plain_form():
    given = arguments()
    gradients = [torch.randn_like(y) for y in given[0]]
    rotations = GRAPH_NORM.flags(frozenset({"rotations"}), GRAPH_NORM.rest(given))
    needed = [flag and x is not None for flag, x in zip(rotations, GRAPH_NORM.tensors(given), strict=True)]
    made = GRAPH_NORM.gradient(gradients, *given, needed)
    assert len(made) == 1
    close(made, GRAPH_NORM.plain_gradient(gradients, *given, needed), 0)


def test_other_shapes_and_dtypes_are_refused():
    assert_refuses_other_shapes(GRAPH_NORM, arguments(), harmless=["counts longer 0"])
    assert_refuses_other_dtypes(GRAPH_NORM, arguments())


@pytest.mark.parametrize("graph", [-1, 3])
def test_items_of_graphs_that_do_not_exist(graph):
    """An error on the CPU; on a GPU their results are NaN."""
    given = arguments()
    given[5][1] = graph
    with pytest.raises(OperatorIndexError, match=r"batch: an entry is"):
        GRAPH_NORM(*given)
    if triton() is not None:
        for y in GRAPH_NORM.forms["CUDA"][0](*given):
            assert y[1].isnan().all()
            assert y[[0, 2, 3, 4, 5, 6]].isfinite().all()
