"""Blocks by the kernel against the plain form, which test_shell_pairs compares with literal sums."""

import pytest
import torch
from e3nn.o3 import Irrep
from torch import Tensor

from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.nn.item_first import shell_pairs_kernel
from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.nn.item_first.shell_pairs import ShellPairExpansion
from tracegrad.ops import native

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
    rotations = [None if ir in ("0e", "1o") else frame.rotation(ir).to(dtype) for _, ir in expansion.irreps]
    return expansion, x, rotations


def results(expansion: ShellPairExpansion, x: list[Tensor], rotations) -> list[Tensor]:
    """Blocks, and the gradients of a weighted sum."""
    blocks = expansion(x, rotations)
    weights = torch.randn(blocks.shape, dtype=blocks.dtype, generator=torch.Generator().manual_seed(1))
    return [blocks, *torch.autograd.grad((blocks * weights).sum().real, x)]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("items", [0, 3, 16, 41])
@CASES
def test_equals_the_plain_form_with_gradients(name, spinful, items, dtype, threads, monkeypatch):
    monkeypatch.setattr(native, "SMALLEST_SHARE", 1)
    torch.set_num_threads(threads)
    expansion, x, rotations = make(name, items, spinful=spinful, dtype=dtype)
    before = native.used()
    found = results(expansion, x, rotations)
    assert native.used() == before + 2  # forward and backward
    monkeypatch.setenv(native.SWITCH, "0")
    expected = results(expansion, x, rotations)
    assert native.used() == before + 2
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-5)


def test_strides_of_views_are_respected():
    expansion, x, rotations = make("many", 5, spinful=True)
    strided = [part.detach().transpose(0, 2).contiguous().transpose(0, 2) for part in x]
    transposed = [None if r is None else r.transpose(1, 2).contiguous().transpose(1, 2) for r in rotations]
    torch.testing.assert_close(expansion(strided, transposed), expansion(x, rotations), rtol=0, atol=1e-13)


def test_the_transposed_map_is_the_transpose():
    expansion, _, _ = make("many", 1, spinful=True)

    def dense(sparse: shell_pairs_kernel.SparseMap, rows: int, columns: int) -> Tensor:
        matrix = torch.zeros(rows, columns, dtype=torch.float64)
        values = sparse.values(matrix)
        starts, columns = sparse.starts.values, sparse.columns.values.long()
        for target, first, last in zip(sparse.targets.values, starts, starts[1:], strict=False):
            matrix[target, columns[first:last]] = values[first:last]
        return matrix

    size = expansion.irreps.dim
    forward, transpose = (
        dense(sparse, size, size) for sparse in (expansion._maps.forward, expansion._maps.transpose)
    )
    assert torch.equal(forward.T, transpose)
    assert forward.any(dim=1).all()


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
        return expansion(x, [frame.rotation(ir) if ir.l else None for _, ir in expansion.irreps])

    assert torch.autograd.gradcheck(blocks, vectors)


def test_without_a_compiler_the_plain_form_is_used(monkeypatch):
    expansion, x, rotations = make("many", 3, spinful=True)
    expected = expansion(x, rotations)
    monkeypatch.setattr(native, "library", lambda *source: None)
    torch.testing.assert_close(expansion(x, rotations), expected, rtol=0, atol=1e-13)


@pytest.mark.usefixtures("unchecked")
def test_features_that_do_not_fit_are_refused():
    expansion, x, rotations = make("many", 3, spinful=True)
    with pytest.raises(ValueError, match=r"features of the shapes .* with the same n"):
        expansion([*x[:-1], x[-1][:2]], rotations)
    with pytest.raises(ValueError, match=r"rotation .*: a tensor of shape \(2, 3, 3\)"):
        expansion(x, [*rotations[:-1], EdgeFrame(torch.randn(2, 3).double()).rotation(Irrep("1o"))])
    with pytest.raises(ValueError, match="numbers for each item; the blocks need"):
        expansion([*x[:-1], x[-1][:, :, :0]], rotations)
