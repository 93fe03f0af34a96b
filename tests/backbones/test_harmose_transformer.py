import math

import pytest
import torch
from torch import nn
from torch.nn.functional import silu

from tracegrad.backbones.harmose_transformer import EdgeInputs, GraphTransformer

ATOMS, EDGES, HARMONICS, RADIAL, WIDTH, HEADS = 3, 11, 16, 5, 6, 2
INPUTS, OUTPUTS = 7, 4


def inputs_of(parts: list[slice] | None = None, *, recompute: bool = False) -> EdgeInputs:
    generator = torch.Generator().manual_seed(4)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    # Edges 0 to 2 are on-site; edge 3 joins atom 1 to its image.
    ends = torch.cat(
        [torch.tensor([[0, 1, 2, 1], [0, 1, 2, 1]]), torch.randint(ATOMS, (2, 7), generator=generator)], dim=1
    )
    return EdgeInputs(
        ends,
        torch.arange(EDGES) < 3,
        normal(EDGES, HARMONICS),
        normal(EDGES, RADIAL),
        ATOMS,
        parts or [slice(None)],
        recompute,
    )


@pytest.fixture
def network() -> GraphTransformer:
    network = GraphTransformer(INPUTS, HARMONICS, RADIAL, WIDTH, OUTPUTS, 3, HEADS).double()
    for parameter in network.parameters():  # no value that hides a mistake
        nn.init.normal_(parameter, 0.3 if parameter.ndim == 1 else 0.0, 0.6)
    return network


@pytest.fixture
def edge() -> torch.Tensor:
    return torch.randn(EDGES, INPUTS, dtype=torch.float64)


def norm(layer: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean()
    return centred / (centred.square().mean() + layer.eps).sqrt() * layer.weight + layer.bias


def literal(network: GraphTransformer, edge: torch.Tensor, inputs: EdgeInputs) -> torch.Tensor:
    """The formulas of the layers, edge by edge and head by head."""
    atoms, edges = None, list(edge)
    for layer in network.layers:
        merged = []
        for e, y, r in zip(edges, inputs.harmonics, inputs.radial, strict=True):
            parts = [silu(norm(f[1], f[0](x))) for f, x in zip(layer.inputs, (e, y, r), strict=True)]
            merged.append(silu(norm(layer.merge[1], layer.merge[0](torch.cat(parts)))))
        if atoms is None:
            atoms = [merged[i] for i in range(ATOMS)]  # on-site edges are those of atoms 0 .. 2
        attention, updated = layer.attention, []
        for i in range(ATOMS):
            own = [(k, j) for k, (at, j) in enumerate(inputs.ends.T.tolist()) if at == i]
            heads = []
            for head in range(HEADS):
                weights, values = [], []
                for k, j in own:
                    s = torch.cat([atoms[j], merged[k], atoms[i]])
                    q, key = (
                        f(s)[head * WIDTH : (head + 1) * WIDTH] for f in (attention.query, attention.key)
                    )
                    logit = (q @ key / math.sqrt(3 * WIDTH)).clamp(-5, 5)
                    weights.append(logit.exp())
                    size = WIDTH // HEADS
                    values.append(attention.value(s)[head * size : (head + 1) * size])
                alpha = torch.stack(weights) / sum(weights)
                heads.append(sum(a * v for a, v in zip(alpha, values, strict=True)))
            new = norm(attention.norm, atoms[i] + attention.out(torch.cat(heads)))
            hidden = new + layer.atom_in(new)
            updated.append(layer.atom_out[2](silu(norm(layer.atom_out[0], hidden))))
        atoms = updated
        edges = [
            layer.edge_out(
                silu(norm(layer.edge_in[1], layer.edge_in[0](torch.cat([atoms[j], merged[k], atoms[i]]))))
            )
            for k, (i, j) in enumerate(inputs.ends.T.tolist())
        ]
    return torch.stack(edges)


def test_against_the_literal_formulas(network, edge):
    torch.testing.assert_close(
        network(edge, inputs_of()), literal(network, edge, inputs_of()), rtol=0, atol=1e-12
    )
    assert [layer.attention.norm.eps for layer in network.layers] == [1e-6] * 3
    assert {layer.merge[1].eps for layer in network.layers} == {1e-5}


@pytest.mark.parametrize("recompute", [False, True])
def test_parts_of_the_edges_change_nothing(network, edge, recompute):
    def gradients(inputs: EdgeInputs) -> torch.Tensor:
        network.zero_grad()
        network(edge, inputs).square().sum().backward()
        return torch.cat([p.grad.flatten() for p in network.parameters()])

    parts = [slice(start, start + 4) for start in range(0, EDGES, 4)]
    expected = gradients(inputs_of())
    torch.testing.assert_close(
        gradients(inputs_of(parts, recompute=recompute)),
        expected,
        rtol=0,
        atol=1e-12 * float(expected.abs().max()),
    )


def test_equal_logits_give_the_mean_over_the_neighbours(network):
    attention, inputs = network.layers[0].attention, inputs_of()
    nn.init.zeros_(attention.query.weight)
    nn.init.zeros_(attention.query.bias)
    atom, merged = (torch.randn(n, WIDTH, dtype=torch.float64) for n in (ATOMS, EDGES))
    dst, src = inputs.ends
    values = attention.value(torch.cat([atom[src], merged, atom[dst]], dim=1))
    means = torch.stack([values[dst == i].mean(0) for i in range(ATOMS)])
    expected = attention.norm(atom + attention.out(means))
    torch.testing.assert_close(attention(atom, merged, inputs), expected, rtol=0, atol=1e-13)


def test_weights_are_bounded_and_sum_to_one(network):
    """With values of 1 each head is the sum of its weights."""
    attention, inputs = network.layers[0].attention, inputs_of()
    attention.query.weight.data *= 100
    weights, _ = attention.weighted(torch.randn(EDGES, 3 * WIDTH, dtype=torch.float64))
    assert weights.max().item() == pytest.approx(math.exp(5), rel=1e-14)
    assert weights.min().item() == pytest.approx(math.exp(-5), rel=1e-14)
    nn.init.zeros_(attention.value.weight)
    nn.init.ones_(attention.value.bias)
    atom, merged = (torch.randn(n, WIDTH, dtype=torch.float64) for n in (ATOMS, EDGES))
    expected = attention.norm(atom + attention.out(torch.ones_like(atom)))
    torch.testing.assert_close(attention(atom, merged, inputs), expected, rtol=0, atol=1e-13)


def test_the_result_is_zero_at_first(edge):
    network = GraphTransformer(INPUTS, HARMONICS, RADIAL, WIDTH, OUTPUTS, 2, HEADS).double()
    assert torch.equal(network(edge, inputs_of()), torch.zeros(EDGES, OUTPUTS, dtype=torch.float64))


def test_published_widths_have_the_known_number_of_parameters():
    """Of 20 layers of width 256 for MoS2, without the maps of residuals of equal widths, which have no effect."""

    def count(layers: int) -> int:
        with torch.device("meta"):
            network = GraphTransformer(1458, 64, 128, 256, 361, layers, 4)
        return sum(p.numel() for p in network.parameters())

    unused = 256 * 257
    inner = (count(20) - count(4)) / 16
    assert round((inner + unused) / 1e6, 2) == 2.61
    assert round((count(4) + 4 * unused) / 1e6, 1) == 10.9
    assert round((count(6) + 6 * unused) / 1e6, 1) == 16.1
    assert round((count(20) + 20 * unused) / 1e6, 1) == 52.7
