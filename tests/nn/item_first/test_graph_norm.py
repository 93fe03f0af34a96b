import pytest
import torch
from e3nn.o3 import Irreps

from tests.oracles import deeph_e3_e3nn as oracle
from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.nn.item_first.graph_norm import GraphNorm
from tracegrad.ops import native

ALL = Irreps("2x0o+3x0e+4x1o+2x1e+3x2e+1x2o+2x3o")
NO_SCALAR = Irreps("2x0o+4x1o+3x2e")


def make_norm(irreps: Irreps) -> GraphNorm:
    norm = GraphNorm(irreps).double()
    for parameter in norm.parameters():  # the initial ones and zeros would hide mistakes
        parameter.data = torch.randn_like(parameter)
    return norm


def make_feature(irreps: Irreps, items: int) -> list[torch.Tensor]:
    return [torch.randn(items, ir.dim, mul, dtype=torch.float64) + 0.4 for mul, ir in irreps]


def literal(norm: GraphNorm, x: list[torch.Tensor], batch: torch.Tensor) -> list[torch.Tensor]:
    """The norm graph by graph, component by component, number by number."""
    out = []
    for part, weight, (_, ir) in zip(x, norm.weights, norm.irreps, strict=True):
        result = torch.empty_like(part)
        for graph in batch.unique().tolist():
            items = (batch == graph).nonzero().flatten().tolist()
            for m in range(ir.dim):
                values = [float(part[n, m, c]) for n in items for c in range(part.shape[2])]
                mean = sum(values) / len(values)
                variance = sum((value - mean) ** 2 for value in values) / len(values)
                scale = 1 / (variance**0.5 + 1e-5) if ir.l == 0 else 1.0
                for n in items:
                    for c in range(part.shape[2]):
                        bias = norm.bias[c] if str(ir) == "0e" else 0.0
                        result[n, m, c] = (part[n, m, c] - mean) * scale * weight[c] + bias
        out.append(result.detach())
    return out


# Graphs of different sizes, not sorted, one of them with a single item; and single graphs.
BATCHES = {"several": [5, 1, 9, 2], "one": [7], "one item": [1]}


def make_batch(case: str) -> tuple[torch.Tensor, torch.Tensor]:
    counts = torch.tensor(BATCHES[case])
    return torch.arange(len(counts)).repeat_interleave(counts), counts.double()


