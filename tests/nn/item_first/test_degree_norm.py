import torch

from tracegrad.nn.item_first.degree_norm import DegreeNorm
from tracegrad.nn.item_first.feed_forward import FeedForward
from tracegrad.nn.item_first.scalar_gate import ScalarGate
from tracegrad.ops.edge_rotation.tables import generators

CHANNELS = [4, 3, 2]


def features(items: int = 5) -> list[torch.Tensor]:
    return [torch.randn(items, 2 * k + 1, c, dtype=torch.float64) for k, c in enumerate(CHANNELS)]


def test_against_the_formula_item_by_item():
    norm, x = DegreeNorm(CHANNELS).double(), features()
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    for item, found in enumerate(zip(*norm(x), strict=True)):
        scalars = x[0][item, 0]
        deviation = (scalars - scalars.mean()) / torch.sqrt(scalars.var(correction=0) + 1e-5)
        torch.testing.assert_close(found[0][0], deviation * norm.scalars.weight + norm.scalars.bias)
        squares = [float((x[k][item] ** 2).sum()) / (2 * k + 1) / CHANNELS[k] for k in (1, 2)]
        for k in (1, 2):
            expected = x[k][item] / (1e-5 + sum(squares) / 2) ** 0.5 * norm.weights[k - 1]
            torch.testing.assert_close(found[k], expected)


def test_scalars_alone():
    x = [torch.randn(3, 1, 4)]
    torch.testing.assert_close(DegreeNorm([4])(x)[0].mean(2), torch.zeros(3, 1), rtol=0, atol=1e-6)


def test_feed_forward_with_a_gate_keeps_rotations():
    layer = FeedForward(CHANNELS, [5, 2, 3], ScalarGate).double()
    torch.nn.init.normal_(layer.first.bias)
    x = features()
    angles = torch.randn(3, dtype=torch.float64)
    turns = [torch.matrix_exp(torch.tensordot(angles, generators(k)(angles), 1)) for k in range(3)]
    after = [turn @ part for turn, part in zip(turns, layer(x, x), strict=True)]
    turned = [turn @ part for turn, part in zip(turns, x, strict=True)]
    for a, b, old in zip(layer(turned, turned), after, turned, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        assert (a - old).abs().max() > 0.1
