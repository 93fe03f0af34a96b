import pytest
import torch
from e3nn import o3
from e3nn.o3 import Irreps

from tests.oracles import deeph_e3_e3nn as oracle
from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.nn.item_first.edge_product import EdgeProduct
from tracegrad.ops import native
from tracegrad.ops.edge_matrices.edge_matrices import edge_matrices

LEGACY = pytest.mark.parametrize("legacy", [False, True])
# inputs, output, lmax
CASES = {
    "natural": (["3x0e+2x1o+2x2e", "3x0e+2x1o+2x2e", "4x0e+1x1o+3x3o"], "4x0e+2x1o+3x2e+1x3o", 3),
    "unnatural": (["2x0o+2x1e+1x2o", "2x0o+2x1e+1x2o"], "2x0o+3x1e+1x2o+2x3e", 3),
    "mixed": (
        ["3x0e+2x1o+1x1e+2x2e", "1x2o+2x0e+4x1o", "2x0o+3x3e"],
        "2x0o+3x0e+2x1o+2x1e+1x2o+2x2e+1x3o+2x3e",
        4,
    ),
    "one input": (["2x1o"], "2x0e+1x1e+2x2e", 2),
    "scalars": (["3x0e", "3x0e", "2x0e"], "5x0e+2x1o+2x4e", 4),
    "degree 0 of harmonics": (["2x0e+2x1o", "1x1o"], "2x0e+3x1o", 0),
    "unreachable": (["2x0e+1x1o", "2x0e"], "2x0o+2x0e+1x1e+2x4e", 2),
}


def some_edges() -> tuple[torch.Tensor, torch.Tensor]:
    vectors = torch.randn(9, 3, dtype=torch.float64)
    vectors[[0, 5]] = 0
    vectors[2] = torch.tensor([0.0, 0.0, -1.3])
    return vectors, (vectors == 0).all(1).long()


def plain_form(product: EdgeProduct, *, legacy: bool) -> oracle.RankOneProduct:
    """The product of e3nn for the same irreps."""
    concatenated = Irreps([entry for irreps in product.inputs for entry in irreps])
    harmonics = Irreps.spherical_harmonics(product.lmax)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # e3nn stores its tables in the default dtype
    try:
        plain = oracle.RankOneProduct(concatenated, harmonics, product.output, legacy)
    finally:
        torch.set_default_dtype(previous)
    return plain


def by_triple(product: EdgeProduct, w1: torch.Tensor, w2: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """The parts of w1 and w2 that belong to each path of the plain form, in its order."""
    parts1, parts2 = product.views(w1), product.views(w2, inputs=True)
    weights = []
    for s, irreps in enumerate(product.inputs):
        for mul, ir in irreps:
            having = [t for t, other in enumerate(product.inputs) if ir in other]
            start = sum(product.inputs[t].count(ir) for t in having if t < s)
            for degree in range(product.lmax + 1):
                for o, (_, ir_out) in enumerate(product.output):
                    if ir_out not in ir * o3.Irrep(degree, (-1) ** degree):
                        continue
                    (n,) = (
                        n
                        for n, c in enumerate(product.couplings)
                        if product.kinds[c.source] == ir and c.target == o
                    )
                    path = product.couplings[n].degrees.index(degree)
                    weights.append(
                        (parts1[n][path, start : start + mul], parts2[n][path, having.index(s)][None])
                    )
    return weights


def split(flat: torch.Tensor, irreps: Irreps) -> list[torch.Tensor]:
    """Item-first tensors [edges, 2l + 1, channels] of each irrep."""
    parts = flat.split([entry.dim for entry in irreps], dim=1)
    return [p.view(len(flat), mul, ir.dim).mT for p, (mul, ir) in zip(parts, irreps, strict=True)]


def joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.mT.flatten(1) for part in parts], dim=1)


def in_frames(product: EdgeProduct, inputs: list[torch.Tensor], frame: EdgeFrame) -> list[torch.Tensor]:
    split_inputs = [
        dict(zip([ir for _, ir in irreps], split(x, irreps), strict=True))
        for x, irreps in zip(inputs, product.inputs, strict=True)
    ]
    return [
        frame.to_local(torch.cat([parts[ir] for parts in split_inputs if ir in parts], dim=2), ir.l, ir.p)
        for ir in product.kinds
    ]