@pytest.mark.parametrize("irreps", [ALL, NO_SCALAR], ids=["all", "no scalar"])
@pytest.mark.parametrize("case", BATCHES)
def test_equals_a_literal_loop(irreps, case):
    norm = make_norm(irreps)
    batch, counts = make_batch(case)
    x = make_feature(irreps, len(batch))
    for actual, expected in zip(norm(x, batch, counts), literal(norm, x, batch), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", BATCHES)
def test_features_in_frames_of_the_items_give_the_same(case):
    norm = make_norm(ALL)
    batch, counts = make_batch(case)
    x = make_feature(ALL, len(batch))
    vectors = torch.randn(len(batch), 3, dtype=torch.float64)
    vectors[::4] = 0
    frame = EdgeFrame(vectors)
    irreps = [ir for _, ir in ALL]
    local = [frame.to_local(part, ir.l, ir.p) for part, ir in zip(x, irreps, strict=True)]
    actual = [
        frame.to_global(part, ir.l, ir.p)
        for part, ir in zip(norm(local, batch, counts, frame), irreps, strict=True)
    ]
    for a, b in zip(actual, norm(x, batch, counts), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_gradients_are_those_of_the_plain_form():
    norm, plain = make_norm(ALL), oracle.LayerNorm(ALL).double()
    plain.weight.data = torch.cat([weight.data for weight in norm.weights])
    plain.bias.data = norm.bias.data.clone()
    batch, counts = make_batch("several")
    x = [part.requires_grad_() for part in make_feature(ALL, len(batch))]
    flat = torch.cat([part.mT.flatten(1) for part in x], dim=1)
    frame = EdgeFrame(torch.randn(len(batch), 3, dtype=torch.float64))
    irreps = [ir for _, ir in ALL]
    local = norm(
        [frame.to_local(p, ir.l, ir.p) for p, ir in zip(x, irreps, strict=True)], batch, counts, frame
    )
    in_global = [frame.to_global(p, ir.l, ir.p) for p, ir in zip(local, irreps, strict=True)]
    actual, expected = torch.cat([part.mT.flatten(1) for part in in_global], dim=1), plain(flat, batch)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    direction = torch.randn_like(actual)
    ours = torch.autograd.grad((actual * direction).sum(), [*x, *norm.weights, norm.bias])
    theirs = torch.autograd.grad((expected * direction).sum(), [*x, plain.weight, plain.bias])
    weights = torch.cat(ours[len(x) : -1])
    for a, b in zip([*ours[: len(x)], weights, ours[-1]], theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_a_batch_equals_its_graphs_also_with_empty_graphs():
    norm = make_norm(ALL)
    sizes = [4, 0, 3, 0]
    x = make_feature(ALL, 7)
    batch = torch.arange(4).repeat_interleave(torch.tensor(sizes))
    inputs = [part.clone().requires_grad_() for part in x]
    together = norm(inputs, batch, torch.tensor(sizes).double())
    for start, size in ((0, 4), (4, 3)):
        single = norm(
            [part[start : start + size] for part in x],
            torch.zeros(size, dtype=torch.long),
            torch.tensor([float(size)]).double(),
        )
        for a, b in zip(single, together, strict=True):
            torch.testing.assert_close(a, b[start : start + size], rtol=0, atol=1e-13)
    gradients = torch.autograd.grad(sum(part.square().sum() for part in together), inputs)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_it_starts_without_scale_and_bias():
    norm = GraphNorm(Irreps("2x0e+3x1o"))
    assert [weight.tolist() for weight in norm.weights] == [[1, 1], [1, 1, 1]]
    assert norm.bias.tolist() == [0, 0]


def run(norm: GraphNorm, case: str, dtype: torch.dtype, *, framed: bool, every: int) -> list[torch.Tensor]:
    """Features, and gradients of inputs, added features (none for every ``every``-th irrep) and parameters."""
    generator = torch.Generator().manual_seed(2)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(size, dtype=torch.float64, generator=generator).to(dtype)

    batch, counts = make_batch(case)
    n = len(batch)
    x = [draw(n, ir.dim, mul).requires_grad_() for mul, ir in norm.irreps]
    plus = [
        draw(n, ir.dim, mul).requires_grad_() if k % every else None
        for k, (mul, ir) in enumerate(norm.irreps)
    ]
    frame = EdgeFrame(draw(n, 3)) if framed else None
    actual = norm(x, batch, counts.to(dtype), frame, plus)
    total = sum((part * draw(*part.shape)).sum() for part in actual)
    inputs = [*x, *(part for part in plus if part is not None), *norm.parameters()]
    return [*actual, *torch.autograd.grad(total, inputs)]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize("case", [*BATCHES, "many"])
def test_the_kernel_equals_the_plain_form(case, framed, dtype, threads, monkeypatch):
    monkeypatch.setitem(BATCHES, "many", [300, 5, 290])
    monkeypatch.setattr(native, "SMALLEST_SHARE", 1)
    torch.set_num_threads(threads)
    norm = make_norm(Irreps("2x0o+3x0e+4x1o+17x1e+3x2e+40x2o+2x3o")).to(dtype)
    before = native.used()
    actual = run(norm, case, dtype, framed=framed, every=3)
    count = native.used()
    assert count == before + 6  # sums, squares of scalars and the rest, forward and backward
    monkeypatch.setenv(native.SWITCH, "0")
    expected = run(norm, case, dtype, framed=framed, every=3)
    assert native.used() == count
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11 if dtype == torch.float64 else 5e-4)


def test_the_feature_plus_is_added():
    norm = make_norm(ALL)
    batch, counts = make_batch("several")
    x, other = (make_feature(ALL, len(batch)) for _ in range(2))
    plus = [part if k % 2 else None for k, part in enumerate(other)]
    for k, (a, b) in enumerate(zip(norm(x, batch, counts, plus=plus), norm(x, batch, counts), strict=True)):
        torch.testing.assert_close(a, b + other[k] if k % 2 else b, rtol=0, atol=1e-13)


def test_second_derivatives():
    """Of a graph with three items and one with a single item: the cost grows with the square of their number."""
    norm = make_norm(Irreps("1x0e+2x1o+1x2e"))
    batch, counts = torch.tensor([0, 0, 0, 1]), torch.tensor([3.0, 1]).double()
    frame = EdgeFrame(torch.randn(4, 3, dtype=torch.float64))
    weights = list(norm.weights)

    def normed(*x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(norm(list(x[:3]), batch, counts, frame, [None, x[3], None]))

    x = [part.requires_grad_() for part in make_feature(norm.irreps, 4)]
    x.append(torch.randn_like(x[1]).requires_grad_())
    assert torch.autograd.gradcheck(normed, x)
    assert torch.autograd.gradgradcheck(normed, x)
    first = torch.autograd.grad(sum(part.pow(3).sum() for part in normed(*x)), weights, create_graph=True)
    second = torch.autograd.grad(first[1].square().sum(), [x[1], weights[1]])
    assert all(gradient.any() for gradient in second)


def test_frames_may_have_a_gradient():
    norm = make_norm(Irreps("2x1o"))
    batch, counts = make_batch("several")
    x = make_feature(norm.irreps, len(batch))
    vectors = torch.randn(len(batch), 3, dtype=torch.float64, requires_grad=True)
    ir = norm.irreps[0].ir

    def normed(v: torch.Tensor) -> torch.Tensor:
        """In the global frame, where nothing depends on the rotation of a frame about its edge."""
        frame = EdgeFrame(v)
        return frame.to_global(norm([frame.to_local(x[0], ir.l, ir.p)], batch, counts, frame)[0], ir.l, ir.p)

    assert torch.autograd.gradcheck(normed, vectors)


@pytest.mark.usefixtures("unchecked")
def test_items_of_unknown_graphs_are_refused():
    norm = make_norm(Irreps("2x1o"))
    x = make_feature(norm.irreps, 3)
    with pytest.raises(IndexError, match=r"batch: an entry is 2; it must be within 0 \.\. 1"):
        norm(x, torch.tensor([0, 1, 2]), torch.ones(2).double())
    with pytest.raises(ValueError, match=r"feature 0 has the shape \(3, 3, 2\)"):
        norm(x, torch.tensor([0, 1]), torch.ones(2).double())
