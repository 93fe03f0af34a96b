import pytest
import torch
from e3nn.o3 import Irreps

from tests.oracles import deeph_e3_e3nn as oracle
from tracegrad.nn.edge_frame import EdgeFrame
from tracegrad.nn.graph_norm import GraphNorm

ALL = Irreps("2x0o+3x0e+4x1o+2x1e+3x2e+1x2o+2x3o")
NO_SCALAR = Irreps("2x0o+4x1o+3x2e")


def make_norm(irreps: Irreps) -> GraphNorm:
    norm = GraphNorm(irreps).double()
    for parameter in norm.parameters():  # the start, ones and zeros, would hide mistakes
        parameter.data = torch.randn_like(parameter)
    return norm


def make_feature(irreps: Irreps, items: int) -> list[torch.Tensor]:
    return [torch.randn(items, ir.dim, mul, dtype=torch.float64) + 0.4 for mul, ir in irreps]


def literal(norm: GraphNorm, x: list[torch.Tensor], batch: torch.Tensor) -> list[torch.Tensor]:
    """Graph by graph, component by component, number by number."""
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


# Graphs of different sizes, one item among them, not in order of size, and one graph alone.
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
    for found, expected in zip(norm(x, batch, counts), literal(norm, x, batch), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", BATCHES)
def test_frames_of_the_items_make_no_difference(case):
    norm = make_norm(ALL)
    batch, counts = make_batch(case)
    x = make_feature(ALL, len(batch))
    vectors = torch.randn(len(batch), 3, dtype=torch.float64)
    vectors[::4] = 0
    frame = EdgeFrame(vectors)
    irreps = [ir for _, ir in ALL]
    local = [frame.to_local(part, ir) for part, ir in zip(x, irreps, strict=True)]
    found = [
        frame.to_global(part, ir) for part, ir in zip(norm(local, batch, counts, frame), irreps, strict=True)
    ]
    for a, b in zip(found, norm(x, batch, counts), strict=True):
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
    local = norm([frame.to_local(p, ir) for p, ir in zip(x, irreps, strict=True)], batch, counts, frame)
    turned = [frame.to_global(p, ir) for p, ir in zip(local, irreps, strict=True)]
    found, expected = torch.cat([part.mT.flatten(1) for part in turned], dim=1), plain(flat, batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    direction = torch.randn_like(found)
    ours = torch.autograd.grad((found * direction).sum(), [*x, *norm.weights, norm.bias])
    theirs = torch.autograd.grad((expected * direction).sum(), [*x, plain.weight, plain.bias])
    weights = torch.cat(ours[len(x) : -1])
    for a, b in zip([*ours[: len(x)], weights, ours[-1]], theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_a_batch_equals_its_graphs_and_graphs_without_items_do_no_harm():
    norm = make_norm(ALL)
    sizes = [4, 0, 3, 0]
    x = make_feature(ALL, 7)
    batch = torch.arange(4).repeat_interleave(torch.tensor(sizes))
    inputs = [part.clone().requires_grad_() for part in x]
    together = norm(inputs, batch, torch.tensor(sizes).double())
    for start, size in ((0, 4), (4, 3)):
        alone = norm(
            [part[start : start + size] for part in x],
            torch.zeros(size, dtype=torch.long),
            torch.tensor([float(size)]).double(),
        )
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a, b[start : start + size], rtol=0, atol=1e-13)
    gradients = torch.autograd.grad(sum(part.square().sum() for part in together), inputs)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_it_starts_without_scale_and_bias():
    norm = GraphNorm(Irreps("2x0e+3x1o"))
    assert [weight.tolist() for weight in norm.weights] == [[1, 1], [1, 1, 1]]
    assert norm.bias.tolist() == [0, 0]