@LEGACY
@pytest.mark.parametrize("case", CASES)
def test_equals_the_tensor_product_of_e3nn_with_all_gradients(case, legacy):
    names, output, lmax = CASES[case]
    product = EdgeProduct([Irreps(n) for n in names], Irreps(output), lmax, legacy=legacy).double()
    plain = plain_form(product, legacy=legacy)
    weights = by_triple(product, product.w1.data, product.w2.data)
    assert len(weights) == len(plain.weights1)
    assert sum(a.numel() for a, _ in weights) == product.w1.numel()
    assert sum(b.numel() for _, b in weights) == product.w2.numel()
    for p1, p2, (w1, w2) in zip(plain.weights1, plain.weights2, weights, strict=True):
        p1.data.copy_(w1)
        p2.data.copy_(w2)
    vectors, on_site = some_edges()
    inputs = [torch.randn(9, ir.dim, dtype=torch.float64, requires_grad=True) for ir in product.inputs]
    frame = EdgeFrame(vectors)

    local = product(in_frames(product, inputs, frame), on_site)
    actual = joined(
        [frame.to_global(x, ir.l, ir.p) for x, (_, ir) in zip(local, product.output, strict=True)]
    )
    harmonics = o3.spherical_harmonics(
        Irreps.spherical_harmonics(lmax), vectors[:, [1, 2, 0]], True, normalization="component"
    )
    expected = plain(torch.cat(inputs, dim=1), harmonics)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    assert expected.abs().max() > 0.1

    direction = torch.randn_like(actual)
    ours = torch.autograd.grad((actual * direction).sum(), [*inputs, product.w1, product.w2])
    theirs = torch.autograd.grad(
        (expected * direction).sum(), [*inputs, *plain.weights1, *plain.weights2], allow_unused=True
    )
    count = len(inputs)
    for a, b in zip(ours[:count], theirs[:count], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
    by_path = by_triple(product, ours[count], ours[count + 1])
    flat = [a for a, _ in by_path] + [b for _, b in by_path]
    for a, b in zip(flat, theirs[count:], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_unreachable_irreps_are_zero():
    product = EdgeProduct([Irreps("2x0e+1x1o")], Irreps("2x0o+2x0e+1x4e"), 2).double()
    vectors, on_site = some_edges()
    inputs = [torch.randn(9, 5, dtype=torch.float64)]
    zero, scalar, high = product(in_frames(product, inputs, EdgeFrame(vectors)), on_site)
    assert zero.shape == (9, 1, 2)
    assert high.shape == (9, 9, 1)
    assert zero.abs().max() == high.abs().max() == 0
    assert scalar.abs().max() > 0


@LEGACY
def test_crystals_without_on_site_edges_or_with_nothing_else(legacy):
    names, output, lmax = CASES["mixed"]
    product = EdgeProduct([Irreps(n) for n in names], Irreps(output), lmax, legacy=legacy).double()
    vectors, on_site = some_edges()
    inputs = [torch.randn(9, ir.dim, dtype=torch.float64) for ir in product.inputs]
    x = in_frames(product, inputs, EdgeFrame(vectors))
    together = product(x, on_site)
    for rows in (on_site == 0, on_site == 1):
        separate = product([part[rows] for part in x], on_site[rows])
        for a, b in zip(separate, together, strict=True):
            torch.testing.assert_close(a, b[rows], rtol=0, atol=1e-13)


def test_features_stay_in_full_precision_under_autocast():
    names, output, lmax = CASES["mixed"]
    product = EdgeProduct([Irreps(n) for n in names], Irreps(output), lmax)
    vectors, on_site = some_edges()
    x = in_frames(product, [torch.randn(9, ir.dim) for ir in product.inputs], EdgeFrame(vectors.float()))
    expected = product(x, on_site)
    with torch.autocast("cpu", torch.bfloat16):
        actual = product(x, on_site)
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)


def matrices(product: EdgeProduct) -> list[torch.Tensor]:
    """Matrices of all groups, and gradients of both weights."""
    weights = (product.w1, product.w2)
    actual = product.matrices()
    generator = torch.Generator().manual_seed(3)
    total = (actual * torch.randn(actual.shape, generator=generator).to(actual)).sum()
    return [actual, *torch.autograd.grad(total, weights)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@LEGACY
@pytest.mark.parametrize("case", CASES)
def test_the_kernel_gives_the_matrices_of_the_plain_form(case, legacy, dtype, monkeypatch):
    names, output, lmax = CASES[case]
    product = EdgeProduct([Irreps(n) for n in names], Irreps(output), lmax, legacy=legacy).to(dtype)
    before = native.used()
    actual = matrices(product)
    assert native.used() == before + 2
    monkeypatch.setenv(native.SWITCH, "0")
    expected = matrices(product)
    assert native.used() == before + 2
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-5)


def test_second_derivatives_of_weights():
    names, output, lmax = CASES["degree 0 of harmonics"]
    product = EdgeProduct([Irreps(n) for n in names], Irreps(output), lmax).double()

    def matrices_of(w1: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
        return edge_matrices(w1, w2, product._matrices.key)

    assert torch.autograd.gradcheck(matrices_of, (product.w1, product.w2))
    assert torch.autograd.gradgradcheck(matrices_of, (product.w1, product.w2))


def test_without_a_compiler_the_plain_form_is_used(monkeypatch):
    names, output, lmax = CASES["mixed"]
    product = EdgeProduct([Irreps(n) for n in names], Irreps(output), lmax).double()
    expected = matrices(product)
    monkeypatch.setattr(native, "library", lambda *source: None)
    for a, b in zip(matrices(product), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_weights_that_are_too_short_are_refused():
    names, output, lmax = CASES["natural"]
    product = EdgeProduct([Irreps(n) for n in names], Irreps(output), lmax)
    for weights in ((product.w1[:-1], product.w2), (product.w1, product.w2[:-1])):
        with pytest.raises(ValueError, match="the submatrices need"):
            edge_matrices(*weights, product._matrices.key)
