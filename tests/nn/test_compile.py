"""The models compile into one graph, forward and backward, because the closed form needs no second derivative."""

import pytest
import torch
from e3nn import o3

from tests import forked
from tracegrad.nn.invariant.tracegrad import TraceGradBlock

pytestmark = [pytest.mark.usefixtures("unchecked"), pytest.mark.slow]


@pytest.fixture(autouse=True)
def _fresh():
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("w", ["full", "low_rank"])
def test_a_block_compiles_into_one_graph(w):
    block = TraceGradBlock(o3.Irreps("3x0e+2x1e+2x2e"), 6, 5, w=w, hidden=7).double()
    feature = [
        torch.randn(d, 4, c, dtype=torch.float64, requires_grad=True) for d, c in ((1, 3), (3, 2), (5, 2))
    ]
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")

    def gradients(module):
        z, v = module(feature)
        loss = z.square().sum() + sum(part.square().sum() for part in v)
        return torch.autograd.grad(loss, [*feature, *block.parameters()])

    for a, b in zip(gradients(compiled), gradients(block), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_the_whole_model_compiles_into_one_graph():
    """In a process of its own: torch.compile cannot look through the type checks of the tests."""
    done = forked.run("tests.nn.compiled_model")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "equal"
