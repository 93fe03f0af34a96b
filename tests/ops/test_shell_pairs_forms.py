"""The forms of the operator `expand`; test_shell_pairs compares the plain form with literal sums."""

import pickle

import pytest
import torch
from torch import Tensor

from tests.ops.forms import (
    assert_forms_agree,
    assert_refuses_other_dtypes,
    assert_refuses_other_shapes,
    assert_registered,
)
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.nn.item_first.shell_pairs import ShellPairExpansion
from tracegrad.ops import native
from tracegrad.ops.errors import OperatorArgumentError, OperatorIndexError
from tracegrad.ops.shell_pairs.expand import EXPAND
from tracegrad.ops.shell_pairs.maps import ExpansionMap, SparseMap

pytestmark = pytest.mark.usefixtures("unchecked")
SHELLS = {"few": {6: (0, 1)}, "many": {16: (0, 1), 42: (0, 0, 1, 2)}, "high": {57: (1, 3)}}
CASES = pytest.mark.parametrize(
    ("name", "spinful"), [("few", True), ("many", False), ("many", True), ("high", False)]
)


def make(
    name: str, items: int, *, spinful: bool, dtype: torch.dtype = torch.float64
) -> tuple[ShellPairExpansion, list[Tensor], list[Tensor | None]]:
    """Expansion, features in the frames of the items, and rotations of most irreps to the global frame."""
    expansion = ShellPairExpansion(OrbitalBasis.openmx(SHELLS[name], spinful=spinful))
    generator = torch.Generator().manual_seed(0)
    x = [
        torch.randn(items, ir.dim, mul, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
        for mul, ir in expansion.irreps
    ]
    frame = EdgeFrame(torch.randn(items, 3, dtype=torch.float64, generator=generator))
    rotations = [
        None if ir in ("0e", "1o") else frame.rotation(ir.l, ir.p).to(dtype) for _, ir in expansion.irreps
    ]
    return expansion, x, rotations


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("items", [0, 3, 16, 41])
@CASES
def test_the_cpu_form_agrees(name, spinful, items, threads, monkeypatch):
    monkeypatch.setattr(native, "SMALLEST_SHARE", 1)
    torch.set_num_threads(threads)
    expansion, x, rotations = make(name, items, spinful=spinful)
    assert_forms_agree(EXPAND, (x, rotations, expansion.map.key), devices=["CPU"])


@pytest.mark.parametrize(("items", "spinful"), [(3, False), (17, True), (0, False)])
def test_the_gpu_form_agrees(items, spinful):
    expansion, x, rotations = make("few", items, spinful=spinful)
    assert_forms_agree(EXPAND, (x, rotations, expansion.map.key), devices=["CUDA"])


def test_it_is_registered_as_torch_expects():
    expansion, x, rotations = make("few", 3, spinful=False)
    assert_registered(EXPAND, (x, rotations, expansion.map.key))


def test_strides_of_views_are_respected():
    expansion, x, rotations = make("many", 5, spinful=True)
    strided = [part.detach().transpose(0, 2).contiguous().transpose(0, 2) for part in x]
    transposed = [None if r is None else r.transpose(1, 2).contiguous().transpose(1, 2) for r in rotations]
    torch.testing.assert_close(expansion(strided, transposed), expansion(x, rotations), rtol=0, atol=1e-13)


def test_the_transposed_map_is_the_transpose():
    expansion, _, _ = make("many", 1, spinful=True)
    cpu, size = torch.device("cpu"), expansion.irreps.dim

    def dense(sparse: SparseMap) -> Tensor:
        matrix = torch.zeros(size, size, dtype=torch.float64)
        values, starts, columns = sparse.values(matrix), sparse.starts(cpu), sparse.columns(cpu).long()
        for target, first, last in zip(sparse.targets(cpu), starts, starts[1:], strict=False):
            matrix[target, columns[first:last]] = values[first:last]
        return matrix

    forward, transpose = dense(expansion.map.forward), dense(expansion.map.transpose)
    assert torch.equal(forward.T, transpose)
    assert forward.any(dim=1).all()


def test_maps_whose_entries_do_not_fit_are_refused():
    row, column = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 3, 1, 2])
    value = torch.randn(4, dtype=torch.float64)
    for wrong in ((row - 1, column, value), (row * 2, column, value), (row, column - 1, value)):
        with pytest.raises(OperatorIndexError):
            SparseMap.of(*wrong)
    for wrong in ((row[:-1], column, value), (row, column, value[1:])):
        with pytest.raises(OperatorArgumentError, match="each entry has one"):
            SparseMap.of(*wrong)
    with pytest.raises(OperatorArgumentError, match="not adjacent"):
        SparseMap.of(row[[0, 2, 1, 3]], column, value)
    with pytest.raises(OperatorIndexError):
        SparseMap.of(row, column + 2**31, value)


def test_a_map_is_registered_again_where_a_network_is_loaded(monkeypatch):
    expansion, x, rotations = make("few", 3, spinful=False)
    expected, saved = expansion(x, rotations), pickle.dumps(expansion)
    monkeypatch.setattr(ExpansionMap, "_by_key", {})
    torch.testing.assert_close(pickle.loads(saved)(x, rotations), expected)


def test_second_derivatives():
    expansion, x, rotations = make("few", 2, spinful=True)

    def squares(*parts: Tensor) -> Tensor:
        return expansion(list(parts), rotations).abs().square()

    assert torch.autograd.gradcheck(squares, x)
    assert torch.autograd.gradgradcheck(squares, x)


def test_rotations_may_have_a_gradient():
    expansion, x, _ = make("few", 3, spinful=False)
    vectors = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)

    for part in x:  # along the edges, so that nothing depends on the rotation of a frame about its edge
        across = torch.arange(part.shape[1]) != part.shape[1] // 2
        part.data[:, across] = 0

    def blocks(vectors: Tensor) -> Tensor:
        frame = EdgeFrame(vectors)
        return expansion(x, [frame.rotation(ir.l, ir.p) if ir.l else None for _, ir in expansion.irreps])

    assert torch.autograd.gradcheck(blocks, vectors)


def test_without_a_compiler_the_plain_form_is_used(monkeypatch):
    expansion, x, rotations = make("many", 3, spinful=True)
    expected = expansion(x, rotations)
    monkeypatch.setattr(native, "file_library", lambda *_: None)
    torch.testing.assert_close(expansion(x, rotations), expected, rtol=0, atol=1e-13)


def test_other_shapes_and_dtypes_are_refused():
    expansion, x, rotations = make("few", 3, spinful=False)
    assert_refuses_other_shapes(EXPAND, (x, rotations, expansion.map.key))
    assert_refuses_other_dtypes(EXPAND, (x, rotations, expansion.map.key))
